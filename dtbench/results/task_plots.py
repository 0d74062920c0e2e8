"""Figures with a panel per task: the scores of all seeds, and the return got for each return asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dtbench.errors import ResultError
from dtbench.figures import STYLE, save
from dtbench.results.plots import Curve, set_title, styles_of
from dtbench.results.sections import Section
from dtbench.results.tracking import Tracking, acts_on_return, track

#: Panels side by side.
_COLUMNS = 3
#: In inches: about the width of a character, of a legend's line, and of the title's lines.
_CHARACTER, _KEY_WIDTH, _TITLE_WIDTH = 0.068, 0.6, 6.0
#: Small enough for ten on a row.
_DOT = {"markersize": 3.5, "markeredgewidth": 0, "alpha": 0.75}


def per_task(section: Section, file: Path) -> None:
    """Draw a panel per task: each model's seeds as dots, and their mean as a line."""
    styles = styles_of(section, section.rows)
    tasks = [task for task in section.tasks if any(task in row.cells for row in section.rows)]
    with matplotlib.rc_context(STYLE):
        height = 0.5 + 0.17 * len(styles)
        figure, panels = grid(len(tasks), height, margin=_widest(styles), sharey=True)
        for panel, task in zip(panels, tasks, strict=True):
            for place, style in enumerate(styles):
                scores = [100 * result.score for result in style.row.cells.get(task, [])]
                panel.plot(scores, [place] * len(scores), "o", color=style.colour, **_DOT)
                if scores:
                    panel.plot(np.mean(scores), place, "|", color="black", markersize=9, markeredgewidth=1.4)
            panel.set_title(task)
            panel.set_yticks(range(len(styles)), [style.label for style in styles])
            panel.set_ylim(len(styles) - 0.4, -0.6)
            panel.margins(x=0.08)
            panel.grid(alpha=0.25)
        set_title(figure, "Scores per task: a dot per seed, the line is their mean", section, width=110)
        figure.supxlabel("normalised score × 100", fontsize=9)
        save(figure, file)


def target_vs_return(section: Section, file: Path) -> None:
    """Draw a panel per task: the mean return got for each return asked for, with the spread over seeds.

    Raises:
        ResultError: no model was evaluated at two targets of a task.
    """
    found = {task: _trackings(section, task) for task in section.tasks}
    found = {task: trackings for task, trackings in found.items() if trackings}
    if not found:
        raise ResultError(
            "These runs were evaluated at one target each; run them with --set evaluation.all_targets=true or "
            "--set evaluation.data_targets=5, as the presets learn and paper do."
        )
    shown = {style.row.label: style for trackings in found.values() for style, _ in trackings}
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(found), 2.6, margin=legend_width(shown.values()), least=len(shown))
        for panel, (task, trackings) in zip(panels, found.items(), strict=True):
            asked = [target for _, tracking in trackings for target in tracking.targets]
            ends = [min(asked), max(asked)]
            panel.plot(ends, ends, color="grey", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
            for style, tracking in trackings:
                _draw_tracking(panel, style, tracking)
            panel.set_title(task)
            panel.grid(alpha=0.3)
        legend(figure, list(shown.values()))
        set_title(figure, "Return asked for against return got (bars: one standard deviation)", section, width=95)
        figure.supxlabel("return asked for (dotted: got as asked)", fontsize=9)
        figure.supylabel("mean return got", fontsize=9)
        save(figure, file)


def _trackings(section: Section, task: str) -> list[tuple[Curve, Tracking]]:
    conditioned = [row for row in section.rows if task in row.cells and acts_on_return(row.model)]
    tracked = ((style, track(style.row.cells[task])) for style in styles_of(section, conditioned))
    return [(style, tracking) for style, tracking in tracked if tracking is not None]


def _draw_tracking(panel: Any, style: Curve, tracking: Tracking) -> None:
    means = tracking.returns.mean(axis=0)
    spread = tracking.returns.std(axis=0, ddof=1) if len(tracking.returns) > 1 else None
    how = {"color": style.colour, "linestyle": style.line, "marker": "o", "markersize": 3.5, "linewidth": 1.2}
    panel.errorbar(tracking.targets, means, yerr=spread, elinewidth=0.8, capsize=2, **how)


def grid(count: int, height: float, *, margin: float, least: int = 0, sharey: bool = False) -> tuple[Figure, list[Any]]:
    """Return a figure with a panel per task, three side by side (four as two by two); places without one are empty.

    Args:
        count: of panels.
        height: of one, in inches.
        margin: width in inches of the row names or the legend beside the panels.
        least: entries of the legend that the figure is high enough for.
        sharey: whether the panels have one y axis.
    """
    columns = 2 if count == 4 else min(_COLUMNS, count)
    rows = math.ceil(count / columns)
    width = margin + {1: 4.0, 2: 6.0}.get(columns, 7.5)
    needed = max(rows * (height + 0.35), 0.2 * least)
    figure = Figure(figsize=(max(width, _TITLE_WIDTH), 1.0 + needed))
    figure.set_layout_engine("constrained", rect=(0, 0, 0.985, 1))  # half of a number may stand beyond the last panel
    panels = figure.subplots(rows, columns, squeeze=False, sharey=sharey).flatten()
    for empty in panels[count:]:
        empty.set_visible(False)
    return figure, list(panels[:count])


def legend_width(styles: Iterable[Curve]) -> float:
    """Return about how many inches the legend needs."""
    return _KEY_WIDTH + _widest(styles)


def _widest(styles: Iterable[Curve]) -> float:
    return max((_CHARACTER * len(style.label) for style in styles), default=0.0)


def legend(figure: Figure, styles: Sequence[Curve]) -> None:
    """Put the models' names beside the panels."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=style.colour, linestyle=style.line, label=style.label) for style in styles]
    figure.legend(handles=handles, loc="outside right center", frameon=False, handlelength=3.0)
