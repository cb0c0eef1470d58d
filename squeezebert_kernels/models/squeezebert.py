"""The SqueezeBERT encoder, weight for weight that of transformers, on the fused kernels.

Formulas: Iandola et al., "SqueezeBERT: What can computer vision teach NLP about efficient neural networks?" (2020), and
the behaviour of transformers' own SqueezeBERT, which defines the checkpoint format. Activations are token-major,
[batch, length, channels], from the first embedding to the last layer.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from ..layers.conv import TokenMajorConv1d, on_token_major
from ..layers.fused_encoder import run_layers
from ..layers.fused_layer import LayerFamily, fused_or_none, plan_of
from ..layers.parts import LayerParts, own_class
from .checkpoints import MismatchError, check_loaded, explain_mismatch, read_shapes, weight_files
from .configuration import SqueezeBertConfig, check_config
from .inputs import additive_mask, check_inputs, has_values, reject_head_mask

__all__ = [
    "SqueezeBertEmbeddings",
    "SqueezeBertEncoder",
    "SqueezeBertModel",
    "SqueezeBertModule",
    "SqueezeBertPreTrainedModel",
    "SqueezeBertSelfAttention",
]

_NORM_EPS = 1e-12
"""Epsilon of the layer norms inside the encoder. It overrides `config.layer_norm_eps`: published weights expect it."""


def _conv(channels_in: int, channels_out: int, groups: int) -> TokenMajorConv1d:
    return TokenMajorConv1d(channels_in, channels_out, groups=groups)


def wants_return_dict(config: Any, return_dict: bool | None) -> bool:
    """Whether a call returns an output object rather than a tuple: what it says, else what the configuration says."""
    if return_dict is not None:
        return return_dict
    return bool(config.return_dict) and not getattr(config, "torchscript", False)


class SqueezeBertEmbeddings(nn.Module):
    """LayerNorm(word + position + token type), then dropout."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Embed token ids.

        Args:
            input_ids: [batch, length], or None with `inputs_embeds`.
            token_type_ids: broadcastable to [batch, length]; None is all 0.
            position_ids: broadcastable to [batch, length]; None counts from 0.
            inputs_embeds: [batch, length, channels] in place of the word embeddings.

        Returns:
            [batch, length, channels].
        """
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        device = inputs_embeds.device
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=device)[None]
        if token_type_ids is None:
            token_type_ids = torch.zeros((1, 1), dtype=torch.long, device=device)
        embeddings = inputs_embeds + self.position_embeddings(position_ids) + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(embeddings))


class SqueezeBertSelfAttention(nn.Module):
    """Multi-head attention whose three projections are grouped 1x1 convolutions; the un-fused path.

    context = softmax(q k^T / sqrt(head size) + mask) v, per head.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.hidden_size
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = size // config.num_attention_heads
        self.all_head_size = size
        self.query = _conv(size, size, config.q_groups)
        self.key = _conv(size, size, config.k_groups)
        self.value = _conv(size, size, config.v_groups)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def _dropout_does_nothing(self) -> bool:
        """Whether leaving out the call of `self.dropout` goes unnoticed."""
        dropout = self.dropout
        hooked = dropout._forward_hooks or dropout._forward_pre_hooks or dropout._backward_hooks
        return type(dropout) is nn.Dropout and not hooked and not (dropout.training and dropout.p > 0)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend.

        Args:
            hidden_states: [batch, length, channels].
            attention_mask: added to the scores, broadcastable to [batch, heads, length, length], or None.
            output_attentions: return the scores too.

        Returns:
            The context, [batch, length, channels]; with `output_attentions` also the scores, mask added, before the
            softmax, [batch, heads, length, length].
        """
        heads = (self.num_attention_heads, self.attention_head_size)
        query, key, value = (
            on_token_major(projection, hidden_states).unflatten(-1, heads).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        scores = None
        if not output_attentions and self.config._attn_implementation != "eager" and self._dropout_does_nothing():
            if attention_mask is not None and attention_mask.dtype != query.dtype:  # autocast narrowed the projections
                attention_mask = additive_mask(attention_mask, query.dtype)
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        else:
            scores = query @ key.transpose(-1, -2) / math.sqrt(self.attention_head_size)
            if attention_mask is not None:
                scores = scores + attention_mask
            probabilities = self.dropout(scores.softmax(dim=-1))
            context = probabilities.to(value.dtype) @ value
        context = context.transpose(1, 2).flatten(2)
        return (context, scores) if output_attentions and scores is not None else context


class ConvDropoutLayerNorm(nn.Module):
    """LayerNorm(dropout(conv(x)) + residual)."""

    def __init__(self, channels_in: int, channels_out: int, groups: int, dropout_prob: float) -> None:
        super().__init__()
        self.conv1d = _conv(channels_in, channels_out, groups)
        self.layernorm = nn.LayerNorm(channels_out, eps=_NORM_EPS)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """[batch, length, channels_in] and a residual [batch, length, channels_out] to the shape of the residual."""
        return self.layernorm(self.dropout(on_token_major(self.conv1d, hidden_states)) + input_tensor)


class ConvActivation(nn.Module):
    """activation(conv(x))."""

    def __init__(self, channels_in: int, channels_out: int, groups: int, act: str) -> None:
        super().__init__()
        self.conv1d = _conv(channels_in, channels_out, groups)
        self.act = ACT2FN[act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[batch, length, channels_in] to [batch, length, channels_out]."""
        return self.act(on_token_major(self.conv1d, hidden_states))


