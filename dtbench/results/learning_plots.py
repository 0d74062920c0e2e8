"""Learning curves as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from dtbench.figures import STYLE, save
from dtbench.results.learning import SCORES, LearningCurves, mean_curve
from dtbench.results.plots import Curve, set_title, styles_of
from dtbench.results.sections import Section
from dtbench.results.task_plots import grid, legend, legend_width

_TITLES = {
    True: "Learning curves: thin lines are seeds, thick lines their mean",
    False: "Training losses (not comparable between models): thin lines are seeds, thick lines their mean",
}


def learning(section: Section, found: LearningCurves, file: Path) -> None:
    """Draw a panel per task: each seed's curve thin, their mean thick.

    Args:
        section: of results.
        found: its curves.
        file: to write.
    """
    rows = [row for row in section.rows if any(row.label in models for models in found.curves.values())]
    styles = styles_of(section, rows)
    with matplotlib.rc_context(STYLE):
        figure, panels = grid(len(found.curves), 2.4, margin=legend_width(styles), least=len(styles))
        for panel, (task, models) in zip(panels, found.curves.items(), strict=True):
            for style in styles:
                if style.row.label in models:
                    _draw(panel, style, found, task)
            panel.set_title(task)
            panel.grid(alpha=0.3)
            panel.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5))
        legend(figure, styles)
        set_title(figure, _TITLES[found.what == SCORES], section, width=95)
        figure.supxlabel("training steps", fontsize=9)
        figure.supylabel(found.what, fontsize=9)
        save(figure, file)


def _draw(panel: Any, style: Curve, found: LearningCurves, task: str) -> None:
    curves = found.curves[task][style.row.label]
    how = {"color": style.colour, "linestyle": style.line}
    marker = "o" if max(len(curve.steps) for curve in curves) < 15 else None
    for curve in curves if len(curves) > 1 else ():
        panel.plot(curve.steps, curve.values, linewidth=0.6, alpha=0.4, **how)
    mean = mean_curve(curves)
    panel.plot(mean.steps, mean.values, linewidth=1.6, marker=marker, markersize=3, **how)
