"""Our models compute what transformers' SqueezeBERT computes: outputs, losses and the gradient of every parameter."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hf_models import (
    HEADS,
    NO_DROPOUT,
    NO_GROUPS,
    PUBLISHED,
    TINY,
    WITH_LOSS,
    inputs_for,
    labels_for,
    pair,
    relative,
    worst,
)

HIDDEN_STATES = 2e-5  # absolute, fp32, 12 layers
LOGITS = 1e-4  # relative


@pytest.fixture(scope="module")
def published():
    return pair(**PUBLISHED)


@pytest.fixture(scope="module", params=[TINY, NO_GROUPS], ids=["unequal groups", "no groups"])
def small(request):
    return pair(**request.param)


@torch.no_grad()
def compare(models, **inputs):
    theirs, mine = (model(**inputs) for model in models)
    assert worst(mine.last_hidden_state, theirs.last_hidden_state) <= HIDDEN_STATES
    assert worst(mine.pooler_output, theirs.pooler_output) <= HIDDEN_STATES


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 32), (2, 129), (9, 7), (1, 512)])
def test_published_size(published, batch, length):
    compare(published, **inputs_for("SqueezeBertModel", batch, length, vocab=30528, ragged=batch > 1))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 9),
    length=st.one_of(st.integers(1, 40), st.integers(1, 512)),
    ragged=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_batch_length_and_padding(small, batch, length, ragged, seed):
    compare(small, **inputs_for("SqueezeBertModel", batch, length, ragged=ragged, seed=seed))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_configuration(data):
    heads = data.draw(st.sampled_from([1, 2, 3, 5]))
    size = heads * data.draw(st.sampled_from([1, 4, 6, 13]))
    inner = data.draw(st.integers(1, 5)) * data.draw(st.sampled_from([size, 12, 7]))

    def groups(*channels):
        return data.draw(st.sampled_from([g for g in range(1, size + 1) if all(c % g == 0 for c in channels)]))

    models = pair(
        vocab_size=50,
        hidden_size=size,
        embedding_size=size,
        num_attention_heads=heads,
        intermediate_size=inner,
        num_hidden_layers=data.draw(st.integers(1, 3)),
        max_position_embeddings=40,
        q_groups=groups(size),
        k_groups=groups(size),
        v_groups=groups(size),
        post_attention_groups=groups(size),
        intermediate_groups=groups(size, inner),
        output_groups=groups(size, inner),
        hidden_act=data.draw(st.sampled_from(["gelu", "relu", "gelu_new", "silu", "gelu_pytorch_tanh", "tanh"])),
    )
    # Heads of one channel make layer norms of near-constant rows, which amplify rounding.
    inputs = inputs_for("SqueezeBertModel", data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40)), vocab=50)
    with torch.no_grad():
        theirs, mine = (model.double()(**inputs) for model in models)
        assert worst(mine.last_hidden_state, theirs.last_hidden_state) <= 1e-9
        theirs, mine = (model.float()(**inputs) for model in models)
    if size >= 8:
        assert worst(mine.last_hidden_state, theirs.last_hidden_state) <= 1e-4


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("fields", [TINY, NO_GROUPS], ids=["unequal groups", "no groups"])
def test_heads_scores_and_hidden_states(name, fields):
    models = pair(name, **fields)
    inputs = inputs_for(name)
    for asked in ({}, {"output_attentions": True, "output_hidden_states": True}):
        with torch.no_grad():
            theirs, mine = (model(**inputs, **asked) for model in models)
            as_tuple = models[1](**inputs, **asked, return_dict=False)
        assert list(mine.keys()) == list(theirs.keys())
        assert type(mine) is type(theirs)
        assert isinstance(as_tuple, tuple)
        assert len(as_tuple) == len(theirs.to_tuple())
        for key, want in theirs.items():
            wants, gots = (x if isinstance(x, tuple) else (x,) for x in (want, mine[key]))
            assert len(gots) == len(wants) == (1 if torch.is_tensor(want) else len(wants))
            for a, b in zip(gots, wants, strict=True):
                assert relative(a, b) <= LOGITS, key
        assert torch.equal(as_tuple[0], mine[0])


def test_scores_are_those_before_the_softmax_with_the_mask_added():
    _, mine = pair(**TINY)
    inputs = inputs_for("SqueezeBertModel")
    scores = mine(**inputs, output_attentions=True).attentions[0]
    hidden = (inputs["attention_mask"] == 0)[:, None, None, :].expand(scores.shape)
    assert (scores[hidden] == torch.finfo(torch.float32).min).all()
    assert scores[~hidden].abs().max() < 100


@pytest.mark.parametrize("name", WITH_LOSS)
@pytest.mark.parametrize("fields", [TINY, NO_GROUPS], ids=["unequal groups", "no groups"])
@pytest.mark.parametrize("training", [False, True])
def test_losses_and_gradients(name, fields, training):
    models = pair(name, **fields, **NO_DROPOUT)
    inputs = {**inputs_for(name), **labels_for(name)}
    losses = []
    for model in models:
        model.train(training)
        loss = model(**inputs).loss
        loss.backward()
        losses.append(loss)
    assert relative(losses[1], losses[0]) <= LOGITS
    compare_gradients(*models)


def compare_gradients(theirs, mine):
    wanted = dict(theirs.named_parameters())
    largest = max(p.grad.abs().max().item() for p in wanted.values() if p.grad is not None)
    found = dict(mine.named_parameters())
    assert found.keys() == wanted.keys()
    for name, parameter in wanted.items():
        got = found[name].grad
        if parameter.grad is None:
            assert got is None, name
            continue
        assert got is not None, name
        # The second term is for gradients that are zero but for rounding, such as those of the keys' biases.
        assert worst(got, parameter.grad) <= 1e-4 * parameter.grad.abs().max().item() + 1e-6 * largest, name


def test_gradients_at_the_published_width():
    fields = {"num_hidden_layers": 2, "vocab_size": 500, **NO_DROPOUT}
    models = pair("SqueezeBertForMaskedLM", **fields)
    inputs = {
        **inputs_for("SqueezeBertForMaskedLM", 2, 33, vocab=500),
        **labels_for("SqueezeBertForMaskedLM", 2, 33, vocab=500),
    }
    for model in models:
        model.train()
        model(**inputs).loss.backward()
    compare_gradients(*models)


def test_gradient_of_inputs_embeds():
    models = pair(**TINY, **NO_DROPOUT)
    given = [torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(3)).requires_grad_() for _ in models]
    for model, embeds in zip(models, given):
        model(
            inputs_embeds=embeds, attention_mask=inputs_for("", 2, 9)["attention_mask"]
        ).pooler_output.sum().backward()
    assert relative(given[1].grad, given[0].grad) <= 1e-4


@pytest.mark.parametrize(
    ("problem", "labels", "kind"),
    [
        (None, 1, "float"),
        (None, 3, "long"),
        (None, 3, "int"),
        (None, 3, "multi"),
        ("regression", 1, "column"),
        ("regression", 3, "multi"),
        ("single_label_classification", 3, "long"),
        ("multi_label_classification", 3, "multi"),
    ],
)
def test_sequence_classification_losses(problem, labels, kind):
    models = pair("SqueezeBertForSequenceClassification", **TINY, num_labels=labels, problem_type=problem)
    generator = torch.Generator().manual_seed(2)
    target = {
        "float": lambda: torch.randn(3, generator=generator),
        "column": lambda: torch.randn(3, 1, generator=generator),
        "long": lambda: torch.tensor([0, 2, 1]),
        "int": lambda: torch.tensor([0, 2, 1]),
        "multi": lambda: torch.randint(0, 2, (3, labels), generator=generator).float(),
    }[kind]()
    theirs, mine = (model(**inputs_for(""), labels=target) for model in models)
    assert relative(mine.loss, theirs.loss) <= LOGITS
    assert models[0].config.problem_type == models[1].config.problem_type is not None


def test_question_answering_ignores_positions_past_the_end():
    models = pair("SqueezeBertForQuestionAnswering", **TINY)
    for start, end in (([0, 99, 5], [3, 99, 17]), ([-4, 2, 1], [9, 3, 16])):
        given = {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)[:, None]}
        theirs, mine = (model(**inputs_for(""), **given) for model in models)
        assert relative(mine.loss, theirs.loss) <= LOGITS
    assert models[1](**inputs_for(""), start_positions=torch.tensor([0, 1, 2])).loss is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_float32_as_that_of_transformers(dtype):
    theirs, mine = pair(**TINY)
    inputs = inputs_for("SqueezeBertModel")
    with torch.no_grad():
        exact = theirs.double()(**inputs).last_hidden_state
        their_error = worst(theirs.to(dtype)(**inputs).last_hidden_state.double(), exact)
        got = mine.to(dtype)(**inputs).last_hidden_state
    assert got.dtype == dtype
    assert worst(got.double(), exact) <= 1.5 * their_error


def test_autocast_is_as_near_to_float32_as_that_of_transformers():
    theirs, mine = pair(**TINY)
    inputs = inputs_for("SqueezeBertModel")
    with torch.no_grad():
        exact = theirs(**inputs).last_hidden_state
        with torch.autocast("cpu", dtype=torch.bfloat16):
            their_error = worst(theirs(**inputs).last_hidden_state.float(), exact)
            for asked in ({}, {"output_attentions": True}):
                got = mine(**inputs, **asked).last_hidden_state.float()
                assert got.isfinite().all()
                assert worst(got, exact) <= 1.5 * their_error
