"""The shipped policies' products: the same last bit on every x86 processor, and the published data from them."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from dtbench.data.behaviours.policy import product
from dtbench.data.sources import local

LONG = np.longdouble
PUBLISHED = Path(__file__).parents[3] / "leaderboards/results/d4rl-short@1/local/quick/dt/hopper-medium/seed-0.json"


def fused(a, b, c):
    """One rounding: 64 bits of a long double hold the product of two float32, and all but a few sums."""
    return np.float32(LONG(a) * LONG(b) + LONG(c))


def last_inputs_added(y, x, w):
    """OpenBLAS's loop over the inputs after the last four, as compiled with fused multiply-add."""
    if len(x) == 0:
        return y
    if len(x) == 1:
        return fused(w[0], x[0], y)
    total = fused(w[0], x[0], w[1] * x[1])
    for a, b in zip(w[2:], x[2:], strict=True):
        total = fused(a, b, total)
    return np.float32(y + total)


@pytest.mark.skipif(np.finfo(LONG).nmant < 63, reason="long double is no longer than double here")
@pytest.mark.parametrize("inputs", [4, 5, 6, 7, 11, 17])
def test_the_last_inputs_are_added_fused_wherever_it_runs(inputs):
    """The others are small whole numbers, whose sum is exact in any order."""
    rng = np.random.default_rng(inputs)
    whole = inputs // 4 * 4
    x, weight = (rng.standard_normal((rows, inputs), dtype=np.float32) for rows in (1, 256))
    x[:, :whole], weight[:, :whole] = (rng.integers(-9, 9, (rows, whole)) for rows in (1, 256))
    exact = x[:, :whole] @ weight[:, :whole].T
    expected = [last_inputs_added(y, x[0, whole:], row[whole:]) for y, row in zip(exact[0], weight, strict=True)]
    assert product(x, weight).tolist() == [expected]


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("inputs", [3, 8, 11, 17])
def test_it_is_the_product(batch, inputs):
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal((rows, inputs), dtype=np.float32) for rows in (batch, 6))
    y = product(x, weight)
    assert y.dtype == np.float32
    assert np.allclose(y, x.astype(np.float64) @ weight.T.astype(np.float64), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published results are not in this copy")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="published on x86")
def test_this_machine_builds_the_published_data():
    """100,000 steps: a single other rounding would change every episode after it."""
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    recorded = published["provenance"]["packages"]
    if any(version(name) != recorded[name] for name in ("mujoco", "gymnasium")):
        pytest.skip("published with other versions of MuJoCo or gymnasium")
    store = local.build("hopper-medium", steps=100_000)
    assert store.fingerprint == published["task"]["fingerprint"]
