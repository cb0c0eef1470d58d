"""SqueezeBERT's parts in plain torch, as transformers writes them: what rival.py counts, in an emulated Python.

python run_torch.py conv|layer CALLS
"""

import sys

import torch
from torch import nn

TOKENS, CHANNELS, HIDDEN, GROUPS, HEADS = 128, 768, 3072, 4, 12


class ConvLayerNorm(nn.Module):
    def __init__(self, inputs: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, CHANNELS, 1, groups=groups)
        self.norm = nn.LayerNorm(CHANNELS, eps=1e-12)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.norm((self.conv(x) + residual).permute(0, 2, 1)).permute(0, 2, 1)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv1d(CHANNELS, CHANNELS, 1, groups=GROUPS) for _ in range(3))
        self.post = ConvLayerNorm(CHANNELS, 1)
        self.up, self.down = nn.Conv1d(CHANNELS, HIDDEN, 1, groups=GROUPS), ConvLayerNorm(HIDDEN, GROUPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.view(1, HEADS, CHANNELS // HEADS, TOKENS)

        query, key, value = heads(self.query(x)).permute(0, 1, 3, 2), heads(self.key(x)), heads(self.value(x))
        scores = query @ key / (CHANNELS // HEADS) ** 0.5
        context = scores.softmax(-1) @ value.permute(0, 1, 3, 2)
        context = context.permute(0, 1, 3, 2).contiguous().view(1, CHANNELS, TOKENS)
        x = self.post(context, x)
        return self.down(nn.functional.gelu(self.up(x)), x)


torch.set_num_threads(1)
torch.manual_seed(0)
module = nn.Conv1d(CHANNELS, CHANNELS, 1, groups=GROUPS) if sys.argv[1] == "conv" else Layer()
x = torch.randn(1, CHANNELS, TOKENS)
with torch.inference_mode():
    for _ in range(int(sys.argv[2])):
        y = module.eval()(x)
assert y.isfinite().all()
