"""Results sorted into what may stand in one table: a suite@version × source × preset, on one set of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtbench.errors import DtbenchError, ResultError
from dtbench.registry import MODELS
from dtbench.results import Result
from dtbench.suites import load_suite


@dataclass(frozen=True)
class Section:
    """The results of one suite@version × source × preset.

    `tasks` are the suite's, in its order; `models` the row labels; `cells` maps (model, task) to its finished results,
    one per seed, in the order of seeds. `part` counts the sections that differ in nothing but their data or the way of
    scoring.
    """

    suite: str
    source: str
    preset: str
    tasks: list[str]
    models: list[str]
    cells: dict[tuple[str, str], list[Result]]
    unfinished: list[Result]
    part: int = 1

    @property
    def title(self) -> str:
        other = f" · other data {self.part}" if self.part > 1 else ""
        return f"{self.suite} · {self.source} data · preset {self.preset}{other}"

    @property
    def finished(self) -> list[Result]:
        return [result for model in self.models for task in self.tasks for result in self.cells.get((model, task), [])]

    def done(self, model: str) -> int:
        """Return how many tasks a model has at least one finished run on."""
        return sum((model, task) in self.cells for task in self.tasks)

    def matrix(self, model: str) -> np.ndarray | None:
        """Return (seeds, tasks) mean normalised scores for the seeds that have every task, or None if there is none."""
        if self.done(model) < len(self.tasks):
            return None
        by_task = [{r["seed"]: seed_score(r) for r in self.cells[model, task]} for task in self.tasks]
        seeds = sorted(set.intersection(*(set(scores) for scores in by_task)))
        return np.array([[scores[seed] for scores in by_task] for seed in seeds]) if seeds else None

    def shortfall(self, model: str) -> str:
        """Say why a model has no matrix."""
        if self.done(model) == len(self.tasks):
            return "incomplete (no seed has all tasks)"
        return f"incomplete ({self.done(model)} of {len(self.tasks)} tasks)"

    def weights(self, model: str) -> str:
        """Return what a row's models started from."""
        return either(sorted({r["model"]["weights"] for task in self.tasks for r in self.cells.get((model, task), [])}))


def seed_score(result: Result) -> float:
    """Return a run's score: the mean over its episodes, each normalised first (0–1)."""
    return float(np.mean(result["scores"]["normalized"]))


def either(values: Sequence[Any]) -> str:
    """Join what may be one, two or several values."""
    return " or ".join(map(str, values)) if len(values) < 3 else ", ".join(map(str, values))


def sections(results: Sequence[Result]) -> list[Section]:
    """Sort results into sections, one more where a row's data or way of scoring differ from those of the rows before.

    Raises:
        ResultError: one row's results on a task come from different data or were scored differently.
    """
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        key = (f"{result['suite']['name']}@{result['suite']['version']}", result["task"]["source"], result["preset"])
        groups.setdefault(key, []).append(result)
    return [
        _section(*key, part, number)
        for key, group in sorted(groups.items(), key=lambda item: item[0])
        for number, part in enumerate(_parts(key[0], group), start=1)
    ]


def _section(suite: str, source: str, preset: str, results: list[Result], part: int) -> Section:
    finished = [result for result in results if result["status"] == "ok"]
    labels = _labels(finished)
    cells: dict[tuple[str, str], list[Result]] = {}
    for result, label in sorted(zip(finished, labels, strict=True), key=lambda pair: pair[0]["seed"]):
        cells.setdefault((label, result["task"]["id"]), []).append(result)
    order = list(MODELS)
    models = sorted(set(labels), key=lambda label: (_position(order, label.partition("+")[0]), label))
    unfinished = [result for result in results if result["status"] != "ok"]
    return Section(suite, source, preset, _suite_tasks(suite, results), models, cells, unfinished, part)


def _parts(suite: str, results: list[Result]) -> list[list[Result]]:
    """Split results so that each column holds one dataset, scored in one way; a row stays whole.

    `--set data.steps=…`, for one, makes other data under the same task's name. Rows with the preset's configuration
    come first, so that the first part is theirs.
    """
    finished = [result for result in results if result["status"] == "ok"]
    rows: dict[tuple[bool, str], list[Result]] = {}
    for result, label in zip(finished, _labels(finished), strict=True):
        rows.setdefault((not result["model"].get("is_preset_config", True), label), []).append(result)
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
    members[0].extend(result for result in results if result["status"] != "ok")
    return members


def _labels(results: list[Result]) -> list[str]:
    """Name rows by model, with the configuration's hash where it is not the preset's or there are several."""
    hashes: dict[str, set[str]] = {}
    for result in results:
        if result["model"].get("is_preset_config", True):
            hashes.setdefault(result["model"]["name"], set()).add(result["model"]["config_hash"])
    labels = []
    for result in results:
        model = result["model"]
        plain = model.get("is_preset_config", True) and len(hashes[model["name"]]) == 1
        labels.append(model["name"] if plain else f"{model['name']}+{model['config_hash']}")
    return labels


def _columns(suite: str, row: list[Result]) -> dict[str, tuple[Any, ...]]:
    """Return for each task what must be equal down its column: the data, and how a return becomes a score."""
    columns: dict[str, tuple[Any, ...]] = {}
    for result in row:
        task = result["task"]
        reference = tuple(task["reference"][key] for key in ("table", "random", "expert"))
        own = (task["fingerprint"], task["env_id"], task["score_target"], task.get("return_scale"), *reference)
        before = columns.setdefault(task["id"], own)
        if before[0] != own[0]:
            raise ResultError(
                f"{suite}: the results of {task['id']} come from different data (fingerprints {before[0][:12]} and "
                f"{own[0][:12]}), which are never put into one column; keep them in different folders."
            )
        if before != own:
            raise ResultError(
                f"{suite}: the results of {task['id']} were scored in different ways (environment, score target, "
                "return scale or reference scores); a suite that changes needs a new version."
            )
    return columns


def _suite_tasks(suite: str, results: list[Result]) -> list[str]:
    name, _, version = suite.partition("@")
    present = list(dict.fromkeys(result["task"]["id"] for result in results))
    try:
        known = load_suite(name)
    except DtbenchError:
        return sorted(present)
    return [task.id for task in known.tasks] if str(known.version) == version else sorted(present)


def _position(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
