"""Results as pandas tables: a row per run, per episode, or per aggregate. Scores are on the 0–1 scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dtbench.console import err
from dtbench.results.files import read_folder
from dtbench.results.labels import row_names
from dtbench.results.schema import DONE, Result
from dtbench.results.sections import EVERYTHING, Section, Selection, sections
from dtbench.results.text import one_line
from dtbench.results.tracking import episodes_by_target

#: What says which run a row is of.
IDENTITY = ("suite", "version", "source", "preset", "model", "label", "config_hash", "task", "seed")
#: The further columns of a run.
RUN = (
    "status", "score", "return_mean", "length_mean", "episodes", "score_target", "steps", "train_s", "steps_per_s",
    "device", "precision", "initial_weights", "env_id", "dataset_id", "fingerprint", "dtbench_version", "commit",
)  # fmt: skip
#: The further columns of an episode.
EPISODE = ("target", "episode", "env_seed", "return", "length", "normalized")
#: The columns of an aggregate.
AGGREGATE = (
    "suite", "source", "preset", "part", "model", "tasks", "seeds", "statistic", "estimate", "low", "high", "coverage",
)  # fmt: skip


def read_all(root: str | Path) -> list[Result]:
    """Read all results under a folder, and name on stderr what had to be left out.

    Raises:
        ResultError: there is no such folder, or no result in it that can be read.
    """
    results, left_out = read_folder(Path(root))
    if left_out:
        more = f" (and {len(left_out) - 1} more files)" if len(left_out) > 1 else ""
        err.print(f"Left out: {one_line(left_out[0])}{more}", markup=False)
    return results


def runs(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row per run, unfinished ones included: their score and times are missing."""
    rows = [{**identity, **_run(result)} for identity, result in _identified(results)]
    return pd.DataFrame(rows, columns=[*IDENTITY, *RUN])


def episodes(results: Sequence[Result], *, all_targets: bool = False) -> pd.DataFrame:
    """Return a row per episode of the finished runs, in the order of the episodes.

    Args:
        results: of any suites.
        all_targets: also those at returns that are diagnostics and not part of the score.
    """
    rows = [
        {**identity, **episode}
        for identity, result in _identified(results)
        if result.status == DONE
        for episode in _episodes(result, all_targets)
    ]
    return pd.DataFrame(rows, columns=[*IDENTITY, *EPISODE])


def aggregates(results: Sequence[Result], selection: Selection = EVERYTHING) -> pd.DataFrame:
    """Return four rows per model that has a seed on every task: IQM, median, mean, optimality gap with intervals.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: results that cannot be in one table.
    """
    rows = [row for section in sections(results, selection) for row in _aggregates(section)]
    return pd.DataFrame(rows, columns=list(AGGREGATE))


def _identified(results: Sequence[Result]) -> Iterator[tuple[dict[str, Any], Result]]:
    """Yield each result with what says which run it is; labels are those of the leaderboard."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.suite.id, result.task.source, result.preset), []).append(result)
    labels = {
        id(result): name.label
        for group in groups.values()
        for result, name in zip(group, row_names(group), strict=True)
    }
    for result in results:
        model, task, suite = result.model, result.task, result.suite
        values = (
            suite.name, suite.version, task.source, result.preset, model.name, labels[id(result)], model.config_hash,
            task.id, result.seed,
        )  # fmt: skip
        yield dict(zip(IDENTITY, values, strict=True)), result


def _run(result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {
        "status": result.status,
        "score_target": result.task.score_target,
        "initial_weights": result.model.initial_weights,
        "env_id": result.task.env_id,
        "dataset_id": result.task.dataset_id,
        "fingerprint": result.task.fingerprint,
        "dtbench_version": result.dtbench_version,
        "commit": result.provenance.git,
    }
    if result.status != DONE:
        return row
    scores, training, evaluation = result.measured
    return row | {
        "score": result.score,
        "return_mean": sum(scores.returns) / len(scores.returns),
        "length_mean": sum(scores.lengths) / len(scores.lengths),
        "episodes": evaluation.episodes,
        "steps": training.steps,
        "train_s": training.wall_s,
        "steps_per_s": training.steps_per_s,
        "device": training.device,
        "precision": training.precision,
    }


def _episodes(result: Result, all_targets: bool) -> Iterator[dict[str, Any]]:
    seeds = result.measured.evaluation.env_seeds
    for target, found in episodes_by_target(result).items():
        if not (all_targets or target == result.task.score_target):
            continue
        for place, values in enumerate(zip(seeds, found.returns, found.lengths, found.normalized, strict=True)):
            yield dict(zip(EPISODE, (target, place, *values), strict=True))


def _aggregates(section: Section) -> Iterator[dict[str, Any]]:
    for label, estimates in section.estimates.items():
        seeds = len(section.complete[label])
        for statistic, estimate in estimates.items():
            low, high = estimate.interval or (None, None)
            values = (
                section.suite, section.source, section.preset, section.part, label, len(section.tasks), seeds,
                statistic, estimate.value, low, high, estimate.coverage,
            )  # fmt: skip
            yield dict(zip(AGGREGATE, values, strict=True))
