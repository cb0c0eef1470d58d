"""transformers' SqueezeBERT beside ours with the same weights, for the tests."""

import torch
import transformers

from squeezebert_kernels.models.configuration import SqueezeBertConfig
from squeezebert_kernels.models.heads import ARCHITECTURES

HEADS = tuple(ARCHITECTURES)
WITH_LOSS = tuple(name for name in HEADS if name != "SqueezeBertModel")

# The configuration of transformers' own tests: every number of groups but one differs from its neighbours.
TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "embedding_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "q_groups": 2,
    "k_groups": 2,
    "v_groups": 2,
    "post_attention_groups": 2,
    "intermediate_groups": 4,
    "output_groups": 1,
}
NO_GROUPS = {**TINY, **{name: 1 for name in TINY if name.endswith("_groups")}}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PUBLISHED = {"vocab_size": 30528}


def stock(name, **fields):
    """transformers' class of this name with random weights, biases and layer norms included."""
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.SqueezeBertConfig(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


def ours(name, **fields):
    """Our class of this name."""
    torch.manual_seed(1)
    return ARCHITECTURES[name](SqueezeBertConfig(**fields)).eval()


def pair(name="SqueezeBertModel", **fields):
    """(transformers' model, ours) with the same weights, in evaluation mode."""
    theirs, mine = stock(name, **fields), ours(name, **fields)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def inputs_for(name, batch=3, length=17, vocab=99, ragged=True, seed=0):
    """Arguments for a head: ids, segment types and a mask that hides the end of every row but the first."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 2, length) if name == "SqueezeBertForMultipleChoice" else (batch, length)
    lengths = torch.randint(1, length + 1, shape[:-1], generator=generator)
    lengths.view(-1)[0] = length
    mask = (torch.arange(length) < lengths[..., None]).long() if ragged else torch.ones(shape, dtype=torch.long)
    return {
        "input_ids": torch.randint(1, vocab, shape, generator=generator),
        "token_type_ids": torch.randint(0, 2, shape, generator=generator),
        "attention_mask": mask,
    }


def labels_for(name, batch=3, length=17, labels=2, vocab=99):
    """Labels that give a head a loss."""
    generator = torch.Generator().manual_seed(5)

    def draw(high, *shape):
        return torch.randint(0, high, shape, generator=generator)

    if name == "SqueezeBertForQuestionAnswering":
        return {"start_positions": draw(length, batch), "end_positions": draw(length, batch)}
    if name in ("SqueezeBertForSequenceClassification", "SqueezeBertForMultipleChoice"):
        return {"labels": draw(2 if "Choice" in name else labels, batch)}
    found = draw(vocab if "MaskedLM" in name else labels, batch, length)
    found[:, ::3] = -100
    return {"labels": found}


def worst(a, b):
    """Largest absolute difference of two tensors."""
    assert a.shape == b.shape
    return (a.detach() - b.detach()).abs().max().item() if a.numel() else 0.0


def relative(a, b):
    """Largest absolute difference, in units of the largest magnitude of `b`."""
    return worst(a, b) / max(b.detach().abs().max().item(), 1e-30)
