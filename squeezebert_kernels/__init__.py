"""Fused CPU and GPU kernels for SqueezeBERT, BERT and other networks of grouped 1x1 convolutions.

Two ways in: :func:`optimize` puts the kernels under a live model; the ``SqueezeBert*`` classes are drop-in versions of
transformers' own. :func:`report` says what runs on the kernels and what does not, and why.
"""

from . import ops
from .fusion import int8_quantizer  # noqa: F401  (registers itself with transformers)
from .fusion.changed_weights import weights_changed
from .fusion.optimize import Report, disable, enable, optimize, report, restore
from .layers.conv import GroupedPointwiseConv1d, GroupedPointwiseConv2d
from .models.configuration import SqueezeBertConfig
from .models.heads import (
    SqueezeBertForMaskedLM,
    SqueezeBertForMultipleChoice,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForSequenceClassification,
    SqueezeBertForTokenClassification,
)
from .models.squeezebert import SqueezeBertModel, SqueezeBertPreTrainedModel
from .models.tokenization import SqueezeBertTokenizer, SqueezeBertTokenizerFast
from .ops import reference

__version__ = "0.1.0"

__all__ = [
    "GroupedPointwiseConv1d",
    "GroupedPointwiseConv2d",
    "Report",
    "SqueezeBertConfig",
    "SqueezeBertForMaskedLM",
    "SqueezeBertForMultipleChoice",
    "SqueezeBertForQuestionAnswering",
    "SqueezeBertForSequenceClassification",
    "SqueezeBertForTokenClassification",
    "SqueezeBertModel",
    "SqueezeBertPreTrainedModel",
    "SqueezeBertTokenizer",
    "SqueezeBertTokenizerFast",
    "disable",
    "enable",
    "ops",
    "optimize",
    "reference",
    "report",
    "restore",
    "weights_changed",
]
