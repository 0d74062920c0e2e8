"""Interval statistics over runs × tasks, computed by rliable (Agarwal et al., 2021, arXiv 2108.13264).

Scores are on the 0–1 scale here and everywhere in the code; they are multiplied by 100 only when shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rliable import library, metrics

from dtbench.errors import ResultError
from dtbench.results.files import IMPLAUSIBLE_SCORE

#: Bootstrap repetitions. rliable's own default is 50,000; 2,000 are quick, and the intervals differ in the third digit.
REPETITIONS = 2_000
_CONFIDENCE = 0.95
_SEED = 0
#: A matrix is taken to be on the 0–100 scale if one score is implausible, or half of the scores are above five times
#: the expert's. The second rule finds percentages of weak models, which may all be below thirty.
_IMPLAUSIBLE_MEDIAN = 5.0

Scores = NDArray[np.float64]

AGGREGATES: dict[str, Callable[[Scores], float]] = {
    "iqm": metrics.aggregate_iqm,
    "median": metrics.aggregate_median,
    "mean": metrics.aggregate_mean,
    "optimality_gap": metrics.aggregate_optimality_gap,
}


@dataclass(frozen=True)
class Estimate:
    """A point estimate and its 95 % stratified bootstrap interval; None where there are fewer than two runs."""

    value: float
    interval: tuple[float, float] | None


def aggregate(scores: Scores, repetitions: int = REPETITIONS) -> dict[str, Estimate]:
    """Return IQM, median, mean and optimality gap over runs and tasks.

    Args:
        scores: (runs, tasks) float, 0–1.

    Raises:
        ResultError: not two-dimensional, not finite, or not on the 0–1 scale.
    """
    scores = checked(scores)
    points = {name: float(measure(scores)) for name, measure in AGGREGATES.items()}
    if len(scores) < 2:
        return {name: Estimate(value, None) for name, value in points.items()}

    def all_measures(matrix: Scores) -> NDArray[np.float64]:
        return np.array([measure(matrix) for measure in AGGREGATES.values()])

    with _seeded():
        _, intervals = library.get_interval_estimates(
            {"model": scores}, all_measures, reps=repetitions, confidence_interval_size=_CONFIDENCE
        )
    low, high = intervals["model"]
    return {
        name: Estimate(points[name], (float(low[index]), float(high[index]))) for index, name in enumerate(AGGREGATES)
    }


def probability_of_improvement(a: Scores, b: Scores, repetitions: int = REPETITIONS) -> Estimate:
    """Return how probable it is that a run of A beats a run of B on a task drawn at random; ties count half.

    Args:
        a, b: (runs, tasks) float, the same tasks in the same order.
    """
    a, b = checked(a), checked(b)
    if a.shape[1] != b.shape[1]:
        raise ResultError(f"Models with {a.shape[1]} and {b.shape[1]} tasks cannot be compared; take the common tasks.")
    point = float(metrics.probability_of_improvement(a, b))
    if min(len(a), len(b)) < 2:
        return Estimate(point, None)
    with _seeded():
        _, intervals = library.get_interval_estimates(
            {"pair": (a, b)}, metrics.probability_of_improvement, reps=repetitions
        )
    low, high = np.ravel(intervals["pair"])
    return Estimate(point, (float(low), float(high)))


def performance_profile(
    scores: Scores, thresholds: NDArray[np.float64], repetitions: int = REPETITIONS
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the share of runs × tasks above each threshold, and the interval (2, thresholds) or None."""
    scores = checked(scores)
    if len(scores) < 2:
        return np.array([(scores > threshold).mean() for threshold in thresholds]), None
    with _seeded():
        profiles, intervals = library.create_performance_profile({"model": scores}, thresholds, reps=repetitions)
    return profiles["model"], np.asarray(intervals["model"])


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
