"""GroupedPointwiseConv1d and 2d, built by hand or put in by optimize."""

import pytest
import torch
from support.optimized_models import all_fused, assert_same
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
    with pytest.raises(TypeError, match="input must be a torch.Tensor, got str"):
        ours("x")


@pytest.mark.parametrize("x", [
    torch.randn(2, 8, 5), torch.randn(2, 5, 8).transpose(1, 2), torch.randn(8, 5), torch.randn(2, 8, 5, 3),
    torch.randn(2, 8, 5, 3).to(memory_format=torch.channels_last), torch.randn(8, 5, 3),
])  # fmt: skip
def test_strides_are_those_of_nn_conv(x):
    """Code behind a convolution may call .view."""
    spatial = 1 if x.shape[-2] == 8 or (x.dim() == 3 and x.shape[0] == 2) else 2
    stock = (nn.Conv1d if spatial == 1 else nn.Conv2d)(8, 12, 1, groups=2)
    expected = stock(x)
    y = sbk.optimize(nn.Sequential(stock))(x)
    assert_same(y, expected)
    assert y.stride() == expected.stride()


def test_float64_under_autocast():
    stock = nn.Conv1d(8, 12, 1, groups=2).double()
    x = torch.randn(2, 8, 5, dtype=torch.float64)
    expected = stock(x)
    ours = sbk.optimize(nn.Sequential(stock))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(ours(x), expected, 1e-12)


def test_arguments_of_nn_conv():
    ours = sbk.GroupedPointwiseConv2d(8, 12, (1, 1), (1, 1), (0, 0), (1, 1), 2, False, "zeros")
    assert ours.bias is None
    assert ours(torch.randn(1, 8, 2, 3)).shape == (1, 12, 2, 3)
    with pytest.raises(ValueError, match="stride must be 1"):
        sbk.GroupedPointwiseConv1d(8, 12, stride=2)
