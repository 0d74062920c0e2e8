"""The intervals' coverage: simulated with the intervals that rliable makes, and in the promised range."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from dtbench.resources import resource
from dtbench.results import stats
from dtbench.results.coverage import measured_coverage


@pytest.fixture(scope="module")
def simulation():
    """`benchmarks/coverage.py`."""
    spec = importlib.util.spec_from_file_location("simulated_coverage", resource("benchmarks", "coverage.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(("seeds", "tasks"), [(3, 1), (5, 3)])
def test_simulated_intervals_are_those_that_rliable_makes(simulation, seeds, tasks):
    scores = simulation.Case(seeds, tasks, "skewed").sample(np.random.default_rng(1))
    drawn = simulation.resamples(scores, 10_000, np.random.default_rng(2))
    values = np.array([measure(drawn) for measure in stats.AGGREGATES.values()])
    points = np.array([measure(scores) for measure in stats.AGGREGATES.values()])
    simulated = simulation.intervals(values, points, seeds, tasks)[simulation.CONSTRUCTIONS.index("stretched")]
    simulated[0] = np.maximum(simulated[0], [-np.inf, -np.inf, -np.inf, 0])  # no optimality gap is below 0
    for place, (name, estimate) in enumerate(stats.aggregate(scores).items()):
        low, high = estimate.interval
        # Two bootstraps of 10,000 draws: the ends' standard error is about 2 % of the interval's half width.
        assert simulated[0, place] == pytest.approx(low, abs=0.05 * (high - low)), name
        assert simulated[1, place] == pytest.approx(high, abs=0.05 * (high - low)), name


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("differ", [False, True])
def test_intervals_of_five_seeds_and_nine_tasks_cover_95_percent(simulation, seeds, differ):
    """Over the three score shapes; 600 intervals give a standard error of 0.9 points."""
    shares = [
        simulation.coverage(simulation.Case(seeds, 9, shape, differ), datasets=200, repetitions=400)
        for shape in simulation.SHAPES
    ]
    stretched = np.mean(shares, axis=0)[simulation.CONSTRUCTIONS.index("stretched")]
    found = dict(zip(simulation.MEASURES, stretched, strict=True))
    assert 0.91 <= found["iqm"] <= 0.98
    assert 0.91 <= found["mean"] <= 0.98


def test_stretching_reaches_further_than_quantiles_where_there_are_three_runs(simulation):
    """No resample lies beyond the lowest and the highest of three runs, which hold the mean in 75 of 100 cases."""
    found = simulation.coverage(simulation.Case(3, 1, "normal"), datasets=400, repetitions=400)
    percentile, quantiles, stretched = found[:, list(simulation.MEASURES).index("mean")]
    assert percentile == pytest.approx(0.75, abs=0.07)  # three standard errors
    assert quantiles == pytest.approx(0.75, abs=0.07)
    assert 0.91 < stretched < 0.98


def test_equal_models_are_told_apart_in_five_percent_at_most(simulation):
    found = simulation.pairs(simulation.Case(4, 1, "normal"), shift=0.0, datasets=300, repetitions=200)
    assert found.separable == pytest.approx(2 / 70, abs=0.03)  # only complete separation has p < 0.05: 2 of C(8, 4)
    better = simulation.pairs(simulation.Case(5, 3, "normal"), shift=2.0, datasets=50, repetitions=200)
    assert better.separable > 0.9


def test_the_committed_table_is_complete_and_looked_up_by_the_next_lower_size(simulation):
    for measure in (*simulation.MEASURES, "probability_of_improvement"):
        assert 0.3 < measured_coverage(measure, 3, 1) <= 1
    assert measured_coverage("iqm", 2, 9) is None
    assert measured_coverage("iqm", 6, 5) == measured_coverage("iqm", 5, 3)
    assert measured_coverage("iqm", 100, 100) == measured_coverage("iqm", 10, 9)


def test_the_committed_page_is_of_the_same_run_as_the_table():
    page = resource("benchmarks", "coverage.md").read_text(encoding="utf-8")
    first = next(line for line in page.split("### iqm\n")[1].splitlines() if line.startswith("| 3 |"))
    lowest = float(first.split("|")[2].partition("–")[0])
    assert lowest == pytest.approx(100 * measured_coverage("iqm", 3, 1), abs=0.51)
