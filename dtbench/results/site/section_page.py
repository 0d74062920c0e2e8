"""The page of one section: ranking, figures, comparisons, protocol and records, as values for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dtbench.config import load_preset, preset_names
from dtbench.errors import DtbenchError
from dtbench.results import stats
from dtbench.results.leaderboard import details
from dtbench.results.pages import absent_models, joined, unfinished_runs
from dtbench.results.sections import Row, Section
from dtbench.results.site import comparisons, figures
from dtbench.results.site.names import record_link
from dtbench.results.site.render import markdown
from dtbench.results.site.styles import Style, styles
from dtbench.results.text import either, estimate_text, p_text
from dtbench.suites.suites import Suite, load_suite, suite_names

#: What a cell without a number sorts as: below all numbers.
_LAST = -1e9
NO_BACKBONE = "none"


@dataclass(frozen=True)
class Place:
    """A section and its page.

    Attributes:
        section: the results.
        path: the page, from the site's folder.
        title: the page's heading.
        trials: hyper-parameter trials per model where a board says so; None for what the preset records.
    """

    section: Section
    path: str
    title: str
    trials: int | None = None


def content(place: Place, model_paths: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the template `section.html`.

    Args:
        place: the section and its page.
        model_paths: model → its page.
    """
    section = place.section
    look = styles(section.rows)
    tasks = [task for task in section.tasks if any(row.cells.get(task) for row in section.rows)]
    rows = [_row(section, tasks, row, look, model_paths) for row in section.rows]
    return {
        "title": place.title,
        "section": section,
        "summary": summary(section),
        "suite_text": suite_description(section.suite),
        "preset_text": preset_description(section.preset),
        "rows": rows,
        "tasks": tasks,
        "empty_tasks": [task for task in section.tasks if task not in tasks],
        "models": list(dict.fromkeys(row["model"] for row in rows)),
        "backbones": sorted({row["backbone"] for row in rows}),
        "measures": figures.MEASURES,
        "runs": len(section.finished),
        "profile_table": figures.profile_table(section) if section.complete else None,
        "curve_tables": _curve_tables(section, tasks),
        "has_curves": figures.has_curves(section),
        "reference": either(sorted({result.task.reference.table for result in section.finished})),
        "seeds": either(section.seed_counts),
        "notes": markdown(joined([*absent_models(section), *unfinished_runs(section)]), anchors=False),
        "details": markdown(joined(details(section, place.trials)), demote=-1),
        "significance": stats.SIGNIFICANCE,
        "repetitions": stats.REPETITIONS,
        "fewest": stats.FEWEST_SEEDS,
        "page_data": {
            "rows": [_row_data(row) for row in rows],
            "figures": _figures(section, tasks, look),
            "pairs": comparisons.pairs(section),
        },
    }


def _row(
    section: Section, tasks: Sequence[str], row: Row, look: Mapping[str, Style], model_paths: Mapping[str, str]
) -> dict[str, Any]:
    """Return a row as the tables show it, with the keys by which its cells sort."""
    place, matrix = section.rows.index(row), row.matrix(section.tasks)
    found: dict[str, Any] = {
        "place": place,
        "rank": place + 1 if matrix is not None else None,
        "label": row.label,
        "model": row.model,
        "model_path": model_paths[row.model],
        "backbone": backbone(row),
        "style": look[row.label],
        "is_leader": row.label in section.leaders,
        "cells": [_cell(section, row, task) for task in tasks],
    }
    if matrix is None:
        return {**found, "shortfall": row.shortfall(section.tasks)}
    test = section.against_best.get(row.label)
    estimates = section.estimates[row.label]
    return {
        **found,
        "shortfall": None,
        "seeds": len(matrix),
        "p": p_text(test) if test else "–",
        "p_order": test.p if test else 2,  # the best row stands beyond all p
        "estimates": [(estimate_text(estimates[name]), estimates[name].value) for name in figures.MEASURES],
    }


def _cell(section: Section, row: Row, task: str) -> dict[str, Any]:
    results = row.cells.get(task, [])
    mean = float(np.mean([result.score for result in results])) if results else _LAST
    runs = [(result.seed, f"{100 * result.score:.1f}", record_link(result)) for result in results]
    return {"text": section.cell(row, task), "order": mean, "runs": runs}


def _row_data(row: Mapping[str, Any]) -> dict[str, Any]:
    style: Style = row["style"]
    return {
        "label": row["label"],
        "model": row["model"],
        "backbone": row["backbone"],
        "colour": style.colour,
        "dark": style.dark,
    }


def backbone(row: Row) -> str:
    """Return the pretrained weights that a row's models start from, by the name in their configuration."""
    found = {
        str((result.model.config.get("model") or {}).get("backbone", NO_BACKBONE))
        for results in row.cells.values()
        for result in results
    }
    return either(sorted(found))


def _figures(section: Section, tasks: Sequence[str], look: Mapping[str, Style]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if section.complete:
        found["intervals"] = figures.intervals(section, look)
        found["profile"] = figures.profile(section, look)
    for number, task in enumerate(tasks):
        found[f"task-{number}"] = figures.task(section, task, look)
        curves = figures.curves(section, task, look)
        if curves is not None:
            found[f"curves-{number}"] = curves
    return found


def _curve_tables(section: Section, tasks: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    found = {task: figures.curve_rows(section, task) for task in tasks}
    return {task: rows for task, rows in found.items() if rows}


def summary(section: Section) -> str:
    """Say in one sentence who leads, and what cannot be told from it; no sentence is stronger than its p."""
    if section.best is None:
        return "No row has a seed with every task, so that there is no ranking; each task stands for itself."
    first = section.estimates[section.best]["iqm"]
    said = f"{section.best} has the highest IQM, {estimate_text(first)}"
    others = [row.label for row in section.rows if row.label in section.leaders and row.label != section.best]
    if len(section.complete) == 1:
        return f"{said}; it is the only complete row."
    if others:
        return f"{said}; by their means over seeds, {', '.join(others)} cannot be told from it."
    return (
        f"{said}; by their means over seeds, every other complete row can be told from it (p < {stats.SIGNIFICANCE:g})."
    )


def suite_description(suite: str) -> str:
    """Return what a shipped suite of this version says of itself; empty for others."""
    shipped = shipped_suite(suite)
    return shipped.description if shipped else ""


@cache
def shipped_suite(suite: str) -> Suite | None:
    """Return the shipped suite of this name and version, `name@version`, or None; read once, as many pages ask."""
    name = suite.partition("@")[0]
    if name not in suite_names():
        return None
    try:
        loaded = load_suite(name)
    except DtbenchError:  # a suite that cannot be read stops runs, not pages
        return None
    return loaded if loaded.id == suite else None


def preset_description(preset: str) -> str:
    """Return what a shipped preset says of itself; empty for others."""
    if preset not in preset_names():
        return ""
    try:
        return str(load_preset(preset).get("description", ""))
    except DtbenchError:
        return ""
