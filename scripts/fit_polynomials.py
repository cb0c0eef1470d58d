#!/usr/bin/env python3
"""Fits the polynomials of the kernels again, and measures those that are shipped. Needs numpy only.

    python scripts/fit_polynomials.py

prints, for each fit, the largest error of a new fit and of the shipped coefficients, and the coefficients of both. It
ends with status 1 if shipped coefficients are worse than WORSE times a new fit. All arithmetic here is float64; the
kernels round every step to float32 besides, which these errors do not count.

The shipped coefficients are read from the sources, and stay as they are: other coefficients would change the bits of
every result. tests/project/test_polynomials.py holds the error that each source claims against the one measured here.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MATH = ROOT / "csrc" / "kernels" / "math.h"
TRITON = ROOT / "squeezebert_kernels" / "triton_kernels" / "device_functions.py"

WORSE = 1.25
"""How much larger than that of a new fit the error of shipped coefficients may be."""

ERF_LIMIT = 4 * math.sqrt(2)
"""Float32 rounds erf(x / sqrt 2) to +-1 from here on."""
HALVES_LIMIT = 4.15
"""Where the fit for float16 sums ends and Phi(-x) jumps to 0: at 4.1 by more than the error of the fit, which is larger
the further it reaches."""
GELU_LIMIT = 3.75
"""Where the Triton kernels' GELU becomes x: at less it is further from x there, and the fit is worse if it reaches
further."""

_erf = np.vectorize(math.erf)


def half_erf(x: np.ndarray) -> np.ndarray:
    """erf(x / sqrt 2) / 2, which is Phi(x) - 1/2."""
    return _erf(x / math.sqrt(2)) / 2


def polynomial(coefficients: np.ndarray, u: np.ndarray) -> np.ndarray:
    """c[0] + c[1] u + ..."""
    return np.polyval(coefficients[::-1], u)


def minimax(
    u: np.ndarray, target: np.ndarray, weight: np.ndarray, above: int, below: int = 0, rounds: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of P and Q with the least max |weight (P(u) / Q(u) - target)| over the samples ``u``.

    Lawson's algorithm: weighted least squares, repeated with weights that grow where the error is large. The quotient
    is made linear by the Q of the round before.

    Args:
        u, target, weight: [samples].
        above: number of coefficients of P.
        below: number of coefficients of Q besides Q[0] = 1.
    """
    scale = np.abs(u).max()
    p_columns = np.vander(u / scale, above, increasing=True)
    q_columns = np.vander(u / scale, below + 1, increasing=True)[:, 1:]
    lawson, q = np.ones_like(u), np.ones_like(u)
    least, best = math.inf, np.zeros(above + below)
    for i in range(rounds):
        row = (np.sqrt(lawson) * weight / q)[:, None]
        c = np.linalg.lstsq(np.hstack([p_columns, -target[:, None] * q_columns]) * row, target * row[:, 0], rcond=None)[
            0
        ]
        q = 1 + q_columns @ c[above:]
        error = np.abs(weight * (p_columns @ c[:above] / q - target))
        if error.max() < least:
            least, best = error.max(), c
        if i >= 5:  # Q has settled
            lawson = np.maximum(lawson * error / error.max(), 1e-12)
            lawson /= lawson.max()
    return best[:above] / scale ** np.arange(above), np.concatenate(
        [[1.0], best[above:] / scale ** np.arange(1, below + 1)]
    )


# --- The fits: new coefficients, and the error of any -----------------------------------------------------------------


def fit_exp() -> list[np.ndarray]:
    """exp(r) = 1 + r (c[0] + c[1] r + ... + c[5] r^5), relative error."""
    r = _samples(-math.log(2) / 2, math.log(2) / 2, 1000)
    return [minimax(r, np.expm1(r) / r, r / np.exp(r), 6)[0]]


def exp_error(c: np.ndarray) -> float:
    r = np.linspace(-math.log(2) / 2, math.log(2) / 2, 100001)
    return np.abs((1 + r * polynomial(c, r)) / np.exp(r) - 1).max()


def fit_erf() -> list[np.ndarray]:
    """erf(x / sqrt 2) / 2 = x P(x^2) / Q(x^2) up to ERF_LIMIT, relative error."""
    x = _samples(0, ERF_LIMIT, 1000)
    target = half_erf(x) / x
    return list(minimax(x * x, target, 1 / target, 6, 5))


def erf_error(p: np.ndarray, q: np.ndarray) -> float:
    x = np.linspace(0, ERF_LIMIT, 100001)[1:]
    return np.abs(x * polynomial(p, x * x) / polynomial(q, x * x) / half_erf(x) - 1).max()


def fit_erf_of_halves() -> list[np.ndarray]:
    """As fit_erf, absolute error, and beyond HALVES_LIMIT the value there for 1/2."""
    x = np.append(_samples(0, HALVES_LIMIT, 1000), HALVES_LIMIT)
    target = np.append(half_erf(x[:-1]), 0.5)
    return list(minimax(x * x, target / x, x, 3, 3))


def erf_of_halves_error(p: np.ndarray, q: np.ndarray) -> float:
    """Of Phi(x) on both sides: below -HALVES_LIMIT it is 0."""
    x = np.linspace(0, 8, 100001)
    t = np.minimum(x, HALVES_LIMIT)
    above = t * polynomial(p, t * t) / polynomial(q, t * t) - half_erf(x)
    below = np.where(x > HALVES_LIMIT, half_erf(x) - 0.5, above)
    return max(np.abs(above).max(), np.abs(below).max())


