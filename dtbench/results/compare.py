"""Two models compared: difference per task, probability of improvement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from dtbench.console import err
from dtbench.errors import ResultError, UnknownNameError
from dtbench.results import stats
from dtbench.results.files import read_folder
from dtbench.results.schema import Result
from dtbench.results.sections import EVERYTHING, Row, Section, Selection, sections
from dtbench.results.terminal import Whole
from dtbench.results.text import one_line


@dataclass(frozen=True)
class TaskDifference:
    """Mean normalised scores (0–1) of two models on a task, over all their seeds, and the difference a − b."""

    task: str
    a: float
    b: float
    difference: float


@dataclass(frozen=True)
class Comparison:
    """Two models compared in one section.

    Attributes:
        section: the section's title.
        a, b: labels of the models' rows.
        tasks: the tasks that both have.
        probability_of_improvement: how probable it is that a run of `a` beats one of `b`; None if a model has no seed
            with all common tasks.
    """

    section: str
    a: str
    b: str
    tasks: list[TaskDifference]
    probability_of_improvement: stats.Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for `--json`."""
        return asdict(self)


def compare(root: str | Path, a: str, b: str, selection: Selection = EVERYTHING) -> list[Comparison]:
    """Compare two models in every section that has both: difference per common task, probability of improvement.

    Args:
        a, b: labels of leaderboard rows, e.g. `lamo` or `lamo backbone=scratch`.

    Raises:
        UnknownNameError: a model, suite, task or preset without results.
        ResultError: no results, or no section has both models.
    """
    results, left_out = read_folder(Path(root))
    if left_out:
        more = f" (and {len(left_out) - 1} more files)" if len(left_out) > 1 else ""
        err.print(f"Left out: {one_line(left_out[0])}{more}", markup=False)
    found = sections(results, selection)
    known = {row.label for section in found for row in section.rows}
    for model in (a, b):
        if model not in known:
            raise UnknownNameError("model in these results", model, known)
    comparisons = [comparison for section in found if (comparison := _compare(section, a, b)) is not None]
    if not comparisons:
        raise ResultError(
            f"{a} and {b} share no task of one suite, source, preset and dataset; their scores cannot be compared."
        )
    return comparisons


def _compare(section: Section, a: str, b: str) -> Comparison | None:
    """Compare two rows of a section; None if it lacks one of them, or they share no task."""
    rows = {row.label: row for row in section.rows}
    if not {a, b} <= set(rows):
        return None
    common = [task for task in section.tasks if task in rows[a].cells and task in rows[b].cells]
    if not common:
        return None
    tasks = []
    for task in common:
        of_a, of_b = (_mean(rows[label].cells[task]) for label in (a, b))
        tasks.append(TaskDifference(task, of_a, of_b, of_a - of_b))
    return Comparison(section.title, a, b, tasks, _improvement(rows[a], rows[b], common))


def _mean(results: Sequence[Result]) -> float:
    return float(np.mean([result.score for result in results]))


def _improvement(a: Row, b: Row, tasks: Sequence[str]) -> stats.Estimate | None:
    of_a, of_b = a.matrix(tasks), b.matrix(tasks)
    return None if of_a is None or of_b is None else stats.probability_of_improvement(of_a, of_b)


def comparison_tables(comparisons: Sequence[Comparison]) -> list[Whole]:
    """Return `compare`'s outcome for the terminal."""
    return [Whole(_table(comparison)) for comparison in comparisons]


def _table(comparison: Comparison) -> Table:
    table = Table(
        title=Text(one_line(comparison.section), style="table.title"),
        caption=Text(_caption(comparison), style="table.caption"),
    )
    for column in ("task", comparison.a, comparison.b, "difference"):
        table.add_column(Text(column), justify="left" if column == "task" else "right", overflow="fold")
    for row in comparison.tasks:
        scores = (f"{100 * score:.1f}" for score in (row.a, row.b, row.difference))
        table.add_row(Text(one_line(row.task)), *scores)
    return table


def _caption(comparison: Comparison) -> str:
    improvement = comparison.probability_of_improvement
    if improvement is None:
        return "no seed has all common tasks"
    low_high = improvement.interval
    interval = f"[{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else "[an interval needs two seeds each]"
    return f"P({comparison.a} > {comparison.b}) = {improvement.value:.2f} {interval}"
