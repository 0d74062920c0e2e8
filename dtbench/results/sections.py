"""Results sorted into what may stand in one table: a suite@version × source × preset, on one set of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtbench.errors import DtbenchError, ResultError, UnknownNameError
from dtbench.registry import MODELS
from dtbench.results.changes import changes_between
from dtbench.results.schema import DONE, ModelRecord, Result
from dtbench.suites.suites import load_suite

#: More changes than these are told by the configuration's hash.
_SHOWN_CHANGES = 3


@dataclass(frozen=True)
class Section:
    """The results of one suite@version × source × preset.

    `tasks` are the suite's, in its order; `models` the row labels; `cells` maps (model, task) to its finished results,
    one per seed, in the order of seeds. `part` counts the sections that differ in nothing but their data or the way of
    scoring. `is_selection` says that only some of the suite's tasks were asked for.
    """

    suite: str
    source: str
    preset: str
    tasks: list[str]
    models: list[str]
    cells: dict[tuple[str, str], list[Result]]
    unfinished: list[Result]
    part: int = 1
    is_selection: bool = False

    @property
    def title(self) -> str:
        other = f" · other data {self.part}" if self.part > 1 else ""
        only = f" · only {', '.join(self.tasks)}" if self.is_selection else ""
        return f"{self.suite} · {self.source} data · preset {self.preset}{only}{other}"

    @property
    def finished(self) -> list[Result]:
        return [result for model in self.models for result in self.results(model)]

    def done(self, model: str) -> int:
        """Return how many tasks a model has at least one finished run on."""
        return sum((model, task) in self.cells for task in self.tasks)

    def matrix(self, model: str) -> np.ndarray | None:
        """Return (seeds, tasks) mean normalised scores for the seeds that have every task, or None if there is none."""
        if self.done(model) < len(self.tasks):
            return None
        by_task = [{r.seed: r.score for r in self.cells[model, task]} for task in self.tasks]
        seeds = sorted(set.intersection(*(set(scores) for scores in by_task)))
        return np.array([[scores[seed] for scores in by_task] for seed in seeds]) if seeds else None

    def shortfall(self, model: str) -> str:
        """Say why a model has no matrix."""
        if self.done(model) == len(self.tasks):
            return "incomplete (no seed has all tasks)"
        return f"incomplete ({self.done(model)} of {len(self.tasks)} tasks)"

    def results(self, model: str) -> list[Result]:
        """Return a row's results."""
        return [result for task in self.tasks for result in self.cells.get((model, task), [])]

    def weights(self, model: str) -> str:
        """Return what a row's models started from."""
        return either(sorted({str(result.model.initial_weights) for result in self.results(model)}))


def either(values: Sequence[Any]) -> str:
    """Join what may be one, two or several values."""
    return " or ".join(map(str, values)) if len(values) < 3 else ", ".join(map(str, values))


@dataclass(frozen=True)
class Selection:
    """Which results to show: of one suite, of some tasks (aggregated over them; a title says so), of one preset.

    A name without results is an error, unless `must_exist` is False: then it is an empty column.
    """

    suite: str | None = None
    tasks: Sequence[str] = ()
    preset: str | None = None
    must_exist: bool = True

    def of(self, results: Sequence[Result]) -> list[Result]:
        """Return the selected results.

        Raises:
            UnknownNameError: a name without results, where all must have some.
        """
        wanted = {"suite": [self.suite] if self.suite else [], "task": self.tasks}
        wanted["preset"] = [self.preset] if self.preset else []
        for kind, names in wanted.items():
            known = dict.fromkeys(_name_of(result, kind) for result in results)
            for name in names:
                if self.must_exist and name not in known:
                    raise UnknownNameError(f"{kind} in these results", name, known)
            results = [result for result in results if not names or _name_of(result, kind) in names]
        return list(results)


def _name_of(result: Result, kind: str) -> str:
    return {"suite": result.suite.name, "task": result.task.id, "preset": result.preset}[kind]


#: All results.
EVERYTHING = Selection()


def sections(results: Sequence[Result], selection: Selection = EVERYTHING) -> list[Section]:
    """Sort results into sections, one more where a row's data or way of scoring differ from those of the rows before.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: one row's results on a task come from different data or were scored differently.
    """
    results = selection.of(results)
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.suite.id, result.task.source, result.preset), []).append(result)
    return [
        _section(*key, part, number, selection.tasks)
        for key, group in sorted(groups.items(), key=lambda item: item[0])
        for number, part in enumerate(_parts(key[0], group), start=1)
    ]