def fit_gelu_for_half() -> list[np.ndarray]:
    """erf(t / sqrt 2) = t P(t^2): least squares of the error of x Phi(x), and exactly 1 at GELU_LIMIT."""
    end = GELU_LIMIT**2
    x = np.linspace(0, GELU_LIMIT, 4001)[1:-1]
    s = x * x
    # P(s) = 1 / GELU_LIMIT + (s - end) R(s), and R is free.
    target = (2 * half_erf(x) / x - 1 / GELU_LIMIT) / (s - end)
    weight = 0.5 * s * (s - end)
    columns = np.vander(s / end, 6, increasing=True) * weight[:, None]
    r = np.linalg.lstsq(columns, target * weight, rcond=None)[0] / end ** np.arange(6)
    return [np.append(0, r) - end * np.append(r, 0) + np.append(1 / GELU_LIMIT, np.zeros(6))]


def gelu_for_half_error(p: np.ndarray) -> float:
    """Of x Phi(x): beyond GELU_LIMIT it is x, and below -GELU_LIMIT what it is there."""
    x = np.linspace(-8, 8, 200001)
    clamped = np.maximum(x, -GELU_LIMIT)
    t = np.minimum(clamped, GELU_LIMIT)
    gelu = 0.5 * clamped * (1 + t * polynomial(p, t * t))
    return np.abs(gelu - x * (0.5 + half_erf(x))).max()


def _samples(first: float, last: float, count: int) -> np.ndarray:
    """Points inside [first, last], closer to each other at both ends, as Chebyshev's are."""
    at = np.cos(np.pi * (np.arange(count) + 0.5) / count)[::-1]
    return (first + last) / 2 + (last - first) / 2 * at


# --- What is shipped --------------------------------------------------------------------------------------------------


def _numbers(text: str) -> np.ndarray:
    """Every number in ``text``, as float32 has it."""
    return np.array([float(np.float32(n)) for n in re.findall(r"-?\d+\.\d+(?:e[-+]?\d+)?", text)])


def struct(name: str, source: str | None = None) -> str:
    """The text of a struct of math.h, with the comment behind its brace."""
    source = MATH.read_text() if source is None else source
    found = re.search(rf"^struct {name} \{{.*?^\}};", source, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{MATH} has no struct {name}")
    return found[0]


def arrays(text: str) -> list[np.ndarray]:
    """The arrays of floats in a struct, in their order."""
    return [_numbers(values) for values in re.findall(r"float \w+\[\] = \{(.*?)\};", text, re.DOTALL)]


def gelu_source() -> str:
    """The text of the Triton function."""
    found = re.search(r"^def gelu_for_half\(.*?return", TRITON.read_text(), re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{TRITON} has no gelu_for_half")
    return found[0]


def shipped_exp() -> list[np.ndarray]:
    return [np.append(1.0, arrays(struct("Exp"))[0])]


def shipped_gelu_for_half() -> list[np.ndarray]:
    signed = re.findall(r"p = .*?([-+]) (\d\.\d+(?:e-\d+)?)$", gelu_source(), re.MULTILINE)
    first = re.findall(r"p = (\d\.\d+e-\d+) \* s", gelu_source())
    return [np.array([float(sign + value) for sign, value in signed][::-1] + [float(v) for v in first])]


@dataclass(frozen=True)
class Fit:
    """A fit that the kernels use."""

    make: Callable[[], list[np.ndarray]]
    """New coefficients."""
    error: Callable[..., float]
    """The largest error of coefficients."""
    shipped: Callable[[], list[np.ndarray]]
    """The coefficients in the source."""
    source: Callable[[], str]
    """The text that has them, and says their error."""

    def claim(self) -> float:
        """The error that the source says the coefficients have."""
        found = re.search(r"error (?:of |below )?(\d\.\d+e-\d+)", self.source())
        if found is None:
            raise ValueError(f"no error is claimed in {self.source()!r}")
        return float(found[1])

    def new(self) -> list[np.ndarray]:
        """New coefficients as float32 has them: rounding is a part of the error."""
        return [c.astype(np.float32).astype(np.float64) for c in self.make()]


FITS = {
    "exp": Fit(fit_exp, exp_error, shipped_exp, lambda: struct("Exp")),
    "erf": Fit(fit_erf, erf_error, lambda: arrays(struct("Erf")), lambda: struct("Erf")),
    "erf of halves": Fit(
        fit_erf_of_halves, erf_of_halves_error, lambda: arrays(struct("ErfOfHalves")), lambda: struct("ErfOfHalves")
    ),
    "Triton's GELU for float16": Fit(fit_gelu_for_half, gelu_for_half_error, shipped_gelu_for_half, gelu_source),
}


def main() -> int:
    status = 0
    for name, fit in FITS.items():
        new, shipped = fit.new(), fit.shipped()
        errors = fit.error(*fit.make()), fit.error(*new), fit.error(*shipped)
        print("{}: largest error {:.3g}, {:.3g} in float32; shipped {:.3g}".format(name, *errors))
        for ours, theirs in zip(new, shipped):
            print("  new     " + " ".join(f"{c:.9g}" for c in ours))
            print("  shipped " + " ".join(f"{c:.9g}" for c in theirs))
        if errors[2] > WORSE * errors[1]:
            print(f"  the shipped coefficients are worse than {WORSE} times the new ones")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
