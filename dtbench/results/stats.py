"""Interval statistics over runs × tasks: rliable's stratified bootstrap (Agarwal et al., 2021, arXiv 2108.13264).

Scores are on the 0–1 scale here and everywhere in the code; they are multiplied by 100 only when shown. Intervals and
p-values speak of the training seeds only: what would come out if the same models were trained on the same tasks again.

Two corrections make the label "95 %" true for the few seeds that are usual in this field:

- The percentile interval is expanded about the point estimate by √(n/(n−1)) · t / z (`expansion`). For one task, three
  seeds and a mean, this is nearly Student's interval.
- Below three seeds there is no interval.

How often such intervals hold the true value is measured by `benchmarks/coverage.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from rliable import library

from dtbench.errors import ResultError
from dtbench.results.coverage import measured_coverage
from dtbench.results.files import IMPLAUSIBLE_SCORE

#: Bootstrap repetitions of every interval, and the assignments that a permutation test draws where it cannot try all.
#: An end of an interval has a simulation error of about 1.5 % of the interval's half width.
REPETITIONS = 10_000
#: Below this p, two models are called separable.
SIGNIFICANCE = 0.05
#: The fewest seeds with an interval. The range of two runs is no estimate of a spread: intervals that are called 95 %
#: hold the true value in half of the cases (one task, normal scores).
FEWEST_SEEDS = 3
#: A permutation test tries all assignments if there are at most this many.
_MOST_ASSIGNMENTS = 100_000
#: A sign flip test tries all signs of at most this many contrasts, a million.
_MOST_FLIPS = 20
#: Equal sums, added in another order, differ in their last digits, by less than this.
_ROUNDING = 1e-12
_CONFIDENCE = 0.95
#: Scores that are resampled at once.
_BLOCK = 1_000_000
_SEED = 0
#: A matrix is taken to be on the 0–100 scale if one score is implausible, or half of the scores are above five times
#: the expert's. The second rule finds percentages of weak models, which may all be below thirty.
_IMPLAUSIBLE_MEDIAN = 5.0

Scores = NDArray[np.float64]


def iqm(scores: Scores) -> Scores:
    """Return the interquartile mean over runs and tasks, shape (…), of scores (…, runs, tasks)."""
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    size = ordered.shape[-1]
    return np.asarray(ordered[..., size // 4 : size - size // 4].mean(-1))


def mean(scores: Scores) -> Scores:
    """Return the mean over runs and tasks, shape (…), of scores (…, runs, tasks)."""
    return np.asarray(scores.mean((-2, -1)))


def median(scores: Scores) -> Scores:
    """Return the median over tasks of the mean over runs, shape (…), of scores (…, runs, tasks)."""
    return np.asarray(np.median(scores.mean(-2), axis=-1))


def optimality_gap(scores: Scores) -> Scores:
    """Return by how much scores fall short of 1 on average, shape (…), of scores (…, runs, tasks)."""
    return np.asarray(1 - np.minimum(scores, 1).mean((-2, -1)))


#: rliable's measures. Those in `rliable.metrics` are equal but slower, and take one matrix at a time.
AGGREGATES: dict[str, Callable[[Scores], Scores]] = {
    "iqm": iqm,
    "median": median,
    "mean": mean,
    "optimality_gap": optimality_gap,
}
#: The values that a measure can take where they are bounded; no interval reaches beyond them.
_BOUNDS = {"optimality_gap": (0.0, math.inf)}
_PROBABILITY = (0.0, 1.0)


@dataclass(frozen=True)
class Estimate:
    """A point estimate and its interval.

    Attributes:
        value: the estimate.
        interval: the 95 % expanded percentile interval; None below three seeds, and where all resamples agree, so that
            the runs show no spread.
        coverage: how often such an interval held the true value in simulations, at least (`measured_coverage`); None
            without an interval.
    """

    value: float
    interval: tuple[float, float] | None = None
    coverage: float | None = None


def aggregate(scores: Scores, repetitions: int = REPETITIONS) -> dict[str, Estimate]:
    """Return IQM, median, mean and optimality gap over runs and tasks.

    Args:
        scores: (runs, tasks) float, 0–1.

    Raises:
        ResultError: not two-dimensional, not finite, or not on the 0–1 scale.
    """
    scores = checked(scores)
    seeds, tasks = scores.shape
    points = _all_aggregates(scores)
    if seeds < FEWEST_SEEDS:
        return {name: Estimate(float(value)) for name, value in zip(AGGREGATES, points, strict=True)}
    values = scores.ravel()
    found = _percentiles(_drawn_places(seeds, tasks, repetitions), lambda places: _all_aggregates(values[places]))
    low, high = expanded(points, found, seeds, tasks)
    return {
        name: _estimate(name, points[index], (low[index], high[index]), seeds, tasks, _BOUNDS.get(name))
        for index, name in enumerate(AGGREGATES)
    }


def mean_estimates(stack: Scores, repetitions: int = REPETITIONS) -> list[Estimate]:
    """Return the mean over runs and tasks of each of several matrices, e.g. scores and differences of the same runs.

    All are resampled together: a resample takes the same runs from each. Alone, each gets the interval of `aggregate`.

    Args:
        stack: (k, runs, tasks) float, on the 0–1 scale.

    Raises:
        ResultError: as in `aggregate`.
    """
    matrices = [checked(matrix) for matrix in stack]
    seeds, tasks = matrices[0].shape
    points = np.array([matrix.mean() for matrix in matrices])
    if seeds < FEWEST_SEEDS:
        return [Estimate(float(point)) for point in points]
    values = np.stack([matrix.ravel() for matrix in matrices])
    found = _percentiles(_drawn_places(seeds, tasks, repetitions), lambda places: mean(values[:, places]))
    ends = expanded(points, found, seeds, tasks).T
    return [
        _estimate("mean", point, (low, high), seeds, tasks) for point, (low, high) in zip(points, ends, strict=True)
    ]


def jackknife(points: Scores, without: Scores) -> tuple[Scores, Scores]:
    """Return estimates and half the widths of their 95 % intervals, from what comes out without each seed.

    For quantities that have no bootstrap interval, such as the best of several runs: a resample holds the best run or
    not, so that a percentile interval ends at the estimate. Variances of tasks add up; the half width is t_{m(n−1)}
    standard errors, with the degrees of freedom of `expansion`.

    Args:
        points: (tasks, k) from all n ≥ 2 seeds.
        without: (n, tasks, k) without each of them.

    Returns:
        Mean over tasks and half width, both (k,).
    """
    seeds, tasks = without.shape[:2]
    variances = (seeds - 1) / seeds * ((without - without.mean(0)) ** 2).sum(0)
    t = float(scipy.stats.t.ppf((1 + _CONFIDENCE) / 2, tasks * (seeds - 1)))
    return points.mean(0), t * np.sqrt(variances.sum(0)) / tasks


@lru_cache(maxsize=4)
def _drawn_places(seeds: int, tasks: int, repetitions: int) -> NDArray[np.int32]:
    """Return rliable's stratified resamples as places in a matrix of scores: (repetitions, runs, tasks).

    They depend on the matrix's shape only. All models of a table share them, and its measures are taken of many
    resamples at once, instead of one by one as `rliable.library.get_interval_estimates` does.
    """
    places = np.arange(seeds * tasks, dtype=np.int32).reshape(seeds, tasks)
    with _seeded():
        return np.stack([drawn for (drawn,), _ in library.StratifiedBootstrap(places).bootstrap(repetitions)])


def _percentiles(places: NDArray[np.int32], measure: Callable[[NDArray[np.int32]], Scores]) -> Scores:
    """Return the ends of the percentile intervals of k measures, (2, k); `measure` takes (b, runs, tasks) places."""
    blocks = np.array_split(places, max(1, places.size // _BLOCK))
    values = np.concatenate([measure(block) for block in blocks], axis=-1)
    outside = (1 - _CONFIDENCE) / 2
    return np.percentile(values, [100 * outside, 100 * (1 - outside)], axis=-1)


def _all_aggregates(scores: Scores) -> Scores:
    return np.array([measure(scores) for measure in AGGREGATES.values()])


def _estimate(
    measure: str,
    value: float,
    interval: tuple[float, float],
    seeds: int,
    tasks: int,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Return an estimate with its interval cut to the measure's bounds, or without one where it has no width."""
    low, high = interval
    if high - low < _ROUNDING:
        return Estimate(float(value))
    lowest, highest = bounds or (-math.inf, math.inf)
    interval = (max(float(low), lowest), min(float(high), highest))
    return Estimate(float(value), interval, measured_coverage(measure, seeds, tasks))


