"""What differs between the versions of transformers, 4.57 and 5.x: the one place that knows."""

from __future__ import annotations

from typing import Any

import transformers

try:
    from transformers import PreTrainedConfig
except ImportError:  # transformers 4 spells it PretrainedConfig
    from transformers import PretrainedConfig as PreTrainedConfig
try:
    from transformers.utils.output_capturing import _active_collector as active_collector
except ImportError:  # transformers 4 passes output_attentions and output_hidden_states down instead
    active_collector = None
try:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.bert.modeling_bert import eager_attention_forward
except ImportError:  # in transformers 4 the class of a BERT layer says how it attends
    ALL_ATTENTION_FUNCTIONS = eager_attention_forward = sdpa_attention_forward = None

__all__ = [
    "ATTENTION_FUNCTIONS",
    "STOCK_ATTENTION",
    "TRANSFORMERS_5",
    "PreTrainedConfig",
    "active_collector",
    "eager_attention_forward",
]

TRANSFORMERS_5 = int(transformers.__version__.split(".")[0]) >= 5

ATTENTION_FUNCTIONS: Any = ALL_ATTENTION_FUNCTIONS
"""transformers' registry of attention functions by name; None in transformers 4."""

STOCK_ATTENTION: tuple[Any, ...] = (eager_attention_forward, sdpa_attention_forward) if ATTENTION_FUNCTIONS else ()
"""The functions that compute softmax(q k^T / sqrt(head size) + mask) v; none in transformers 4."""
