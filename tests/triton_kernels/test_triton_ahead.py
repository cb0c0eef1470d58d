"""The Triton kernels compiled for GPUs that are not here: every shipped configuration, by bench/gpu/ahead.py."""

import pytest
from support import ahead

KERNELS = {"conv", "conv_residual", "qkv", "ffn", "attention", "flash"}
# Programs of at least 64 rows run on Hopper's own matrix instructions.
HOPPER = "HGMMA"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ahead.AHEAD.exists(), reason="not a source tree")]


@pytest.fixture(scope="module")
def compiled():
    """Everything that was compiled, and what was printed."""
    return ahead.shipped()


def test_nothing_spills_and_all_fits(compiled):
    limits = {"sm_80": 163, "sm_86": 99, "sm_90": 227}
    for result in compiled[0]:
        assert result["spilled"] == 0, result
        assert result["registers"] <= 255, result
        assert result["shared"] <= limits[result["arch"]] * 1024, result


def test_matrix_instructions(compiled):
    for result in compiled[0]:
        assert result["matrix"], result
    hopper = [r for r in compiled[0] if r["arch"] == "sm_90" and r["dtype"] != "fp32" and "32768" in r["config"]]
    assert {r["kernel"] for r in hopper} == {"conv", "conv_residual", "qkv", "ffn"}
    assert all(HOPPER in r["matrix"] for r in hopper)


def test_every_kernel_of_every_file(compiled):
    found = {(r["arch"], r["dtype"], r["kernel"]) for r in compiled[0]}
    for archs, dtypes in ahead.RUNS:
        for arch in archs.split(","):
            for dtype in dtypes.split(","):
                assert {kernel for a, d, kernel in found if (a, d) == (arch, dtype)} == KERNELS


def test_the_table_is_that_of_the_results(compiled):
    results, printed = compiled
    rows = [line for line in printed.splitlines() if line.startswith("| sm_")]
    assert len(rows) == len(results)


def test_a_kernel_that_spills_is_a_fault():
    faults = ahead.faults_of_job()
    assert "spills" in faults
    assert "shared memory" in faults


def test_outcomes_are_kept_for_what_has_not_changed(tmp_path):
    """The name of an outcome changes with whatever it depends on; what is kept under a name is taken as it is."""
    code = """
from unittest import mock
names = [ahead._key(job), ahead._key(job._replace(arch="sm_80")), ahead._key(job._replace(dtype="fp16"))]
names += [ahead._key(job._replace(config={**config, name: 16})) for name in ("BLOCK_M", "num_stages", "num_warps")]
with mock.patch.object(ahead.triton, "__version__", "0"):
    names.append(ahead._key(job))
kernel = ahead._plan(job).source.fn
kernel._unsafe_update_src(kernel.src.replace("0.0", "1.0"))
names.append(ahead._key(job))
assert len(set(names)) == 8, names
kept = ahead.Compiled("sm_90", "bf16", "ffn", "as kept", 1, 2, 3, "4")
(Path(sys.argv[2]) / (names[-1] + ".json")).write_text(ahead.json.dumps(kept._asdict()))
assert ahead.compile_all([job], Path(sys.argv[2])) == [kept]
"""
    ahead.run_with_job(code, tmp_path)
