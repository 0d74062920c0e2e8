"""Figures for the leaderboard; equal scores give equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dtbench.results import stats

_TITLES = {"iqm": "IQM", "median": "Median", "mean": "Mean", "optimality_gap": "Optimality gap"}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "dtbench",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#332288")  # Tol, bright


def intervals(scores: dict[str, np.ndarray], file: Path) -> None:
    """Draw the four aggregates with their 95 % intervals; a model with one run has a point and no bar.

    Args:
        scores: model → (runs, tasks), 0–1.
    """
    estimates = {model: stats.aggregate(matrix) for model, matrix in scores.items()}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 1.1 + 0.35 * len(scores)), layout="constrained")
        panels = figure.subplots(1, len(_TITLES), sharey=True, squeeze=False)[0]
        for panel, (name, title) in zip(panels, _TITLES.items(), strict=True):
            for row, estimate in enumerate(estimates.values()):
                _draw_estimate(panel, row, estimate[name], _COLOURS[row % len(_COLOURS)])
            panel.use_sticky_edges = False  # or a bar would end on the axis
            panel.margins(x=0.12)
            panel.set_title(title)
            panel.set_yticks(range(len(scores)), [_plain(label) for label in scores])
            panel.set_ylim(len(scores) - 0.5, -0.5)
            panel.grid(axis="x", alpha=0.3)
        figure.supxlabel("normalised score × 100", fontsize=9)
        _save(figure, file)


def _draw_estimate(panel: Any, row: int, estimate: stats.Estimate, colour: str) -> None:
    if estimate.interval is not None:
        low, high = (100 * bound for bound in estimate.interval)
        panel.barh(row, high - low, left=low, height=0.6, color=colour, alpha=0.6)
    panel.plot(100 * estimate.value, row, "|", color="black", markersize=14, markeredgewidth=1.5)


def profile(scores: dict[str, np.ndarray], file: Path) -> None:
    """Draw the share of runs above each score, with 95 % bands where there are two runs.

    Args:
        scores: model → (runs, tasks), 0–1.
    """
    highest = max(1.0, *(float(matrix.max()) for matrix in scores.values()))
    thresholds = np.linspace(0, highest, 101)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.5, 3.4), layout="constrained")
        axes = figure.subplots()
        for index, (model, matrix) in enumerate(scores.items()):
            share, band = stats.performance_profile(matrix, thresholds)
            colour = _COLOURS[index % len(_COLOURS)]
            axes.step(100 * thresholds, share, where="post", label=_plain(model), color=colour)
            if band is not None:
                axes.fill_between(100 * thresholds, band[0], band[1], step="post", color=colour, alpha=0.2)
        axes.set(xlabel="normalised score τ × 100", ylabel="share of runs with score > τ", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        _save(figure, file)


def _plain(label: str) -> str:
    """Return a label without the dollar signs' meaning, which is mathematics to matplotlib."""
    return label.replace("$", r"\$")


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
