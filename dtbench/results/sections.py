"""Results sorted into what one table may show: a suite@version × source × preset, on one set of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtbench.errors import DtbenchError, ResultError, UnknownNameError
from dtbench.registry import MODELS
from dtbench.results import stats
from dtbench.results.labels import RowName, row_names
from dtbench.results.schema import DONE, Result
from dtbench.results.text import either
from dtbench.suites.suites import load_suite, suite_names


@dataclass(frozen=True)
class Row:
    """The finished results of one model with one configuration.

    Attributes:
        label: the row's name, unique in its section (`labels.row_names`).
        model: the model's name.
        changes: what the user changed in the preset's configuration; empty for the preset's own, and where it is not
            known.
        is_changed: whether the user changed anything.
        cells: task → its results, one per seed, in the order of seeds.
    """

    label: str
    model: str
    changes: tuple[str, ...]
    is_changed: bool
    cells: dict[str, list[Result]]

    def results(self, tasks: Sequence[str]) -> list[Result]:
        """Return the results on the tasks, in the tasks' order."""
        return [result for task in tasks for result in self.cells.get(task, [])]

    def complete_seeds(self, tasks: Sequence[str]) -> list[list[Result]]:
        """Return (seeds, tasks) results for the seeds that have every task; empty if there is none."""
        by_task = [{result.seed: result for result in self.cells.get(task, [])} for task in tasks]
        seeds = sorted(set.intersection(*(set(found) for found in by_task)))
        return [[found[seed] for found in by_task] for seed in seeds]

    def matrix(
        self, tasks: Sequence[str], measure: Callable[[Result], float] = lambda result: result.score
    ) -> NDArray[np.float64] | None:
        """Return (seeds, tasks) mean normalised scores for the seeds that have every task, or None if there is none.

        Args:
            measure: another number of a finished run, e.g. its best evaluation.
        """
        complete = self.complete_seeds(tasks)
        return np.array([[measure(result) for result in results] for results in complete]) if complete else None

    def shortfall(self, tasks: Sequence[str]) -> str:
        """Say why the row has no matrix."""
        done = sum(task in self.cells for task in tasks)
        if done == len(tasks):
            return "incomplete (no seed has all tasks)"
        return f"incomplete ({done} of {len(tasks)} tasks)"

    @property
    def initial_weights(self) -> str:
        """What the row's models started from."""
        found = {str(result.model.initial_weights) for results in self.cells.values() for result in results}
        return either(sorted(found))


