"""Learning curves: from the records' evaluations during training, else from the curves logged beside the records."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtbench.errors import ResultError
from dtbench.results.files import result_path
from dtbench.results.schema import Result
from dtbench.results.sections import Section

#: What the curves are of.
SCORES, LOSSES = "normalised score × 100", "training loss"
#: The columns of the logged curves.
_STEP, _LOSS = "step", "train/loss"


@dataclass(frozen=True)
class SeedCurve:
    """One run's curve: (points,) training steps, and as many values."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class LearningCurves:
    """The curves of a section.

    Attributes:
        what: `SCORES` or `LOSSES`.
        curves: task → label of the row → a curve per seed that has one.
    """

    what: str
    curves: dict[str, dict[str, list[SeedCurve]]]


def learning_curves(section: Section, root: Path) -> LearningCurves:
    """Return the scores during training where a record holds some, else the training losses logged beside them.

    Args:
        section: of results.
        root: the folder they were read from.

    Raises:
        ResultError: there are neither.
    """
    for what in (SCORES, LOSSES):
        curves: dict[str, dict[str, list[SeedCurve]]] = {}
        for row in section.rows:
            for task in section.tasks:
                found = [_curve(result, root, what) for result in row.cells.get(task, [])]
                if kept := [curve for curve in found if curve is not None]:
                    curves.setdefault(task, {})[row.label] = kept
        if curves:
            return LearningCurves(what, {task: curves[task] for task in section.tasks if task in curves})
    raise ResultError(
        "These records hold no evaluations during training, and no logged curves lie beside them; run with "
        "--set evaluation.every=500, or with the preset learn."
    )


def mean_curve(curves: Sequence[SeedCurve]) -> SeedCurve:
    """Return the mean over seeds at the steps that all of them have."""
    shared = sorted(set.intersection(*(set(curve.steps.tolist()) for curve in curves)))
    by_seed = [dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True)) for curve in curves]
    values = [float(np.mean([seed[step] for seed in by_seed])) for step in shared]
    return SeedCurve(np.array(shared, dtype=float), np.array(values))


def _curve(result: Result, root: Path, what: str) -> SeedCurve | None:
    points = _scores(result) if what == SCORES else _losses(result, root)
    finite = {step: value for step, value in points if math.isfinite(value)}  # a resumed run logged a step twice
    if not finite:
        return None
    steps = sorted(finite)
    return SeedCurve(np.array(steps, dtype=float), np.array([finite[step] for step in steps]))


def _scores(result: Result) -> list[tuple[int, float]]:
    return [(step, 100 * score) for step, score in result.measured.scores.during_training or []]


def _losses(result: Result, root: Path) -> list[tuple[int, float]]:
    """Read the losses of all parts of a training; a part that cannot be read has none."""
    task, model = result.task, result.model
    file = result_path(root, result.suite.id, task.source, result.preset, model.folder, task.id, result.seed)
    points = []
    for part in sorted(file.with_suffix("").glob("csv/part-*/metrics.csv"), key=_number):
        try:
            with part.open(newline="", encoding="utf-8") as content:
                points += [(int(row[_STEP]), float(row[_LOSS])) for row in csv.DictReader(content) if row.get(_LOSS)]
        except (OSError, ValueError, KeyError):
            continue
    return points


def _number(part: Path) -> tuple[int, str]:
    """Return what parts are sorted by: their number."""
    number = part.parent.name.rpartition("-")[2]
    return (int(number) if number.isdigit() else -1, part.parent.name)
