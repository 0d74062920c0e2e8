"""Return asked for against return got: does a return-conditioned model do what it is asked?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dtbench.registry import MODELS
from dtbench.results.schema import EpisodeScores, Result

#: Of fewer targets, a rank correlation says nothing: of two it is -1, 0 or 1.
FEWEST_TARGETS = 3


@dataclass(frozen=True)
class Tracking:
    """The returns of one model on one task at several targets.

    Attributes:
        targets: (targets,) the returns asked for, ascending, in units of the environment's return.
        returns: (seeds, targets) the mean returns got.
        correlations: (seeds,) Spearman's rank correlation of asked and got; None below three targets.
        errors: (seeds,) mean of |got − asked| over targets, as a share of the range of the targets; None likewise.

    Both are over the targets beside the score target if these are at least three, because the data may hold no such
    return; otherwise over all.
    """

    targets: list[float]
    returns: NDArray[np.float64]
    correlations: NDArray[np.float64] | None = None
    errors: NDArray[np.float64] | None = None


def acts_on_return(model: str) -> bool:
    """Say whether a model acts on the return it is asked for; of one that is not ours it is assumed."""
    return model not in MODELS or MODELS[model].conditions_on_return


def episodes_by_target(result: Result) -> dict[float, EpisodeScores]:
    """Return a finished run's target → episodes, ascending, the score target among them."""
    scores = result.measured.scores
    found = {float(target): episodes for target, episodes in scores.per_target.items()}
    return dict(sorted({**found, result.task.score_target: scores}.items()))


def track(results: Sequence[Result]) -> Tracking | None:
    """Compare asked and got for one model's runs on one task, each seed by itself.

    Returns:
        None unless all runs share at least two targets.
    """
    by_run = [episodes_by_target(result) for result in results]
    targets = sorted(set.intersection(*map(set, by_run))) if by_run else []
    if len(targets) < 2:
        return None
    got = np.array([[np.mean(episodes[target].returns) for target in targets] for episodes in by_run])
    counted = [place for place, target in enumerate(targets) if target != results[0].task.score_target]
    if len(counted) < FEWEST_TARGETS:
        counted = list(range(len(targets)))
    if len(counted) < FEWEST_TARGETS:
        return Tracking(targets, got)
    asked, counted_got = np.array(targets)[counted], got[:, counted]
    return Tracking(
        targets,
        got,
        np.array([rank_correlation(asked, returns) for returns in counted_got]),
        np.abs(counted_got - asked).mean(1) / (asked[-1] - asked[0]),
    )


def rank_correlation(asked: Sequence[float] | NDArray[np.float64], got: Sequence[float] | NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation of at least two targets and the returns got; 0 where these are all equal."""
    if len(set(map(float, got))) < 2:
        return 0.0  # the same return whatever the target
    from scipy.stats import spearmanr  # a second of importing, which planning need not wait for

    return float(spearmanr(asked, got).statistic)