class SqueezeBertModule(GradientCheckpointingLayer):
    """One encoder layer: attention, then a grouped feed-forward network, each with a residual and a layer norm.

    Runs as two fused kernels wherever nothing in it must be observed or changed, else child by child, so that hooks,
    adapters, quantized children and dropout keep their meaning.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        size, inner, dropout = config.hidden_size, config.intermediate_size, config.hidden_dropout_prob
        self.attention = SqueezeBertSelfAttention(config)
        self.post_attention = ConvDropoutLayerNorm(size, size, config.post_attention_groups, dropout)
        self.intermediate = ConvActivation(size, inner, config.intermediate_groups, config.hidden_act)
        self.output = ConvDropoutLayerNorm(inner, size, config.output_groups, dropout)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Arguments and result as `SqueezeBertSelfAttention.forward`, with the layer's output for the context."""
        scores = None
        if not output_attentions:
            fused = fused_or_none(self, plan_of(self, FAMILY), hidden_states, attention_mask)
            if fused is not None:
                return fused
        context = self.attention(hidden_states, attention_mask, output_attentions)
        if output_attentions:
            context, scores = context
        attended = self.post_attention(context, hidden_states)
        output = self.output(self.intermediate(attended), attended)
        return output if scores is None else (output, scores)


def _why_not(layer: Any) -> str | None:
    if "forward" in layer.__dict__ or cast(Any, own_class(layer)).forward is not SqueezeBertModule.forward:
        return f"{type(layer).__name__}.forward is not its own"
    return None


FAMILY = LayerFamily(LayerParts.of_squeezebert, _why_not)
"""Layers of this file."""


class SqueezeBertEncoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SqueezeBertModule(config) for _ in range(config.num_hidden_layers))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Run the layers on [batch, length, channels] with an additive mask (see `SqueezeBertSelfAttention`)."""
        skipped = None
        if not output_attentions:
            skipped = run_layers(
                self, self.layers, FAMILY, hidden_states, attention_mask, every_layer=output_hidden_states
            )
        states: list[Tensor] = skipped or [hidden_states]
        hidden_states = states[-1]
        scores: list[Tensor] = []
        for layer in () if skipped else self.layers:
            result = layer(hidden_states, attention_mask, output_attentions)
            if output_attentions:
                result, layer_scores = result
                scores.append(layer_scores)
            hidden_states = result
            if output_hidden_states:
                states.append(hidden_states)
        output = BaseModelOutput(
            last_hidden_state=cast(Any, hidden_states),
            hidden_states=cast(Any, tuple(states) if output_hidden_states else None),
            attentions=cast(Any, tuple(scores) if output_attentions else None),
        )
        return output if return_dict else output.to_tuple()


class SqueezeBertPooler(nn.Module):
    """tanh(linear(first token))."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[batch, length, channels] to [batch, channels]."""
        return self.activation(self.dense(hidden_states[:, 0]))