@dataclass(frozen=True)
class Section:
    """The results of one suite@version × source × preset.

    Attributes:
        suite: the suite's name and version, e.g. `d4rl-short@1`.
        tasks: the suite's tasks in its order, or the selected ones.
        rows: the models, ranked by IQM; those without a score on every task come last, in the registry's order.
        unfinished: runs without a score, each with the label of its row.
        part: counts the sections that differ only in their data or the way of scoring.
        is_selection: whether only some of the suite's tasks were selected.
        absent: selected models without a finished run.
    """

    suite: str
    source: str
    preset: str
    tasks: list[str]
    rows: list[Row]
    unfinished: list[tuple[str, Result]]
    part: int = 1
    is_selection: bool = False
    absent: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Suite, source and preset, and what sets the section apart from others of these."""
        other = f" · other data {self.part}" if self.part > 1 else ""
        only = f" · only {', '.join(self.tasks)}" if self.is_selection else ""
        return f"{self.suite} · {self.source} data · preset {self.preset}{only}{other}"

    @property
    def finished(self) -> list[Result]:
        """All results with a score, row by row."""
        return [result for row in self.rows for result in row.results(self.tasks)]

    @property
    def seed_counts(self) -> list[int]:
        """The different numbers of seeds that cells have."""
        return sorted({len(results) for row in self.rows for results in row.cells.values()})

    @property
    def complete(self) -> dict[str, NDArray[np.float64]]:
        """Label → (seeds, tasks) scores, 0–1, of the rows with at least one seed on every task."""
        matrices = {row.label: row.matrix(self.tasks) for row in self.rows}
        return {label: matrix for label, matrix in matrices.items() if matrix is not None}

    @cached_property
    def estimates(self) -> dict[str, dict[str, stats.Estimate]]:
        """Label → aggregates of the complete rows (`stats.aggregate`)."""
        return {label: stats.aggregate(matrix) for label, matrix in self.complete.items()}

    @property
    def best(self) -> str | None:
        """The label of the row with the highest IQM; None if no row is complete."""
        return next(iter(self.complete), None)

    @cached_property
    def against_best(self) -> dict[str, stats.Permutation]:
        """Label → permutation test against the best row, for each other complete row."""
        complete = self.complete
        return {
            label: stats.permutation_test(matrix, complete[str(self.best)])
            for label, matrix in complete.items()
            if label != self.best
        }

    @property
    def leaders(self) -> set[str]:
        """The labels of the best row and of all that cannot be separated from it."""
        inseparable = {label for label, test in self.against_best.items() if not test.is_separable}
        return inseparable | ({self.best} if self.best is not None else set())

    def cell(self, row: Row, task: str) -> str:
        """Format a cell, × 100: mean, spread over seeds (n − 1) where there are two, and n where cells differ in it."""
        results = row.cells.get(task)
        if not results:
            return "–"
        scores = 100 * np.array([result.score for result in results])
        spread = f" ± {scores.std(ddof=1):.1f}" if len(scores) > 1 else ""
        count = f" (n={len(scores)})" if len(self.seed_counts) > 1 else ""
        return f"{scores.mean():.1f}{spread}{count}"


@dataclass(frozen=True)
class Selection:
    """Which results to show.

    Attributes:
        suite: only this suite's; None shows all.
        tasks: only these tasks', which are then aggregated over (a title says so); empty shows all.
        preset: only this preset's; None shows all.
        must_exist: whether a name without results is an error. If not, a task without results is an empty column.
        source: only this source's; None shows all.
        models: only rows with these labels (`labels.row_names`); empty shows all. Labels without a finished run are
            named in `Section.absent`.
    """

    suite: str | None = None
    tasks: Sequence[str] = ()
    preset: str | None = None
    must_exist: bool = True
    source: str | None = None
    models: Sequence[str] = ()

    def of(self, results: Sequence[Result]) -> list[Result]:
        """Return the selected results.

        Raises:
            UnknownNameError: a name without results, where all must have some.
        """
        wanted = {"suite": [self.suite] if self.suite else [], "task": self.tasks}
        wanted["preset"] = [self.preset] if self.preset else []
        wanted["source"] = [self.source] if self.source else []
        for kind, names in wanted.items():
            known = dict.fromkeys(_name_of(result, kind) for result in results)
            for name in names:
                if self.must_exist and name not in known:
                    raise UnknownNameError(f"{kind} in these results", name, known)
            results = [result for result in results if not names or _name_of(result, kind) in names]
        return list(results)


def _name_of(result: Result, kind: str) -> str:
    return {
        "suite": result.suite.name,
        "task": result.task.id,
        "preset": result.preset,
        "source": result.task.source,
    }[kind]


#: All results.
EVERYTHING = Selection()


def sections(results: Sequence[Result], selection: Selection = EVERYTHING) -> list[Section]:
    """Sort results into sections, one more where a row's data or way of scoring differ from those of the rows before.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: one row's results on a task come from different data or were scored differently.
    """
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in selection.of(results):
        groups.setdefault((result.suite.id, result.task.source, result.preset), []).append(result)
    return [section for key in sorted(groups) for section in _sections(key, groups[key], selection)]


def one_section(results: Sequence[Result], selection: Selection = EVERYTHING) -> tuple[Section, list[str]]:
    """Return the one section that a figure shows, and the titles of those that differ from it in their data only.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: no run of the selection is finished, or it holds several suites, sources or presets.
    """
    found = [section for section in sections(results, selection) if section.rows]
    if not found:
        raise ResultError("No run of the selection is finished; there is nothing to draw.")
    kinds = {(section.suite, section.source, section.preset): section.title for section in reversed(found)}
    if len(kinds) > 1:
        listed = "; ".join(sorted(kinds.values()))
        raise ResultError(f"A figure shows one of these; choose with --suite, --preset or --source: {listed}.")
    return found[0], [section.title for section in found[1:]]


def _sections(key: tuple[str, str, str], results: list[Result], selection: Selection) -> list[Section]:
    """Split one suite, source and preset into sections; each column of a section holds one dataset, scored in one way.

    `--set data.steps=…`, for one, makes other data under the same task's name. A row stays whole. Rows with the
    preset's configuration come first, so that the first section is theirs.
    """
    selected, models = selection.tasks, selection.models
    named = list(zip(row_names(results), results, strict=True))
    named = [(name, result) for name, result in named if name.label in models or not models]
    tasks = [task for task in _suite_tasks(results[0], results, selected) if task in selected or not selected]
    unfinished = [(name.label, result) for name, result in named if result.status != DONE]
    all_rows = _rows(named)
    absent = tuple(model for model in models if model not in {row.label for row in all_rows})
    parts: list[tuple[dict[str, tuple[Any, ...]], list[Row]]] = []
    for row in sorted(all_rows, key=lambda row: (row.is_changed, row.label)):
        columns = _columns(key[0], row)
        fitting = (part for part in parts if all(part[0].get(task, own) == own for task, own in columns.items()))
        part = next(fitting, None)
        if part is None:
            parts.append(part := ({}, []))
        part[0].update(columns)
        part[1].append(row)
    return [
        Section(
            *key,
            tasks=tasks,
            rows=_ranked(rows, tasks),
            unfinished=unfinished if number == 1 else [],
            part=number,
            is_selection=bool(selected),
            absent=absent if number == 1 else (),
        )
        for number, rows in enumerate([rows for _, rows in parts] or [[]], start=1)
    ]


def _ranked(rows: Sequence[Row], tasks: Sequence[str]) -> list[Row]:
    """Sort rows by IQM; incomplete ones come last, and those without a difference are in the registry's order."""
    order = list(MODELS)

    def place(row: Row) -> tuple[float, int, str]:
        matrix = row.matrix(tasks)
        score = -np.inf if matrix is None else float(stats.iqm(matrix))
        return -score, _position(order, row.model), row.label

    return sorted(rows, key=place)


