"""SqueezeBERT with a task's head on top, and where transformers' Auto classes find each.

Weights, outputs and losses are those of the transformers classes of the same names. Every `forward` takes the
arguments of `SqueezeBertModel.forward`, raises what it raises, and returns an output object or, with
`return_dict=False`, the tuple of its fields that are not None.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from ..compat import TRANSFORMERS_5
from .configuration import SqueezeBertConfig
from .inputs import check_labels
from .squeezebert import SqueezeBertModel, SqueezeBertPreTrainedModel, wants_return_dict

__all__ = [
    "ARCHITECTURES",
    "AUTO_CLASSES",
    "SqueezeBertForMaskedLM",
    "SqueezeBertForMultipleChoice",
    "SqueezeBertForQuestionAnswering",
    "SqueezeBertForSequenceClassification",
    "SqueezeBertForTokenClassification",
]


def _per_token(logits: Tensor) -> tuple[tuple[int, ...], ...]:
    """Shapes that labels of every token may have: [batch, length], or flat."""
    batch, length = logits.shape[:2]
    return ((batch, length), (batch * length,))


class SqueezeBertPredictionHeadTransform(nn.Module):
    """LayerNorm(activation(linear(x)))."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform_act_fn = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., channels] to [..., channels]."""
        return self.LayerNorm(self.transform_act_fn(self.dense(hidden_states)))


class SqueezeBertLMPredictionHead(nn.Module):
    """A score for every token of the vocabulary; the decoder's weight is the word embedding unless untied."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.transform = SqueezeBertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        # Published checkpoints carry the bias here, and the decoder adds the same one.
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        if not TRANSFORMERS_5:  # which ties by the table of the model instead
            self.decoder.bias = self.bias

    def _tie_weights(self) -> None:
        """Called by transformers 4 after loading."""
        self.decoder.bias = self.bias

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., channels] to [..., vocabulary]."""
        return self.decoder(self.transform(hidden_states))


