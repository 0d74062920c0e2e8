"""The first page: what there is, and how much of it was run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtbench.errors import DtbenchError
from dtbench.results.schema import DONE, Result
from dtbench.results.site.section_page import Place, preset_description, summary
from dtbench.results.site.styles import styles
from dtbench.results.text import estimate_text
from dtbench.results.tracking import episodes_by_target
from dtbench.suites.suites import load_suite, suite_names

#: Rows of a section that the first page shows.
_SHOWN_ROWS = 5


def content(results: Sequence[Result], places: Sequence[Place]) -> dict[str, Any]:
    """Return the values of the template `index.html`."""
    return {
        "title": "Results",
        "tiles": tiles(results),
        "cards": [card(place) for place in places],
        "suites": _suites(results),
    }


def tiles(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return what was run, in numbers."""
    done = [result for result in results if result.status == DONE]
    hours = sum(result.measured.training.wall_s for result in done) / 3600
    episodes = sum(len(entry.returns) for result in done for entry in episodes_by_target(result).values())
    return [
        ("finished runs", f"{len(done):,}"),
        ("runs without a score", f"{len(results) - len(done):,}"),
        ("models", f"{len({result.model.name for result in results}):,}"),
        ("tasks", f"{len({(result.suite.id, result.task.id) for result in results}):,}"),
        ("evaluation episodes", f"{episodes:,}"),
        ("hours of training", f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"),
    ]


def card(place: Place) -> dict[str, Any]:
    """Return a section for the first page, with its first rows as bars."""
    section, look = place.section, styles(place.section.rows)
    complete = [row for row in section.rows if row.label in section.complete]
    highest = max((section.estimates[row.label]["iqm"].value for row in complete), default=0)
    bars = []
    for row in complete[:_SHOWN_ROWS]:
        estimate = section.estimates[row.label]["iqm"]
        width = max(0.0, 100 * estimate.value / highest) if highest > 0 else 0.0
        bars.append({"label": row.label, "style": look[row.label], "text": estimate_text(estimate), "width": width})
    return {
        "title": place.title,
        "path": place.path,
        "summary": summary(section),
        "preset_text": preset_description(section.preset),
        "bars": bars,
        "more": len(section.rows) - len(bars),
        "rows": len(section.rows),
        "runs": len(section.finished),
        "unfinished": len(section.unfinished),
        "tasks": sum(any(row.cells.get(task) for row in section.rows) for task in section.tasks),
        "all_tasks": len(section.tasks),
    }


def _suites(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the shipped suites and those with results, each with its runs."""
    found: dict[str, dict[str, Any]] = {}
    for name in suite_names():
        try:
            suite = load_suite(name)
        except DtbenchError:  # a suite that cannot be read stops runs, not pages
            continue
        found[suite.id] = {"id": suite.id, "text": suite.description, "tasks": str(len(suite.tasks)), "runs": 0}
    for result in results:
        other = {"id": result.suite.id, "text": "not a suite of this dtbench", "tasks": "–", "runs": 0}
        found.setdefault(result.suite.id, other)["runs"] += 1
    return sorted(found.values(), key=lambda suite: (-suite["runs"], suite["id"]))