def expansion(seeds: int, tasks: int) -> float:
    """Return the factor by which a 95 % percentile interval is too short: √(n/(n−1)) · t_{m(n−1), 0.975} / z_{0.975}.

    A bootstrap over n seeds has a standard error that is too small by √((n−1)/n), and takes a spread for known that
    was estimated from m(n−1) degrees of freedom, those of m tasks that are resampled apart. Hesterberg (2015, "What
    Teachers Should Know About the Bootstrap", The American Statistician 69) widens percentile intervals by taking
    quantiles further out, at Φ(−√(n/(n−1)) · t). For a normal bootstrap distribution this is the same. But n runs have
    no resamples beyond the lowest and highest of them; stretching the interval reaches further
    (`benchmarks/coverage.md` compares the two).
    """
    t = float(scipy.stats.t.ppf((1 + _CONFIDENCE) / 2, tasks * (seeds - 1)))
    z = float(scipy.stats.norm.ppf((1 + _CONFIDENCE) / 2))
    return math.sqrt(seeds / (seeds - 1)) * t / z


def expanded(points: Scores, intervals: Scores, seeds: int, tasks: int) -> Scores:
    """Return percentile intervals stretched about the point estimates by `expansion`.

    Args:
        points: (k,) estimates.
        intervals: (2, k) lower and upper ends of their 95 % percentile intervals.

    Returns:
        (2, k). An end on the estimate's other side, as a biased measure may have it, is moved to the estimate.
    """
    factor = expansion(seeds, tasks)
    below, above = np.maximum(points - intervals[0], 0), np.maximum(intervals[1] - points, 0)
    return np.stack([points - factor * below, points + factor * above])