def _rows(named: Sequence[tuple[RowName, Result]]) -> list[Row]:
    rows: dict[str, Row] = {}
    for name, result in sorted(named, key=lambda pair: pair[1].seed):
        if result.status == DONE:
            model = result.model
            row = rows.setdefault(name.label, Row(name.label, model.name, name.changes, not model.is_preset_config, {}))
            row.cells.setdefault(result.task.id, []).append(result)
    return list(rows.values())


def _columns(suite: str, row: Row) -> dict[str, tuple[Any, ...]]:
    """Return for each task what must be equal down its column: the data, and how a return becomes a score."""
    columns: dict[str, tuple[Any, ...]] = {}
    for result in (result for results in row.cells.values() for result in results):
        task = result.task
        own = (task.fingerprint, task.env_id, task.score_target, task.return_scale, task.reference)
        before = columns.setdefault(task.id, own)
        if before[0] != own[0]:
            raise ResultError(
                f"{suite}: the results of {task.id} come from different data (fingerprints {str(before[0])[:12]} and "
                f"{str(own[0])[:12]}), which never share a column; keep them in different folders."
            )
        if before != own:
            raise ResultError(
                f"{suite}: the results of {task.id} were scored in different ways (environment, score target, "
                "return scale or reference scores); a suite that changes needs a new version."
            )
    return columns


def _suite_tasks(one: Result, results: list[Result], selected: Sequence[str]) -> list[str]:
    """Return the tasks of the suite in its order; of a suite that is not one of ours, those with results."""
    if one.suite.name in suite_names():
        try:
            suite = load_suite(one.suite.name)
        except DtbenchError:
            suite = None
        if suite is not None and suite.version == one.suite.version:
            return [task.id for task in suite.tasks]
    return sorted({*selected, *(result.task.id for result in results)})


def _position(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
