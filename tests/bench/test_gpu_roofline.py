"""bench/gpu/roofline.py: the model's own limits, and every figure that its docstring concludes."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "gpu"))
roofline = pytest.importorskip("roofline", reason="bench/gpu is in source checkouts only")

A = roofline.Assumptions()
A100, H100, H200, LAPTOP = roofline.GPUS
HOPPER, OTHERS = (H100, H200), (A100, LAPTOP)
FEW = [shape for shape in roofline.SHAPES if shape[0] * shape[1] <= 128]
MORE = [shape for shape in roofline.SHAPES if shape not in FEW]
MANY = [shape for shape in roofline.SHAPES if shape[0] * shape[1] >= 8192]
ALL = [(gpu, shape) for gpu in roofline.GPUS for shape in roofline.SHAPES]


def layer(gpu, shape, design):
    return roofline.total(gpu, roofline.DESIGNS[design](gpu, *shape, A), A)


def ratios(gpus, shapes, design):
    """The least and the greatest time of a design, of the shipped one's."""
    found = [layer(gpu, shape, design) / layer(gpu, shape, "shipped") for gpu in gpus for shape in shapes]
    return min(found), max(found)


def test_flops_of_the_model():
    assert 12 * roofline.flops_per_token(128) == pytest.approx(57.8e6, rel=0.01)


@pytest.mark.parametrize("design", roofline.DESIGNS)
@pytest.mark.parametrize("shape", roofline.SHAPES, ids=str)
def test_a_design_does_all_the_work(design, shape):
    # Tiles may be padded, so at least the layer's FLOPs; every weight comes from memory once.
    needed = shape[0] * shape[1] * roofline.flops_per_token(shape[1])
    weights = roofline.QKV_WEIGHTS + roofline.POST_WEIGHTS + roofline.FFN_WEIGHTS
    kernels = roofline.DESIGNS[design](H100, *shape, A)
    assert needed <= sum(kernel.flops for kernel in kernels) <= 1.6 * needed
    assert sum(kernel.hbm_bytes for kernel in kernels) >= weights


@pytest.mark.parametrize("gpu,shape", ALL, ids=str)
def test_no_design_is_below_the_floor(gpu, shape):
    for design in roofline.DESIGNS:
        assert layer(gpu, shape, design) > roofline.floor(gpu, *shape), design


@pytest.mark.parametrize("share", [0.7, 1, 1.3])
def test_shipped_is_never_slower_than_stock_whatever_l2_delivers(share):
    for gpu, shape in ALL:
        assumed = replace(gpu, l2_gbs=share * gpu.l2_gbs)
        assert layer(assumed, shape, "shipped") <= layer(assumed, shape, "unfused"), (gpu.name, shape)


def test_model_against_measurement():
    found = roofline.compared(A)
    assert {case: set(parts) for case, parts in found.items()} == {
        case: set(parts) for case, parts in roofline.MEASURED.items()
    }
    for (design, _), parts in found.items():
        for part, (predicted, measured) in parts.items():
            within = 0.1 if (design, part) == ("shipped", "layer") else 0.25
            assert predicted == pytest.approx(measured, rel=within), (design, part)
    predicted, measured = found["shipped", (64, 128)]["post"]
    assert (round(predicted), round(measured)) == (31, 27)
    post = next(k for k in roofline.shipped(H100, 64, 128, A) if k.name.startswith("post"))
    assert post.programs * post.bytes_per_program / measured / 1e3 > H100.l2_gbs


def test_the_moved_bytes_that_l2_was_measured_by():
    (attention,) = roofline.attention(H100, 64, 128, A)
    assert attention.programs * attention.bytes_per_program == pytest.approx(160e6, rel=0.03)
    tiles = 64 * 128 // 64  # of 64 tokens, each of which reads the weights of all groups
    assert tiles * roofline.FFN_WEIGHTS == pytest.approx(302e6, rel=0.01)
    assert H100.l2_gbs == pytest.approx(5120 * H100.clock / 2, rel=0.03)
    assert A100.l2_gbs == pytest.approx(5120 * A100.clock / 2, rel=0.03)


def test_l2_bounds_the_kernels_of_many_tokens():
    for kernel in roofline.shipped(H100, 64, 128, A):
        parts = roofline.terms(H100, kernel, A)
        assert max(parts, key=parts.get) == "L2", kernel.name


def test_number_of_kernels():
    assert len(roofline.unfused(H100, 1, 128, A)) == 21
    counts = {shape: len(roofline.shipped(H100, *shape, A)) for shape in roofline.SHAPES}
    assert counts == {s: 7 if s in FEW else 6 if s[1] > 128 else 5 for s in roofline.SHAPES}


def test_stock_against_shipped():
    low, high = ratios(roofline.GPUS, roofline.SHAPES, "unfused")
    assert low >= 1.2
    assert high <= 3.0