def probability_of_improvement(a: Scores, b: Scores, repetitions: int = REPETITIONS) -> Estimate:
    """Return how probable it is that a run of A beats a run of B on a task drawn at random; ties count half.

    The interval is expanded for the smaller number of seeds: the smaller sample has most of the error, and the
    difference of two means has at least its degrees of freedom (Welch).

    Args:
        a, b: (runs, tasks) float, the same tasks in the same order.

    Raises:
        ResultError: the numbers of tasks differ, or as in `aggregate`.
    """
    a, b = _checked_pair(a, b)
    point = _wins(a, b)
    seeds, tasks = min(len(a), len(b)), a.shape[1]
    if seeds < FEWEST_SEEDS:
        return Estimate(float(point[0]))
    places = _drawn_pairs(len(a), len(b), a.shape[1], repetitions)
    values = _drawn_wins(a, b, *places)
    outside = (1 - _CONFIDENCE) / 2
    found = np.percentile(values, [100 * outside, 100 * (1 - outside)])
    low, high = expanded(point, found.reshape(2, 1), seeds, tasks)
    return _estimate("probability_of_improvement", point[0], (low[0], high[0]), seeds, tasks, _PROBABILITY)


@lru_cache(maxsize=16)
def _drawn_pairs(
    runs_a: int, runs_b: int, tasks: int, repetitions: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how often rliable's independent resamples of two matrices hold each run: (repetitions, runs, tasks) each.

    They depend on the shapes only, so that all pairs of a table with these numbers of runs share them.
    """
    shapes = [(runs, tasks) for runs in (runs_a, runs_b)]
    places = [np.arange(runs * tasks, dtype=np.int32).reshape(runs, tasks) for runs, _ in shapes]
    with _seeded():
        drawn = [pair for pair, _ in library.StratifiedIndependentBootstrap(*places).bootstrap(repetitions)]
    of_a, of_b = (np.stack([pair[index] for pair in drawn]) for index in (0, 1))
    return _counts(of_a).reshape(repetitions, *shapes[0]), _counts(of_b).reshape(repetitions, *shapes[1])


def _drawn_wins(a: Scores, b: Scores, of_a: NDArray[np.float64], of_b: NDArray[np.float64]) -> Scores:
    """Return the share of pairs of runs in which A's is higher, in each resample: (repetitions,)."""
    one, other = a[:, None], b[None]
    wins = (one > other) + 0.5 * (one == other)
    return np.asarray(np.einsum("rit,ijt,rjt->r", of_a, wins, of_b, optimize=True) / wins.size)


def _wins(a: Scores, b: Scores) -> Scores:
    """Return the share of pairs of runs in which A's is higher, as one number in an array."""
    one, other = a[:, None], b[None]
    return np.array([((one > other) + 0.5 * (one == other)).mean()])


def performance_profile(
    scores: Scores, thresholds: NDArray[np.float64], repetitions: int = REPETITIONS
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the share of runs × tasks above each threshold, and its interval (2, thresholds); None below three seeds.

    The intervals hold for one threshold at a time. Where all runs are on one side, they have no width.
    """
    scores = checked(scores)
    seeds, tasks = scores.shape
    share = _share_above(scores, thresholds)
    if seeds < FEWEST_SEEDS:
        return share, None
    is_above = (scores.reshape(-1, 1) > thresholds).astype(float)
    places = _drawn_places(seeds, tasks, repetitions)
    found = _percentiles(places, lambda block: (_counts(block) @ is_above / scores.size).T)
    return share, np.clip(expanded(share, found, seeds, tasks), *_PROBABILITY)


def _counts(places: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return how often each resample holds each score: (b, runs · tasks) of (b, runs, tasks) places."""
    repetitions, size = len(places), places[0].size
    numbered = places.reshape(repetitions, size) + size * np.arange(repetitions)[:, None]
    return np.bincount(numbered.ravel(), minlength=repetitions * size).reshape(repetitions, size).astype(float)


def _share_above(scores: Scores, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((scores[..., None] > thresholds).mean((0, 1)))


@dataclass(frozen=True)
class Permutation:
    """The outcome of a permutation test.

    Attributes:
        p: two-sided.
        smallest_p: the smallest p that the test can give for these numbers of seeds and tasks.
        is_exact: whether all assignments were tried.
    """

    p: float
    smallest_p: float
    is_exact: bool

    @property
    def is_separable(self) -> bool:
        """Whether the two models differ by more than their seeds explain."""
        return self.p < SIGNIFICANCE

    @property
    def can_separate(self) -> bool:
        """Whether there are enough seeds for any difference to be separable."""
        return self.smallest_p < SIGNIFICANCE


def permutation_test(a: Scores, b: Scores, repetitions: int = REPETITIONS) -> Permutation:
    """Test whether two models have the same scores: could their runs be exchanged?

    The statistic is the difference of the means over runs and tasks, |mean(A) − mean(B)|. If the models do not differ
    on any task, every assignment of a task's runs to the two models is equally probable, and p is the share of
    assignments with at least the statistic that was found (Fisher, 1935). Runs are exchanged within each task,
    independently of the other tasks: runs of one seed on two tasks are two trainings. All assignments are tried if
    there are at most 100,000. Else `repetitions` are drawn with a fixed seed, and the one that was found counts as one
    more of them, so that p is never too small (Phipson and Smyth, 2010). Runs of one seed meet the same evaluation
    episodes; if that makes their scores alike, p is too large rather than too small.

    The mean is compared rather than the IQM, by which models are ranked: cutting off the highest and the lowest runs
    makes different assignments equal, and four runs that are all above four others would have p = 0.057.

    With n runs each on one task, p is at least 2 / C(2n, n): 0.33, 0.10, 0.029, 0.008 for n = 2, 3, 4, 5. On m tasks it
    is at least 2 / C(2n, n)ᵐ.

    Args:
        a, b: (runs, tasks) float, the same tasks in the same order; the numbers of runs may differ.

    Raises:
        ResultError: the numbers of tasks differ, or as in `aggregate`.
    """
    a, b = _checked_pair(a, b)
    runs, tasks = len(a), a.shape[1]
    count = math.comb(runs + len(b), runs) ** tasks
    is_exact = count <= _MOST_ASSIGNMENTS
    orders = _all_orders(runs, len(b), tasks) if is_exact else _drawn_orders(runs + len(b), tasks, repetitions)
    shuffled = np.take_along_axis(np.concatenate([a, b])[None], orders, axis=1)
    statistics = np.abs(mean(shuffled[:, :runs]) - mean(shuffled[:, runs:]))
    found = float(np.abs(mean(a) - mean(b)))
    hits = int((statistics >= found - _ROUNDING).sum())
    # With equal numbers of runs, exchanging all of them gives the same statistic.
    smallest = (2 if runs == len(b) else 1) / count
    if is_exact:
        return Permutation(hits / count, smallest, True)
    return Permutation((hits + 1) / (repetitions + 1), max(smallest, 1 / (repetitions + 1)), False)


def sign_flip_test(contrasts: Scores, repetitions: int = REPETITIONS) -> Permutation:
    """Test whether the mean of paired differences is zero, by giving each of them either sign.

    Under the null hypothesis each contrast is as probable with the other sign, independently of the others. For the
    difference of two runs of one seed this holds if it does not matter which of them had which level. All 2ᴺ signs are
    tried up to N = 20; beyond that, `repetitions` are drawn, and the signs that were found count as one more of them.

    p is at least 2 / 2ᴺ: 0.25, 0.062, 0.031 for N = 3, 5, 6.

    Args:
        contrasts: (…) float, N in all, e.g. (seeds, tasks).
    """
    values = np.asarray(contrasts, dtype=np.float64).ravel()
    found = abs(values.sum()) - _ROUNDING
    smallest = 2.0 ** (1 - values.size)
    if values.size <= _MOST_FLIPS:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return Permutation(float((np.abs(sums) >= found).mean()), smallest, True)
    signs = np.where(np.random.default_rng(_SEED).random((repetitions, values.size)) < 0.5, -1.0, 1.0)
    hits = int((np.abs(signs @ values) >= found).sum())
    return Permutation((hits + 1) / (repetitions + 1), max(smallest, 1 / (repetitions + 1)), False)


def _all_orders(runs_a: int, runs_b: int, tasks: int) -> NDArray[np.intp]:
    """Return all assignments, (assignments, runs of both, tasks): which runs come first, and so count as A's."""
    one_task = _orders_of_one_task(runs_a, runs_b)
    choices = np.indices((len(one_task),) * tasks).reshape(tasks, -1)
    return np.stack([one_task[choice] for choice in choices], axis=-1)


@lru_cache(maxsize=8)
def _orders_of_one_task(runs_a: int, runs_b: int) -> NDArray[np.intp]:
    runs = range(runs_a + runs_b)
    return np.array([[*chosen, *(run for run in runs if run not in chosen)] for chosen in combinations(runs, runs_a)])


@lru_cache(maxsize=4)
def _drawn_orders(runs: int, tasks: int, repetitions: int) -> NDArray[np.intp]:
    """Return drawn assignments; all comparisons of a table with these numbers of runs and tasks share them."""
    orders = np.broadcast_to(np.arange(runs)[None, :, None], (repetitions, runs, tasks))
    return np.random.default_rng(_SEED).permuted(orders, axis=1)


def _checked_pair(a: Any, b: Any) -> tuple[Scores, Scores]:
    a, b = checked(a), checked(b)
    if a.shape[1] != b.shape[1]:
        raise ResultError(f"Models with {a.shape[1]} and {b.shape[1]} tasks cannot be compared; take the common tasks.")
    return a, b


def checked(scores: Any) -> Scores:
    """Return the matrix as float64 after the checks that rliable leaves out.

    Raises:
        ResultError: not (runs, tasks), empty, NaN or infinite, or on the 0–100 scale.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ResultError(f"Scores must be a matrix of runs × tasks, not of shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise ResultError("Scores hold NaN or infinite values; a run without a score must be left out, not averaged.")
    highest, typical = np.abs(matrix).max(), np.median(np.abs(matrix))
    if highest > IMPLAUSIBLE_SCORE or typical > _IMPLAUSIBLE_MEDIAN:
        shown = f"up to {highest:g} with a median of {typical:g}"
        raise ResultError(f"Scores of {shown} are not on the 0–1 scale; divide percentages by 100.")
    return matrix


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed numpy's global generator and restore it afterwards; rliable draws from it and ignores its `random_state`."""
    before = np.random.get_state()
    np.random.seed(_SEED)
    try:
        yield
    finally:
        np.random.set_state(before)
