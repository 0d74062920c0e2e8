"""Two models compared: difference per task, probability of improvement, and the p of both."""

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
from dtbench.results.sections import EVERYTHING, Section, Selection, sections
from dtbench.results.terminal import Whole
from dtbench.results.text import coverage_text, one_line, p_text


@dataclass(frozen=True)
class TaskDifference:
    """Two models on one task.

    Attributes:
        task: the task's id.
        a, b: mean normalised scores (0–1) over all seeds.
        difference: a − b.
        permutation: the test of the difference of the means.
    """

    task: str
    a: float
    b: float
    difference: float
    permutation: stats.Permutation


@dataclass(frozen=True)
class Comparison:
    """Two models compared in one section.

    Attributes:
        section: the section's title.
        a, b: labels of the models' rows.
        tasks: the tasks that both have.
        probability_of_improvement: how probable it is that a run of `a` beats one of `b`; None if a model has no seed
            with all common tasks.
        permutation: the test of the difference of the means over these tasks; None likewise.
    """

    section: str
    a: str
    b: str
    tasks: list[TaskDifference]
    probability_of_improvement: stats.Estimate | None
    permutation: stats.Permutation | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for `--json`."""
        return asdict(self)


def compare(root: str | Path, a: str, b: str, selection: Selection = EVERYTHING) -> list[Comparison]:
    """Compare two models in every section that has both.

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
    comparisons = [comparison for section in found if (comparison := compare_rows(section, a, b)) is not None]
    if not comparisons:
        raise ResultError(
            f"{a} and {b} share no task of one suite, source, preset and dataset; their scores cannot be compared."
        )
    return comparisons


def compare_rows(section: Section, a: str, b: str) -> Comparison | None:
    """Compare two rows of a section; None if it lacks one of them, or they share no task."""
    rows = {row.label: row for row in section.rows}
    if not {a, b} <= set(rows):
        return None
    common = [task for task in section.tasks if task in rows[a].cells and task in rows[b].cells]
    if not common:
        return None
    tasks = [_difference(task, rows[a].cells[task], rows[b].cells[task]) for task in common]
    of_a, of_b = rows[a].matrix(common), rows[b].matrix(common)
    if of_a is None or of_b is None:
        return Comparison(section.title, a, b, tasks, None, None)
    improvement, test = stats.probability_of_improvement(of_a, of_b), stats.permutation_test(of_a, of_b)
    return Comparison(section.title, a, b, tasks, improvement, test)


def _difference(task: str, a: Sequence[Result], b: Sequence[Result]) -> TaskDifference:
    of_a, of_b = (np.array([[result.score] for result in results]) for results in (a, b))
    means = float(of_a.mean()), float(of_b.mean())
    return TaskDifference(task, *means, means[0] - means[1], stats.permutation_test(of_a, of_b))


def comparison_tables(comparisons: Sequence[Comparison]) -> list[Whole]:
    """Return `compare`'s outcome for the terminal."""
    return [Whole(_table(comparison)) for comparison in comparisons]


def _table(comparison: Comparison) -> Table:
    table = Table(
        title=Text(one_line(comparison.section), style="table.title"),
        caption=Text(_caption(comparison), style="table.caption"),
    )
    for column in ("task", comparison.a, comparison.b, "difference", "p"):
        table.add_column(Text(column), justify="left" if column == "task" else "right", overflow="fold")
    for row in comparison.tasks:
        scores = (f"{100 * score:.1f}" for score in (row.a, row.b, row.difference))
        table.add_row(Text(one_line(row.task)), *scores, p_text(row.permutation))
    return table


def _caption(comparison: Comparison) -> str:
    improvement, test = comparison.probability_of_improvement, comparison.permutation
    if improvement is None or test is None:
        return "no seed has all common tasks"
    ends = improvement.interval
    interval = f"[{ends[0]:.2f}, {ends[1]:.2f}]{coverage_text(improvement)}" if ends else "[n/a]"
    probability = f"P({comparison.a} > {comparison.b}) = {improvement.value:.2f} {interval}"
    return f"{probability}; permutation p of the means' difference: {p_text(test)}"
