"""The same runs scored under four protocols: what does it add to select checkpoint, target or run by evaluation?

(a) Last checkpoint, score target: the leaderboard's. Nothing is selected.
(b) Best evaluation: the best of the evaluations during training and the final one, all at the score target.
(c) Best target: the last checkpoint at the target with the highest mean score.
(d) An online budget: k evaluation episodes are spent by a UCB bandit over candidate policies (`bandit`), and the one
    that it takes counts with its recorded mean. The candidates depend on what a person has trained:

    - One run: the targets of one training run. A person trained the model once and looks for the target to ask for.
      Each seed gives a value, so that intervals and differences over seeds are those of any score.
    - All runs: every target of every seed's run on the task. A person trained the model n times and looks for the
      policy to deploy; with one target this selects the seed. The n seeds give one value per task. Its interval is the
      jackknife's over seeds (`stats.jackknife`), for a bootstrap cannot tell how the best of n runs varies.

    At k = 1 a candidate drawn at random is deployed: the mean over the candidates. With k → ∞ it is the one with the
    best recorded mean, which for one run is (c).

(b) and (c) select and score with the same episodes, so that they are optimistic: the highest of several noisy means is
above the mean of the policy that has it. So is (d) where k is large. (c) is also given with the target chosen on one
half of the episodes and scored on the other, both ways round; this removes the optimism, and chooses with half the
episodes. Of the evaluations for (b), only means were recorded.

Means over tasks are taken, not IQMs: differences of protocols add up, and a budget deploys one policy per task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dtbench.results import stats
from dtbench.results.bandit import deployed_scores
from dtbench.results.schema import Result
from dtbench.results.sections import Row
from dtbench.results.tracking import acts_on_return, episodes_by_target

LAST, EVALUATION, TARGET, HALVES = "last checkpoint", "best evaluation", "best target", "best target, other half"
ONE_TARGET = "one target"
NO_EVALUATIONS = "no evaluations during training"
IGNORES_TARGET = "ignores the target"
#: How often the jackknife intervals of "all runs" held the true value at least, by seeds and tasks: 1,000 simulated
#: cases each, over three score shapes, two strengths of selection, and values as well as differences
#: (tests/results/test_protocols.py measures it).
POOL_COVERAGE = {
    3: {1: 0.67, 3: 0.75, 9: 0.78},
    5: {1: 0.67, 3: 0.76, 9: 0.87},
    10: {1: 0.67, 3: 0.79, 9: 0.89},
}

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """A row's score under one protocol.

    Attributes:
        scores: (seeds, tasks) normalised scores, 0–1; None for a pool of all runs.
        value: their mean with its interval.
        added: the mean difference from the last checkpoint with its interval, seed by seed.
        test: sign flips of the differences; None where they cannot be negative, and for a pool of all runs.
    """

    scores: Scores | None
    value: stats.Estimate
    added: stats.Estimate
    test: stats.Permutation | None = None


@dataclass(frozen=True)
class Pool:
    """A row's value when all its runs are candidates.

    Attributes:
        candidates: the number of candidates of each task.
        by_task: (budgets, tasks) values.
        outcomes: one per budget.
        known: the value if all candidates' means were known.
    """

    candidates: list[int]
    by_task: Scores
    outcomes: list[Outcome]
    known: float


@dataclass(frozen=True)
class Protocols:
    """A row's scores under the protocols, over the seeds that have every task.

    Attributes:
        outcomes: protocol → outcome; protocols that need what the records lack are in `missing`.
        missing: protocol → the reason.
        one_run: the targets of one run as candidates, an outcome per budget; empty with one target.
        all_runs: the targets of all runs as candidates.
    """

    row: Row
    seeds: int
    outcomes: dict[str, Outcome]
    all_runs: Pool
    one_run: list[Outcome] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def protocols(row: Row, tasks: Sequence[str]) -> Protocols | None:
    """Score a row's runs under all protocols; None if no seed has every task."""
    runs = row.complete_seeds(tasks)
    if not runs:
        return None
    candidates = [[_candidates(result) for result in results] for results in runs]
    last = _matrix(runs, lambda result: result.score)
    found: dict[str, Scores] = {LAST: last}
    missing: dict[str, str] = {}
    if all(result.measured.scores.during_training for results in runs for result in results):
        found[EVALUATION] = _matrix(runs, best_evaluation)
    else:
        missing[EVALUATION] = NO_EVALUATIONS
    budgets: list[Scores] = []
    if all(len(arms) > 1 for results in candidates for arms in results):
        found[TARGET] = np.array([[max(map(np.mean, arms)) for arms in results] for results in candidates])
        if all(len(episodes) > 1 for results in candidates for arms in results for episodes in arms):
            found[HALVES] = np.array([[best_on_other_half(arms) for arms in results] for results in candidates])
        by_run = np.array([[deployed_scores(arms)[0] for arms in results] for results in candidates])
        budgets = list(np.moveaxis(by_run, -1, 0))
    else:
        missing[TARGET] = IGNORES_TARGET if not acts_on_return(row.model) else ONE_TARGET
    outcomes = _outcomes([*found.values(), *budgets], last)
    one_run = [_tested(outcome, last) for outcome in outcomes[len(found) :]]
    named = dict(zip(found, outcomes, strict=False))
    if HALVES in named:
        named[HALVES] = _tested(named[HALVES], last)
    return Protocols(row, len(runs), named, _pool(candidates, last), one_run, missing)