class SqueezeBertPreTrainedModel(PreTrainedModel):
    """What every SqueezeBERT model shares: configuration, loading, initialisation."""

    config_class = SqueezeBertConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["SqueezeBertEmbeddings", "SqueezeBertModule"]
    # Without this, Trainer would leave the division by the number of accumulated batches to the model.
    accepts_loss_kwargs = False

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        check_config(config)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Load a checkpoint, local or from the hub, with `PreTrainedModel.from_pretrained`'s arguments.

        Reads what transformers' own class reads: `model.safetensors` or `pytorch_model.bin`, in shards or whole, in any
        floating dtype, with or without a head. Two things differ. Without `dtype` (or `torch_dtype`) the model is
        float32 for any dtype in the file: the published one holds float16, in which CPUs are dozens of times slower.
        And a checkpoint from which the encoder cannot be filled is an error, not a model with random weights.

        Args:
            pretrained_model_name_or_path: a folder, or a name on the hub.
            *model_args, **kwargs: as in transformers.
            output_loading_info: return (model, loading info).

        Returns:
            The model in evaluation mode.

        Raises:
            ValueError: the checkpoint is of another kind of model, unreadable, or lacks weights of the embeddings or
                the encoder (allowed with `ignore_mismatched_sizes=True`), or its shapes do not fit the configuration
                (a RuntimeError too, as in transformers).
            OSError: there is no such checkpoint.
        """
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs.pop("torch_dtype", None)
            kwargs["dtype"] = torch.float32
        path = pretrained_model_name_or_path
        reads_files = path is not None and kwargs.get("state_dict") is None and not kwargs.get("gguf_file")
        if reads_files and not isinstance(kwargs.get("config"), transformers.PretrainedConfig):
            # Looks at model_type first: a foreign checkpoint is better named as such than by the weights it lacks.
            hub = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
            cls.config_class.get_config_dict(
                kwargs.get("config") or path, **{name: kwargs[name] for name in hub if name in kwargs}
            )
        files = weight_files(path, kwargs) if reads_files else []
        shapes = read_shapes(files)
        try:
            model, info = super().from_pretrained(path, *model_args, output_loading_info=True, **kwargs)
        except RuntimeError as error:
            config = kwargs.get("config")
            if not isinstance(config, transformers.PretrainedConfig):
                fields = {name: value for name, value in kwargs.items() if hasattr(cls.config_class(), name)}
                fields.pop("dtype", None)
                config = cls.config_class.from_pretrained(config or path, **fields) if files else None
            reason = explain_mismatch(cls, config, path, files, shapes) if config is not None else None
            if reason is None:
                raise
            raise MismatchError(reason) from error
        loads = path is not None or kwargs.get("state_dict") is not None
        if loads and not kwargs.get("ignore_mismatched_sizes", False):
            check_loaded(path, files, cls.base_model_prefix, info)
        return (model, info) if output_loading_info else model


class SqueezeBertModel(SqueezeBertPreTrainedModel):
    """Embeddings, encoder and pooler, without a head.

    Args:
        config: a `SqueezeBertConfig`, ours or transformers'.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = SqueezeBertEmbeddings(config)
        self.encoder = SqueezeBertEncoder(config)
        self.pooler = SqueezeBertPooler(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = cast(nn.Embedding, value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        head_mask: None = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encode.

        Args:
            input_ids: int64 or int32, [batch, length], below the number of word embeddings.
            attention_mask: what may be attended to. [batch, length] or [batch, length, length]: non-zero for yes.
                Broadcastable to [batch, heads, length, length]: added to the scores as it stands (boolean: True for
                yes). None is everything.
            token_type_ids: int64 or int32, [batch, length], below `config.type_vocab_size`. None is all 0.
            position_ids: int64 or int32, [batch, length], [1, length] or [length], below
                `config.max_position_embeddings`. None counts from 0, padding included.
            inputs_embeds: floating, [batch, length, channels], in place of `input_ids`.
            output_attentions: also return each layer's scores: before the softmax, mask added. None: as
                `config.output_attentions`. The fused kernels keep no scores, so these calls are slower.
            output_hidden_states: also return the embeddings and each layer's output. None: as the configuration says.
            return_dict: an output object (True) or a tuple. None: as the configuration says.
            head_mask: must be None; see `reject_head_mask`.

        Returns:
            `last_hidden_state` [batch, length, channels] and `pooler_output` [batch, channels], in the dtype of the
            weights; where asked for, `hidden_states`, one [batch, length, channels] more than there are layers, and
            `attentions`, one [batch, heads, length, length] per layer.

        Raises:
            TypeError, ValueError: as `inputs.check_inputs`, naming the argument and its values.
        """
        config = self.config
        reject_head_mask(head_mask)
        check_inputs(
            config,
            self.embeddings.word_embeddings,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
        )
        if input_ids is not None and attention_mask is None and has_values(input_ids):
            self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
        embeddings = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        encoded = self.encoder(
            embeddings,
            additive_mask(attention_mask, embeddings.dtype),
            config.output_attentions if output_attentions is None else output_attentions,
            config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )
        output = BaseModelOutputWithPooling(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=self.pooler(encoded.last_hidden_state),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output if wants_return_dict(config, return_dict) else output.to_tuple()