def _section(
    suite: str, source: str, preset: str, results: list[Result], part: int, selected: Sequence[str]
) -> Section:
    finished = [result for result in results if result.status == DONE]
    labels = _labels(finished)
    cells: dict[tuple[str, str], list[Result]] = {}
    for result, label in sorted(zip(finished, labels, strict=True), key=lambda pair: pair[0].seed):
        cells.setdefault((label, result.task.id), []).append(result)
    names = {label: result.model.name for result, label in zip(finished, labels, strict=True)}
    order = list(MODELS)
    models = sorted(names, key=lambda label: (_position(order, names[label]), label))
    unfinished = [result for result in results if result.status != DONE]
    tasks = [task for task in _suite_tasks(suite, results) if task in selected or not selected]
    return Section(suite, source, preset, tasks, models, cells, unfinished, part, bool(selected))


def _parts(suite: str, results: list[Result]) -> list[list[Result]]:
    """Split results so that each column holds one dataset, scored in one way; a row stays whole.

    `--set data.steps=…`, for one, makes other data under the same task's name. Rows with the preset's configuration
    come first, so that the first part is theirs.
    """
    finished = [result for result in results if result.status == DONE]
    rows: dict[tuple[bool, str], list[Result]] = {}
    for result, label in zip(finished, _labels(finished), strict=True):
        rows.setdefault((not result.model.is_preset_config, label), []).append(result)
    parts: list[tuple[dict[str, tuple[Any, ...]], list[Result]]] = []
    for _, row in sorted(rows.items(), key=lambda item: item[0]):
        columns = _columns(suite, row)
        fitting = (part for part in parts if all(part[0].get(task, own) == own for task, own in columns.items()))
        part = next(fitting, None)
        if part is None:
            parts.append(part := ({}, []))
        part[0].update(columns)
        part[1].extend(row)
    members = [part for _, part in parts] or [[]]
    members[0].extend(result for result in results if result.status != DONE)
    return members


def _labels(results: list[Result]) -> list[str]:
    """Name rows by model, with what the user changed; with the configuration's hash where that cannot be told.

    A preset's configuration may differ from task to task. It cannot be told what was changed where the preset's own
    configuration has no result on the task, or where there are several, e.g. of two versions of dtbench.
    """
    own: dict[tuple[str, str], ModelRecord] = {}
    several: set[str] = set()
    for result in results:
        model, key = result.model, (result.model.name, result.task.id)
        if model.is_preset_config and own.setdefault(key, model).config_hash != model.config_hash:
            several.add(model.name)
    return [_label(result, own, several) for result in results]


def _label(result: Result, own: dict[tuple[str, str], ModelRecord], several: set[str]) -> str:
    model = result.model
    preset = own.get((model.name, result.task.id))
    if model.name not in several:
        if model.is_preset_config:
            return model.name
        changed = changes_between(preset.config, model.config) if preset else []
        if 0 < len(changed) <= _SHOWN_CHANGES:
            return f"{model.name} {' '.join(changed)}"
    return model.folder


def _columns(suite: str, row: list[Result]) -> dict[str, tuple[Any, ...]]:
    """Return for each task what must be equal down its column: the data, and how a return becomes a score."""
    columns: dict[str, tuple[Any, ...]] = {}
    for result in row:
        task = result.task
        own = (task.fingerprint, task.env_id, task.score_target, task.return_scale, task.reference)
        before = columns.setdefault(task.id, own)
        if before[0] != own[0]:
            raise ResultError(
                f"{suite}: the results of {task.id} come from different data (fingerprints {str(before[0])[:12]} and "
                f"{str(own[0])[:12]}), which are never put into one column; keep them in different folders."
            )
        if before != own:
            raise ResultError(
                f"{suite}: the results of {task.id} were scored in different ways (environment, score target, "
                "return scale or reference scores); a suite that changes needs a new version."
            )
    return columns


def _suite_tasks(suite: str, results: list[Result]) -> list[str]:
    name, _, version = suite.partition("@")
    present = list(dict.fromkeys(result.task.id for result in results))
    try:
        known = load_suite(name)
    except DtbenchError:
        return sorted(present)
    return [task.id for task in known.tasks] if str(known.version) == version else sorted(present)


def _position(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