class SqueezeBertOnlyMLMHead(nn.Module):
    """Gives the masked-LM head the name it has in checkpoints, `cls.predictions`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.predictions = SqueezeBertLMPredictionHead(config)

    def forward(self, sequence_output: Tensor) -> Tensor:
        """[..., channels] to [..., vocabulary]."""
        return self.predictions(sequence_output)


_BIAS, _TIED_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"
_WORDS, _TIED_WORDS = "transformer.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"


class SqueezeBertForMaskedLM(SqueezeBertPreTrainedModel):
    """Predicts the token at every position."""

    _tied_weights_keys: Any = {_TIED_BIAS: _BIAS, _TIED_WORDS: _WORDS} if TRANSFORMERS_5 else [_TIED_WORDS, _TIED_BIAS]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.transformer = SqueezeBertModel(config)
        self.cls = SqueezeBertOnlyMLMHead(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SqueezeBertLMPredictionHead):
            nn.init.zeros_(module.bias)

    def get_output_embeddings(self) -> nn.Module:
        """The decoder."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder, and with it the bias it shares."""
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        head_mask: None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Score the vocabulary at every position.

        Args:
            labels: int64, [batch, length]: the tokens to predict, -100 where none is. The loss is their mean cross
                entropy.

        Returns:
            `logits`, [batch, length, vocabulary], and with `labels` a scalar `loss`.
        """
        outputs = self.transformer(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds,
            output_attentions, output_hidden_states, True, head_mask=head_mask,
        )  # fmt: skip
        logits = self.cls(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            check_labels("labels", labels, _per_token(logits), logits.shape[-1])
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten().long())
        output = MaskedLMOutput(
            loss=cast(Any, loss),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output if wants_return_dict(self.config, return_dict) else output.to_tuple()


class SqueezeBertForSequenceClassification(SqueezeBertPreTrainedModel):
    """Classifies, or rates, a whole sequence from its pooled first token."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = SqueezeBertModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not isinstance(labels, Tensor):
            raise TypeError(f"labels must be a torch.Tensor, got {type(labels).__name__}")
        config = self.config
        if config.problem_type is None:
            # Guessed once, from the first labels seen, and saved with the model: later calls keep to it.
            if self.num_labels == 1:
                config.problem_type = "regression"
            elif labels.dtype in (torch.long, torch.int):
                config.problem_type = "single_label_classification"
            else:
                config.problem_type = "multi_label_classification"
        batch = logits.shape[0]
        if config.problem_type == "single_label_classification":
            check_labels("labels", labels, ((batch,), (batch, 1)), self.num_labels)
            return F.cross_entropy(logits, labels.flatten().long())
        shapes: tuple[tuple[int, ...], ...] = (tuple(logits.shape),)
        if config.problem_type == "regression":
            if self.num_labels == 1:
                check_labels("labels", labels, ((batch,), *shapes, *(((),) if batch == 1 else ())))
                return F.mse_loss(logits.squeeze(), labels.squeeze())
            check_labels("labels", labels, shapes)
            return F.mse_loss(logits, labels)
        check_labels("labels", labels, shapes)
        if not labels.is_floating_point():
            raise TypeError(f"labels must be floating for {config.problem_type!r}, got {labels.dtype}")
        return F.binary_cross_entropy_with_logits(logits, labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        head_mask: None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Classify.

        Args:
            labels: by `config.problem_type`, which the first labels settle where it is None. "regression" (where there
                is one label): floating, [batch] or [batch, labels], mean squared error. "single_label_classification"
                (integers): [batch], cross entropy. "multi_label_classification" (others): floating, [batch, labels],
                binary cross entropy.

        Returns:
            `logits`, [batch, labels], and with `labels` a scalar `loss`.
        """
        outputs = self.transformer(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds,
            output_attentions, output_hidden_states, True, head_mask=head_mask,
        )  # fmt: skip
        logits = self.classifier(self.dropout(outputs.pooler_output))
        output = SequenceClassifierOutput(
            loss=cast(Any, None if labels is None else self._loss(logits, labels)),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output if wants_return_dict(self.config, return_dict) else output.to_tuple()


def _flatten_choices(name: str, value: Any, dims: int, first: tuple[int, ...] | None) -> Any:
    """[batch, choices, ...] to [batch * choices, ...]."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dim() != dims or (first is not None and tuple(value.shape[:2]) != first):
        like = "[batch, choices" if first is None else f"[{first[0]}, {first[1]}"
        raise ValueError(
            f"{name} must be {like}, length{', channels' if dims == 4 else ''}], got shape {list(value.shape)}"
        )
    return value.flatten(0, 1)


class SqueezeBertForMultipleChoice(SqueezeBertPreTrainedModel):
    """Picks one of several sequences."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.transformer = SqueezeBertModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        head_mask: None = None,
    ) -> MultipleChoiceModelOutput | tuple[Any, ...]:
        """Score the choices.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: [batch, choices, length].
            inputs_embeds: [batch, choices, length, channels].
            labels: int64, [batch]: the right choice. The loss is the mean cross entropy.

        Returns:
            `logits`, [batch, choices], and with `labels` a scalar `loss`. Hidden states and scores have a first
            dimension of batch * choices.
        """
        ids = _flatten_choices("input_ids", input_ids, 3, None)
        embeds = _flatten_choices("inputs_embeds", inputs_embeds, 4, None)
        given = input_ids if input_ids is not None else inputs_embeds
        first = None if given is None else (given.shape[0], given.shape[1])
        outputs = self.transformer(
            ids,
            _flatten_choices("attention_mask", attention_mask, 3, first),
            _flatten_choices("token_type_ids", token_type_ids, 3, first),
            _flatten_choices("position_ids", position_ids, 3, first),
            embeds,
            output_attentions,
            output_hidden_states,
            True,
            head_mask=head_mask,
        )
        assert first is not None  # the call above has refused a call without inputs
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(first)
        loss = None
        if labels is not None:
            check_labels("labels", labels, (first[:1],), first[1])
            loss = F.cross_entropy(logits, labels.long())
        output = MultipleChoiceModelOutput(
            loss=cast(Any, loss),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output if wants_return_dict(self.config, return_dict) else output.to_tuple()


class SqueezeBertForTokenClassification(SqueezeBertPreTrainedModel):
    """Classifies every token."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = SqueezeBertModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        head_mask: None = None,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """Classify every token.

        Args:
            labels: int64, [batch, length]; -100 takes no part in the loss, the mean cross entropy.

        Returns:
            `logits`, [batch, length, labels], and with `labels` a scalar `loss`.
        """
        outputs = self.transformer(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds,
            output_attentions, output_hidden_states, True, head_mask=head_mask,
        )  # fmt: skip
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            check_labels("labels", labels, _per_token(logits), self.num_labels)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten().long())
        output = TokenClassifierOutput(
            loss=cast(Any, loss),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output if wants_return_dict(self.config, return_dict) else output.to_tuple()


class SqueezeBertForQuestionAnswering(SqueezeBertPreTrainedModel):
    """Finds the span that answers a question: a score for each token to start it, and to end it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        if config.num_labels != 2:
            raise ValueError(f"num_labels must be 2 for question answering (start and end), got {config.num_labels}")
        self.transformer = SqueezeBertModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        head_mask: None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """Score the ends of the answer.

        Args:
            start_positions, end_positions: int64, [batch] or [batch, 1]: the answer's first and last token. Positions
                below 0 count as 0, those past the sequence take no part in the loss, the mean of the two cross
                entropies. There is a loss only where both are given.

        Returns:
            `start_logits` and `end_logits`, [batch, length] each, and with both positions a scalar `loss`.
        """
        outputs = self.transformer(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds,
            output_attentions, output_hidden_states, True, head_mask=head_mask,
        )  # fmt: skip
        # Contiguous, as exporters and callers of .view() found them so far.
        start, end = (logits.contiguous() for logits in self.qa_outputs(outputs.last_hidden_state).unbind(-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            batch, length = start.shape
            losses = []
            for name, logits, at in (
                ("start_positions", start, start_positions),
                ("end_positions", end, end_positions),
            ):
                check_labels(name, at, ((batch,), (batch, 1)))
                losses.append(F.cross_entropy(logits, at.reshape(batch).long().clamp(0, length), ignore_index=length))
            loss = (losses[0] + losses[1]) / 2
        output = QuestionAnsweringModelOutput(
            loss=cast(Any, loss),
            start_logits=cast(Any, start),
            end_logits=cast(Any, end),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output if wants_return_dict(self.config, return_dict) else output.to_tuple()


AUTO_CLASSES: dict[str, type[SqueezeBertPreTrainedModel]] = {
    "AutoModel": SqueezeBertModel,
    "AutoModelForMaskedLM": SqueezeBertForMaskedLM,
    "AutoModelForSequenceClassification": SqueezeBertForSequenceClassification,
    "AutoModelForMultipleChoice": SqueezeBertForMultipleChoice,
    "AutoModelForTokenClassification": SqueezeBertForTokenClassification,
    "AutoModelForQuestionAnswering": SqueezeBertForQuestionAnswering,
}
"""Which of our classes stands behind which Auto class of transformers."""

ARCHITECTURES: dict[str, type[SqueezeBertPreTrainedModel]] = {cls.__name__: cls for cls in AUTO_CLASSES.values()}
"""Our classes by name; transformers' own have the same names."""

# Keyed by our configuration class, so only a configuration of ours finds our models: checkpoints that transformers
# opens by their model_type still become its own classes.
for _auto, _model in AUTO_CLASSES.items():
    getattr(transformers, _auto).register(SqueezeBertConfig, _model, exist_ok=True)
