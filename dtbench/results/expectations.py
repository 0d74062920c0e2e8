"""What a suite expects of its results where the right order is known: written in its file, checked after a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dtbench.results.schema import DONE, Result
from dtbench.results.tracking import rank_correlation
from dtbench.suites.suites import Expectation, Suite


@dataclass(frozen=True)
class Verdict:
    """Whether an expectation holds.

    Attributes:
        expectation: what the suite expects.
        holds: None if it cannot be checked, because one side has no results.
        figures: the scores or correlations that were compared, as text.
    """

    expectation: Expectation
    holds: bool | None
    figures: str


def check(suite: Suite, results: Sequence[Result]) -> list[Verdict]:
    """Compare a suite's expectations with finished results; a model counts with its mean over seeds.

    Expectations of tasks without any result are left out.
    """
    tasks = {result.task.id for result in results}
    return [_verdict(expectation, results) for expectation in suite.expected if expectation.task in tasks]


def _verdict(expectation: Expectation, results: Sequence[Result]) -> Verdict:
    by_model: dict[str, list[Result]] = {}
    for result in results:
        if result.task.id == expectation.task and result.status == DONE:
            by_model.setdefault(result.model.name, []).append(result)
    wanted = [*expectation.tracks_target, *expectation.better, *expectation.worse]
    present = [model for model in wanted if model in by_model]
    if expectation.tracks_target:
        correlations = {model: _tracking(by_model[model]) for model in present}
        measured = {model: value for model, value in correlations.items() if value is not None}
        holds = all(value >= expectation.correlation for value in measured.values()) if measured else None
        return Verdict(expectation, holds, f"rank correlation of target and return: {_listed(measured)}")
    scores = {model: float(np.mean([result.score for result in by_model[model]])) for model in present}
    better = {model: scores[model] for model in expectation.better if model in scores}
    worse = {model: scores[model] for model in expectation.worse if model in scores}
    holds = min(better.values()) > max(worse.values()) if better and worse else None
    return Verdict(expectation, holds, f"{_listed(better)} above {_listed(worse)}")


def _tracking(results: Sequence[Result]) -> float | None:
    """Return Spearman's correlation of return targets and mean returns, over all seeds; None with a single target."""
    targets = [entry for result in results for entry in result.measured.scores.per_target.items()]
    asked = [float(target) for target, _ in targets]
    got = [float(np.mean(episodes.returns)) for _, episodes in targets]
    if len(set(asked)) < 2:
        return None
    return rank_correlation(asked, got)


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{model} {value:.2f}" for model, value in values.items()) or "models without a result"
