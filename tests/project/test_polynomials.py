"""Where coefficients in the kernels come from, scripts/fit_polynomials.py, and the errors that the sources claim."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
fit_polynomials = pytest.importorskip("fit_polynomials", reason="scripts/ is in source checkouts only")
FITS = fit_polynomials.FITS


@pytest.mark.parametrize("name", FITS)
def test_the_error_is_what_the_source_says(name):
    """No more, and no less than rounding the number up leaves."""
    fit = FITS[name]
    assert 0.9 * fit.claim() < fit.error(*fit.shipped()) <= fit.claim()


@pytest.mark.parametrize("name", FITS)
def test_a_new_fit_is_no_better(name):
    fit = FITS[name]
    assert fit.error(*fit.shipped()) <= fit_polynomials.WORSE * fit.error(*fit.new())


@pytest.mark.parametrize("name", FITS)
def test_the_error_of_other_coefficients_is_larger(name):
    """The measure sees a change of any coefficient by one per cent."""
    fit = FITS[name]
    least = fit.error(*fit.shipped())
    for i, polynomial in enumerate(fit.shipped()):
        for k, value in enumerate(polynomial):
            if value == 1.0:  # held, not fitted
                continue
            changed = fit.shipped()
            changed[i][k] = 1.01 * value
            assert fit.error(*changed) > 1.2 * least, (i, k)


CONSTANTS = {
    "log2_of_e": math.log2(math.e),
    "two_root_two_over_pi": 2 * math.sqrt(2 / math.pi),
    "gelu_tanh_cubic": 0.044715,
    "gelu_tanh_cubic_slope": 3 * 0.044715,
}


def constant(name: str) -> np.float32:
    return np.float32(re.search(rf"\b{name} = ([-+.e\d]+)f\b", fit_polynomials.MATH.read_text())[1])


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_of_a_formula(name):
    assert constant(name) == np.float32(CONSTANTS[name])


def test_ln2_in_two_parts():
    upper, lower = constant("upper_ln2"), constant("lower_ln2")
    assert float(upper) + float(lower) == pytest.approx(math.log(2), abs=1e-13)
    # exp multiplies it by up to 128: eight bits more must fit into the 24 of a float.
    assert int(upper.view(np.uint32)) & 0xFF == 0
    limits = {"Erf": fit_polynomials.ERF_LIMIT, "ErfOfHalves": fit_polynomials.HALVES_LIMIT}
    for name, limit in limits.items():
        shipped = re.search(r"limit = ([.\d]+)f", fit_polynomials.struct(name))[1]
        assert np.float32(shipped) == np.float32(limit)
