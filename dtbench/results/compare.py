"""Two models compared: difference per task, probability of improvement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from dtbench.errors import ResultError, UnknownNameError
from dtbench.results import stats
from dtbench.results.files import scan
from dtbench.results.sections import EVERYTHING, Section, Selection, sections


def compare(root: str | Path, a: str, b: str, selection: Selection = EVERYTHING) -> list[dict[str, Any]]:
    """Compare two models in every section that has both: difference per common task, probability of improvement.

    Raises:
        UnknownNameError: a model, suite, task or preset without results.
        ResultError: no section has both.
    """
    results, _ = scan(Path(root))
    found = sections(results, selection)
    known = {model for section in found for model in section.models}
    for model in (a, b):
        if model not in known:
            raise UnknownNameError("model in these results", model, known)
    comparisons = [_compare(section, a, b) for section in found if {a, b} <= set(section.models)]
    comparisons = [comparison for comparison in comparisons if comparison["tasks"]]
    if not comparisons:
        raise ResultError(
            f"{a} and {b} share no task of one suite, source, preset and dataset; their scores cannot be compared."
        )
    return comparisons


def _compare(section: Section, a: str, b: str) -> dict[str, Any]:
    common = [task for task in section.tasks if (a, task) in section.cells and (b, task) in section.cells]
    scores = {
        model: {task: {r.seed: r.score for r in section.cells[model, task]} for task in common} for model in (a, b)
    }
    tasks = []
    for task in common:
        means = [float(np.mean(list(scores[model][task].values()))) for model in (a, b)]
        tasks.append({"task": task, "a": means[0], "b": means[1], "difference": means[0] - means[1]})
    improvement = None
    of_a, of_b = _common_seeds(scores[a]), _common_seeds(scores[b])
    if len(of_a) and len(of_b):
        estimate = stats.probability_of_improvement(of_a, of_b)
        improvement = {"value": estimate.value, "interval": list(estimate.interval) if estimate.interval else None}
    return {"section": section.title, "a": a, "b": b, "tasks": tasks, "probability_of_improvement": improvement}


def _common_seeds(by_task: dict[str, dict[int, float]]) -> np.ndarray:
    seeds = sorted(set.intersection(*(set(scores) for scores in by_task.values()))) if by_task else []
    return np.array([[scores[seed] for scores in by_task.values()] for seed in seeds])


def comparison_tables(comparisons: list[dict[str, Any]]) -> list[Table]:
    """Return `compare`'s outcome for the terminal."""
    tables = []
    for comparison in comparisons:
        improvement = comparison["probability_of_improvement"]
        caption = "no seed has all common tasks"
        if improvement:
            interval = improvement["interval"]
            said = f"[{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "[interval needs two seeds each]"
            caption = f"P({comparison['a']} > {comparison['b']}) = {improvement['value']:.2f} {said}"
        table = Table(title=comparison["section"], caption=caption)
        for column in ("task", comparison["a"], comparison["b"], "difference"):
            table.add_column(column, justify="left" if column == "task" else "right")
        for row in comparison["tasks"]:
            table.add_row(row["task"], *(f"{100 * row[key]:.1f}" for key in ("a", "b", "difference")))
        tables.append(table)
    return tables
