"""Figures of a factorial: its effects with their intervals, and an interaction as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dtbench.figures import STYLE, plain, save
from dtbench.results import stats
from dtbench.results.factorial import Design, Effect, Scores
from dtbench.results.plots import COLOURS, LINES


def effects(computed: Sequence[Effect], title: str, file: Path) -> None:
    """Draw the effects one below another, a colour for each set of tasks; without an interval, a point."""
    scopes = list(dict.fromkeys(effect.scope for effect in computed))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.2 + 0.24 * len(computed)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="black", linewidth=0.8)
        for place, effect in enumerate(computed):
            colour = COLOURS[scopes.index(effect.scope) % len(COLOURS)]
            if effect.estimate.interval is not None:
                axes.plot([100 * end for end in effect.estimate.interval], [place, place], color=colour, linewidth=2)
            filled = colour if effect.test.is_separable else "white"
            axes.plot(100 * effect.estimate.value, place, "o", color=colour, markerfacecolor=filled, markersize=5)
        names = [plain(f"{effect.name} ({effect.scope})") for effect in computed]
        axes.set_yticks(range(len(computed)), names)
        axes.set_ylim(len(computed) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel(f"difference of normalised scores × 100; filled: p < {stats.SIGNIFICANCE:g}, uncorrected")
        figure.suptitle(plain(title))
        save(figure, file)


def interaction(design: Design, scores: Scores, names: Sequence[str], title: str, file: Path) -> None:
    """Draw mean scores over one factor's levels: a line per level of another, a panel per level of a third.

    Args:
        scores: (cells, seeds, tasks) of all tasks of the design.
        names: two or three factors: lines, horizontal axis, panels. The task factor makes panels wherever it stands.
    """
    chosen = [name for name in names if name != design.task_factor]
    if design.task_factor in names:
        chosen = [*chosen[:2], str(design.task_factor)] if len(chosen) > 1 else [chosen[0], str(design.task_factor)]
    levels = {name: _levels(design, name) for name in chosen}
    lines, across, *third = chosen
    panels = [(f"{third[0]}: {level}", {third[0]: level}) for level in levels[third[0]]] if third else [("", {})]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 3.1 * len(panels), 3.2), layout="constrained")
        for axes, (name, panel) in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
        ):
            for index, level in enumerate(levels[lines]):
                places = [{**panel, lines: level, across: other} for other in levels[across]]
                _line(axes, [_estimate(design, scores, place) for place in places], f"{lines}: {level}", index)
            axes.set_title(plain(name))
            axes.set_xticks(range(len(levels[across])), [plain(f"{across}: {level}") for level in levels[across]])
            axes.set_xlim(-0.3, len(levels[across]) - 0.7)
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel("normalised score × 100")
        figure.supxlabel("means over the other cells and the tasks; bars: 95 % intervals over seeds", fontsize=9)
        figure.axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), handlelength=3.5)
        figure.suptitle(plain(title))
        save(figure, file)


def _levels(design: Design, name: str) -> tuple[str, ...]:
    return tuple(design.task_levels or {}) if name == design.task_factor else design.factors[name]


def _line(axes: Any, estimates: Sequence[stats.Estimate], label: str, index: int) -> None:
    """Draw one line with intervals, moved a little aside so that they do not hide one another."""
    places = np.arange(len(estimates)) + 0.06 * (index - 0.5)
    style: dict[str, Any] = {"color": COLOURS[index], "linestyle": LINES[index]}
    axes.plot(places, [100 * estimate.value for estimate in estimates], marker="o", label=plain(label), **style)
    for place, estimate in zip(places, estimates, strict=True):
        if estimate.interval is not None:
            axes.plot([place, place], [100 * end for end in estimate.interval], color=COLOURS[index], linewidth=1)


def _estimate(design: Design, scores: Scores, place: dict[str, str]) -> stats.Estimate:
    """Return the mean over the cells and tasks of a place, with its interval over seeds."""
    of_cells = [
        all(levels.get(name, level) == level for name, level in place.items()) for levels in design.cells.values()
    ]
    tasks = (design.task_levels or {}).get(place.get(str(design.task_factor), ""), design.tasks)
    of_tasks = [task in tasks for task in design.tasks]
    chosen = scores[np.array(of_cells)][:, :, np.array(of_tasks)].mean(0)
    return stats.mean_estimates(chosen[None])[0]
