"""`SqueezeBertConfig`: the shape of a SqueezeBERT model, checked when it is built.

Same fields, defaults and JSON as the class of the same name in transformers, so either class reads what the other
wrote. The difference is that a configuration no model can be built from is refused here, with the offending values,
instead of failing deep inside a convolution.
"""

from __future__ import annotations

import math
from typing import Any

from transformers.activations import ACT2FN

from ..compat import PreTrainedConfig

__all__ = ["SqueezeBertConfig", "check_config"]

_MODEL_TYPE = "squeezebert"

# convolution, name of its field, channels in, channels out
_GROUPED_CONVS = (
    ("q_groups", "hidden_size", "hidden_size"),
    ("k_groups", "hidden_size", "hidden_size"),
    ("v_groups", "hidden_size", "hidden_size"),
    ("post_attention_groups", "hidden_size", "hidden_size"),
    ("intermediate_groups", "hidden_size", "intermediate_size"),
    ("output_groups", "intermediate_size", "hidden_size"),
)
_POSITIVE = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "embedding_size",
    *(name for name, _, _ in _GROUPED_CONVS),
)


def _check_int(config: Any, name: str, minimum: int) -> int:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return value


def _check_float(config: Any, name: str, low: float, high: float = math.inf) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not low <= value <= high or not math.isfinite(value):
        bounds = f"in [{low}, {high}]" if math.isfinite(high) else f"finite and at least {low}"
        raise ValueError(f"{name} must be {bounds}, got {value}")


def check_config(config: Any) -> None:
    """Refuse a configuration from which no SqueezeBERT can be built.

    Args:
        config: anything with the fields of `SqueezeBertConfig`, transformers' own class included.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a size or a number of groups is below 1; `hidden_size` is no multiple of `num_attention_heads`;
            `embedding_size` differs from `hidden_size`; the channels on either side of a convolution are no multiple of
            its groups; `hidden_act` is no activation that transformers knows; a probability lies outside [0, 1]; an
            epsilon or standard deviation is negative; `pad_token_id` lies outside the vocabulary. The message names the
            fields and their values.
    """
    if not hasattr(config, "embedding_size"):
        raise TypeError(f"config must be a SqueezeBertConfig, got {type(config).__name__}")
    for name in _POSITIVE:
        _check_int(config, name, 1)
    _check_int(config, "num_hidden_layers", 0)
    if config.hidden_size % config.num_attention_heads != 0:
        raise ValueError(
            f"hidden_size ({config.hidden_size}) must be a multiple of num_attention_heads "
            f"({config.num_attention_heads})"
        )
    if config.embedding_size != config.hidden_size:
        raise ValueError(
            f"embedding_size ({config.embedding_size}) must equal hidden_size ({config.hidden_size}): "
            "SqueezeBERT has no projection between the embeddings and the encoder"
        )
    for name, channels_in, channels_out in _GROUPED_CONVS:
        groups = getattr(config, name)
        for channels in (channels_in, channels_out):
            if getattr(config, channels) % groups != 0:
                raise ValueError(f"{channels} ({getattr(config, channels)}) must be a multiple of {name} ({groups})")
    if not isinstance(config.hidden_act, str):
        raise TypeError(f"hidden_act must be a str, got {config.hidden_act!r}")
    if config.hidden_act not in ACT2FN:
        raise ValueError(f"hidden_act {config.hidden_act!r} is unknown; it must be one of {sorted(ACT2FN)}")
    _check_float(config, "hidden_dropout_prob", 0.0, 1.0)
    _check_float(config, "attention_probs_dropout_prob", 0.0, 1.0)
    _check_float(config, "initializer_range", 0.0)
    _check_float(config, "layer_norm_eps", 0.0)
    if config.pad_token_id is not None:
        # nn.Embedding counts a negative padding index from the end.
        pad = _check_int(config, "pad_token_id", -config.vocab_size)
        if pad >= config.vocab_size:
            raise ValueError(f"pad_token_id ({pad}) must be below vocab_size ({config.vocab_size})")


class SqueezeBertConfig(PreTrainedConfig):
    """Shape and hyperparameters of a SqueezeBERT model; the defaults are those of the published one.

    Args:
        vocab_size: rows of the word embedding. The published checkpoints carry 30528, the tokenizer uses 30522 of them.
        hidden_size: channels of the encoder, a multiple of `num_attention_heads` and of every number of groups.
        num_hidden_layers: layers of the encoder.
        num_attention_heads: heads of each attention.
        intermediate_size: channels between the two feed-forward convolutions.
        hidden_act: name of the activation between them, as transformers' `ACT2FN` spells it.
        hidden_dropout_prob: dropout after the embeddings, after `post_attention` and `output`, and before classifiers.
        attention_probs_dropout_prob: dropout on the attention probabilities.
        max_position_embeddings: longest sequence.
        type_vocab_size: number of segment types.
        initializer_range: standard deviation of new weights.
        layer_norm_eps: epsilon of the layer norms of the embeddings and of the masked-LM head. The norms inside the
            encoder always use 1e-12: the published model was trained with that.
        pad_token_id: the row of the word embedding that gets no gradient.
        embedding_size: must equal `hidden_size`; kept because published configurations carry it.
        q_groups, k_groups, v_groups: groups of the three projections of the attention.
        post_attention_groups: groups of the convolution after the attention.
        intermediate_groups, output_groups: groups of the feed-forward convolutions.
        bos_token_id, eos_token_id: unused by the model, kept for transformers.
        tie_word_embeddings: whether the masked-LM decoder shares the word embedding.
        **kwargs: any common field of a transformers configuration (`num_labels`, `id2label`, `problem_type`, ...).

    Raises:
        TypeError, ValueError: as `check_config`.
    """

    model_type = _MODEL_TYPE

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        pad_token_id: int | None = 0,
        embedding_size: int = 768,
        q_groups: int = 4,
        k_groups: int = 4,
        v_groups: int = 4,
        post_attention_groups: int = 1,
        intermediate_groups: int = 4,
        output_groups: int = 4,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.embedding_size = embedding_size
        self.q_groups = q_groups
        self.k_groups = k_groups
        self.v_groups = v_groups
        self.post_attention_groups = post_attention_groups
        self.intermediate_groups = intermediate_groups
        self.output_groups = output_groups
        self.pad_token_id = pad_token_id
        # First, since the checks of transformers 5 stumble over values of a wrong type.
        check_config(self)
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )

    # The base class ties this flag to attn_implementation="eager". Ours returns scores under either implementation.
    @property
    def output_attentions(self) -> bool:
        """Whether a model returns its attention scores when a call does not say."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool) -> None:
        self._output_attentions = value

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read `config.json` as transformers does, refusing one that describes another kind of model.

        Raises:
            ValueError: the file's `model_type` is present and is not "squeezebert", or the file holds no object.
        """
        try:
            config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except (TypeError, AttributeError, IndexError) as error:  # from within, where the JSON is a list, say
            raise ValueError(f"{str(pretrained_model_name_or_path)!r}: config.json holds no JSON object") from error
        if not isinstance(config_dict, dict):
            raise ValueError(f"{str(pretrained_model_name_or_path)!r}: config.json holds no JSON object")
        found = config_dict.get("model_type", _MODEL_TYPE)
        if cls.model_type == _MODEL_TYPE and found != _MODEL_TYPE:
            raise ValueError(
                f"{str(pretrained_model_name_or_path)!r} is not a SqueezeBERT checkpoint: its config.json has "
                f"model_type {found!r}, expected {_MODEL_TYPE!r}"
            )
        return config_dict, kwargs