def best_evaluation(result: Result) -> float:
    """Return the best mean normalised score of a run's evaluations at the score target, the final one among them."""
    during = result.measured.scores.during_training or []
    return max([result.score, *(score for _, score in during if math.isfinite(score))])


def best_on_other_half(arms: Sequence[Sequence[float]]) -> float:
    """Choose the arm with the best mean over one half of the episodes, score it on the other; mean of both ways.

    Args:
        arms: the episode scores of each candidate, at least two. Episodes of one place meet the same environment, so
            that the halves are the even and the odd places for all.
    """
    halves = [np.array([np.mean(scores[start::2]) for scores in arms]) for start in (0, 1)]
    return float(np.mean([scored[chosen.argmax()] for chosen, scored in (halves, halves[::-1])]))


def _candidates(result: Result) -> list[list[float]]:
    """Return the episode scores of a run's policies, one per target; one that ignores targets is a single policy."""
    if not acts_on_return(result.model.name):
        return [result.measured.scores.normalized]
    return [episodes.normalized for episodes in episodes_by_target(result).values()]


def _matrix(runs: Sequence[Sequence[Result]], measure: Callable[[Result], float]) -> Scores:
    return np.array([[measure(result) for result in results] for results in runs])


def _outcomes(matrices: Sequence[Scores], last: Scores) -> list[Outcome]:
    """Return the outcomes of (seeds, tasks) matrices of the same runs."""
    estimates = stats.mean_estimates(np.stack([*matrices, *(matrix - last for matrix in matrices)]))
    values, added = estimates[: len(matrices)], estimates[len(matrices) :]
    return [Outcome(*outcome) for outcome in zip(matrices, values, added, strict=True)]


def _tested(outcome: Outcome, last: Scores) -> Outcome:
    """Add the test of the differences from the last checkpoint."""
    assert outcome.scores is not None
    return replace(outcome, test=stats.sign_flip_test(outcome.scores - last))


def _pool(candidates: Sequence[Sequence[list[list[float]]]], last: Scores) -> Pool:
    """Let bandits choose among the policies of all runs, and of all but each one for the jackknife."""
    seeds, tasks = last.shape
    values, without, sizes, known = [], [], [], []
    for task in range(tasks):
        arms = [arm for results in candidates for arm in results[task]]
        owner = np.repeat(np.arange(seeds), [len(results[task]) for results in candidates])
        left_out = [owner != seed for seed in range(seeds)] if seeds >= stats.FEWEST_SEEDS else []
        found = deployed_scores(arms, np.stack([np.ones(len(arms), dtype=bool), *left_out]))
        values.append(found[0])
        without.append(found[1:])
        sizes.append(len(arms))
        known.append(max(map(np.mean, arms)))
    by_task = np.stack(values)
    base, base_without = last.mean(0)[:, None], (last.sum(0) - last)[:, :, None] / max(seeds - 1, 1)
    rest = np.stack(without, axis=1)
    value = _jackknifed(by_task, rest)
    added = _jackknifed(by_task - base, rest - base_without[: len(rest)])
    outcomes = [Outcome(None, *pair) for pair in zip(value, added, strict=True)]
    return Pool(sizes, by_task.T, outcomes, float(np.mean(known)))


def _jackknifed(points: Scores, without: Scores) -> list[stats.Estimate]:
    """Return the mean over tasks for each budget.

    Args:
        points: (tasks, budgets) from all seeds.
        without: (seeds, tasks, budgets) without each of them; empty below three seeds.
    """
    if not len(without):
        return [stats.Estimate(float(value)) for value in points.mean(0)]
    values, halves = stats.jackknife(points, without)
    return [
        stats.Estimate(float(value), (float(value - half), float(value + half)) if half else None)
        for value, half in zip(values, halves, strict=True)
    ]


def pool_coverage(seeds: int, tasks: int) -> float | None:
    """Return the measured coverage of the intervals of "all runs" for the next lower sizes; None below three seeds."""
    lower = [number for number in POOL_COVERAGE if number <= seeds]
    if not lower:
        return None
    by_tasks = POOL_COVERAGE[max(lower)]
    return by_tasks[max(number for number in by_tasks if number <= tasks)]
