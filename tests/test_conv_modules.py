"""GroupedPointwiseConv1d and 2d, built by hand or put in by optimize."""

import pytest
import torch
from test_optimize import all_fused, assert_same
from torch import nn

import squeezebert_kernels as sbk


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv1d(16, 24, 1, groups=4)
        self.two = nn.Conv2d(24, 32, 1, groups=2, bias=False)
        self.three = nn.Conv1d(16, 16, 3, groups=4)
        self.depthwise = nn.Conv2d(32, 32, 1, groups=32)

    def forward(self, x):
        return self.depthwise(self.two(self.one(x).unflatten(-1, (3, 4))))


def test_any_grouped_pointwise_conv():
    torch.manual_seed(0)
    net = ConvNet()
    x = torch.randn(2, 16, 12)
    before = net(x)
    sbk.optimize(net)
    assert [type(m).__name__ for m in net.children()] == [
        "GroupedPointwiseConv1d", "GroupedPointwiseConv2d", "Conv1d", "Conv2d"
    ]  # fmt: skip
    assert_same(net(x), before)
    states = {e.name: e.state for e in sbk.report(net).entries}
    assert states == {"one": "kernel", "two": "kernel", "depthwise": "fallback"}
    net.one.register_forward_hook(lambda m, a, out: out * 0)
    assert not torch.allclose(net(x), before)
    sbk.restore(net)
    assert [type(m) for m in net.children()] == [nn.Conv1d, nn.Conv2d, nn.Conv1d, nn.Conv2d]
    assert all_fused(sbk.optimize(nn.Conv1d(8, 8, 1, groups=2)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_conv_modules(memory_format):
    torch.manual_seed(0)
    ours, stock = sbk.GroupedPointwiseConv2d(12, 20, groups=4), nn.Conv2d(12, 20, 1, groups=4)
    ours.load_state_dict(stock.state_dict())
    x = torch.randn(3, 12, 5, 7).to(memory_format=memory_format)
    assert_same(ours(x), stock(x))
    assert_same(ours(x[0]), stock(x[0]))
    ours, stock = sbk.GroupedPointwiseConv1d(12, 20, groups=4), nn.Conv1d(12, 20, 1, groups=4)
    ours.load_state_dict(stock.state_dict())
    x = torch.randn(3, 12, 9)
    assert_same(ours(x), stock(x))
    assert_same(ours(x[0]), stock(x[0]))
    last = sbk.GroupedPointwiseConv1d(12, 20, groups=4, channels_last=True)
    last.load_state_dict(stock.state_dict())
    assert_same(last(x.transpose(1, 2)), stock(x).transpose(1, 2))
    with pytest.raises(ValueError, match="kernel_size must be 1, got"):
        sbk.GroupedPointwiseConv1d(12, 20, 3)
    with pytest.raises(ValueError, match="input must have"):
        ours(torch.randn(12))
    with pytest.raises(ValueError, match="x has 11 channels"):
        ours(torch.randn(3, 11, 9))