def test_the_monolithic_design():
    low, high = ratios(roofline.GPUS, FEW, "two kernels")
    assert low >= 2.0
    assert high <= 2.7
    kernels = [roofline.monolithic(gpu, *shape, A)[-1] for gpu in roofline.GPUS for shape in FEW]
    assert max(kernel.programs for kernel in kernels) == 8
    assert all(kernel.bytes_per_program == pytest.approx(3.5e6, rel=0.05) for kernel in kernels)
    low, high = ratios(HOPPER, MORE, "two kernels")
    assert low >= 1.1
    assert high <= 1.8
    low, high = ratios(OTHERS, MORE, "two kernels")
    assert low >= 0.88
    assert high <= 1.7


def test_norm_by_the_last_program():
    low, high = ratios(HOPPER, roofline.SHAPES, "last program")
    assert low >= 1.04
    assert high <= 1.5
    low, high = ratios(OTHERS, roofline.SHAPES, "last program")
    assert low >= 0.9
    assert high <= 1.35


def test_hidden_values_in_registers():
    def ratio(gpu, batch, length):
        two = roofline.two_step_ffn(gpu, batch * length, A)
        return roofline.time(gpu, roofline.ffn(gpu, batch * length, A), A) / roofline.total(gpu, two, A)

    for gpu in HOPPER:
        assert all(ratio(gpu, *shape) == pytest.approx(0.58, abs=0.01) for shape in MANY)
        assert ratio(gpu, 8, 128) == pytest.approx(0.93, abs=0.01)
        assert all(1.1 <= ratio(gpu, *shape) <= 1.2 for shape in [*FEW, (1, 384)])
    found = [ratio(gpu, *shape) for gpu in OTHERS for shape in roofline.SHAPES]
    assert min(found) >= 0.94
    assert max(found) <= 1.42


def test_attention_in_one_kernel():
    def ratio(gpu, batch):
        one, two = roofline.attention(gpu, batch, 128, A), roofline.projected(gpu, batch, 128, A)
        assert (len(one), len(two), one[0].programs) == (1, 2, 12 * batch)
        return roofline.total(gpu, one, A) / roofline.total(gpu, two, A)

    assert all(1.0 <= ratio(gpu, 1) <= 2.0 for gpu in roofline.GPUS)
    assert all(0.55 <= ratio(gpu, batch) <= 0.65 for gpu in HOPPER for batch in (8, 64, 256))


def test_time_is_a_gap_and_the_slowest_resource():
    kernel = roofline.Kernel("k", flops=H100.tflops * 1e6, hbm_bytes=0, programs=132, bytes_per_program=0)
    assert roofline.time(H100, kernel, A) == pytest.approx(A.gap + 1 / A.fraction)
    two_waves = replace(kernel, programs=133)  # of which the second has a single program
    assert roofline.time(H100, two_waves, A) == pytest.approx(A.gap + 2 * 132 / 133 / A.fraction)
    one_sm = replace(kernel, programs=1, flops=0, bytes_per_program=64 * H100.clock * 1e4)
    assert roofline.time(H100, one_sm, A) == pytest.approx(A.gap + 10)


def test_what_runs_alone_adds_to_the_time():
    fp32 = 132 * 128 * H100.clock * 1e3  # of one microsecond
    kernel = roofline.Kernel("k", H100.tflops * 1e6, 0, 132, 0, fp32_ops=fp32)
    assert roofline.time(H100, kernel, A) == pytest.approx(A.gap + 1 / A.fraction)
    serial = replace(kernel, serial=True)
    assert roofline.time(H100, serial, A) == pytest.approx(A.gap + 1 / A.fraction + 1)
    tail = replace(serial, tails=264, tail_bytes=A.alone * 1e3)  # two for each SM
    assert roofline.time(H100, tail, A) == pytest.approx(A.gap + 1 / A.fraction + 1 + 2)


def test_command(capsys):
    assert roofline.main([]) == 0
    everything = capsys.readouterr().out
    assert roofline.main(["--markdown"]) == 0
    printed = capsys.readouterr().out
    assert everything.startswith(printed)
    lines = printed.splitlines()
    assert len(lines) <= 30
    starts = [i - 1 for i, line in enumerate(lines) if line.startswith("| ---")]
    predicted, compared = (lines[start] for start in starts)
    assert "predicted us" in predicted
    assert "predicted / measured" in compared
    assert all(gpu.name in predicted for gpu in roofline.GPUS)
    heads = dict.fromkeys(range(*starts), predicted) | dict.fromkeys(range(starts[1], len(lines)), compared)
    assert all(lines[i].count("|") == head.count("|") for i, head in heads.items() if lines[i].startswith("|"))
    for batch, length in roofline.SHAPES:
        cells = [f"{12 * layer(H100, (batch, length), design):.0f}" for design in roofline.DESIGNS]
        assert any(line.startswith(f"| {batch}x{length} |") and " / ".join(cells) in line for line in lines)


def test_assumptions_are_options(capsys):
    assert roofline.main(["--fraction", "0.5", "--gap", "2"]) == 0
    assert "fraction 0.5, memory 0.85, gap 2" in capsys.readouterr().out
