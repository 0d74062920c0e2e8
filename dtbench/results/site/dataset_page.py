"""The page of a dataset: what records, suites and, where it is on this machine, the data themselves say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtbench.results.schema import DONE, Result
from dtbench.results.site import figures
from dtbench.results.site.section_page import Place, shipped_suite
from dtbench.results.text import either
from dtbench.suites.suites import Task


@dataclass(frozen=True)
class Facts:
    """What is known of a dataset that is on this machine.

    Attributes:
        facts: name → value, as `dtbench data info` shows them; a value may be a mapping of numbers.
        counts: (bins,) episodes whose return is in each bin.
        edges: (bins + 1,) the ends of the bins.
    """

    facts: Mapping[str, Any]
    counts: Sequence[int]
    edges: Sequence[float]


@dataclass(frozen=True)
class Datasets:
    """Facts about datasets, passed in because the site does not read them itself.

    Attributes:
        found: fingerprint → facts, for the data on this machine.
        licences: source → its licence in one sentence.
    """

    found: Mapping[str, Facts]
    licences: Mapping[str, str]


def by_dataset(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return dataset's id → its results; an id has the source in front."""
    found: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: name_of(result)):
        found.setdefault(name_of(result), []).append(result)
    return found


def name_of(result: Result) -> str:
    """Return a dataset's id with its source in front, as nearly all ids have it."""
    source, dataset = result.task.source, result.task.dataset_id
    return dataset if dataset.startswith(f"{source}/") else f"{source}/{dataset}"


def content(name: str, results: Sequence[Result], places: Sequence[Place], datasets: Datasets) -> dict[str, Any]:
    """Return the values of the template `dataset.html`.

    Args:
        name: the dataset's id.
        results: its results.
        places: the sections of the site.
        datasets: what is known of the data.
    """
    prints = sorted({result.task.fingerprint for result in results if result.task.fingerprint})
    found = [(digits, datasets.found[digits]) for digits in prints if digits in datasets.found]
    source = results[0].task.source
    return {
        "title": name,
        "source": source,
        "prints": prints,
        "licence": datasets.licences.get(source, "not recorded"),
        "environments": either(sorted({result.task.env_id for result in results})),
        "tasks": tasks(results),
        "facts": [_shown(digits, facts) for digits, facts in found],
        "missing": [digits for digits in prints if digits not in datasets.found],
        "sections": _where(name, places),
        "runs": len(results),
        "page_data": {
            "rows": [],
            "pairs": {},
            "figures": {
                f"returns-{digits[:12]}": figures.histogram(facts.counts, facts.edges) for digits, facts in found
            },
        },
    }


def _shown(digits: str, facts: Facts) -> dict[str, Any]:
    plain = [(key, value) for key, value in facts.facts.items() if not isinstance(value, Mapping)]
    spread = [(key, value) for key, value in facts.facts.items() if isinstance(value, Mapping) and "mean" in value]
    recipe = facts.facts.get("recipe")
    bins = [
        (f"{low:,.1f} to {high:,.1f}", count)
        for count, low, high in zip(facts.counts, facts.edges, facts.edges[1:], strict=False)
    ]
    return {
        "id": digits[:12],
        "plain": plain,
        "spread": spread,
        "columns": list(spread[0][1]) if spread else [],
        "recipe": [(key, _text(value)) for key, value in recipe.items()] if isinstance(recipe, Mapping) else [],
        "bins": bins,
    }


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def tasks(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the tasks that train on a dataset, with what a score means there."""
    found: dict[tuple[str, str], Result] = {}
    for result in results:
        key = (result.suite.id, result.task.id)
        if key not in found or found[key].status != DONE:
            found[key] = result
    return [_task(suite, task, result) for (suite, task), result in sorted(found.items())]


def _task(suite: str, task: str, result: Result) -> dict[str, Any]:
    record = result.task
    shipped = _shipped(suite, task)
    kept = "all" if record.kept_trajectories is None else f"{len(record.kept_trajectories):,}"
    return {
        "suite": suite,
        "task": task,
        "random": f"{record.reference.random:,.1f}",
        "expert": f"{record.reference.expert:,.1f}",
        "table": record.reference.table,
        "target": f"{record.score_target:,g}",
        "scale": "–" if record.return_scale is None else f"{record.return_scale:,g}",
        "kept": kept,
        "others": "–" if shipped is None or not shipped.targets else ", ".join(f"{t:,g}" for t in shipped.targets),
    }


def _shipped(suite: str, task: str) -> Task | None:
    """Return the task of a shipped suite of this version."""
    shipped = shipped_suite(suite)
    return next((entry for entry in shipped.tasks if entry.id == task), None) if shipped else None


def _where(name: str, places: Sequence[Place]) -> list[dict[str, Any]]:
    """Return each section's scores on the dataset."""
    found = []
    for place in places:
        section = place.section
        for task in section.tasks:
            rows = [
                (row.label, section.cell(row, task))
                for row in section.rows
                if any(name_of(result) == name for result in row.cells.get(task, []))
            ]
            if rows:
                found.append({"title": place.title, "path": place.path, "task": task, "rows": rows})
    return found
