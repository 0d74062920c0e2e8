"""Figures for the leaderboard; equal scores give equal bytes.

A model has the same colour in every figure, and a variant (what the user changed) the same line style for all models of
a figure.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dtbench.figures import STYLE, plain, save
from dtbench.registry import MODELS
from dtbench.results import stats
from dtbench.results.bandit import BUDGETS
from dtbench.results.protocols import LAST, Protocols
from dtbench.results.sections import Row, Section
from dtbench.results.text import either

_TITLES = {"iqm": "IQM", "median": "Median", "mean": "Mean", "optimality_gap": "Optimality gap"}
#: Of each model in the registry's order, then of others: Paul Tol's muted scheme and some of his other ones.
COLOURS = (
    "#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#6699cc", "#0077bb", "#999933",
    "#ee7733", "#661100", "#ee3377", "#aa4499", "#000000", "#44aa99", "#882255", "#777777",
)  # fmt: skip
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 3)), (0, (3, 1)))
#: More curves in one panel cannot be followed.
_MOST_CURVES = 8


@dataclass(frozen=True)
class Curve:
    """How a row of a section is drawn."""

    row: Row
    colour: str
    line: Any

    @property
    def label(self) -> str:
        """The row's label without the dollar signs' meaning, which is mathematics to matplotlib."""
        return plain(self.row.label)


def curves_of(section: Section) -> list[Curve]:
    """Return the complete rows, the best first."""
    return styles_of(section, [row for row in section.rows if row.label in section.complete])


def styles_of(section: Section, rows: Sequence[Row]) -> list[Curve]:
    """Return how rows of a section are drawn: a colour per model, and a line style per variant of the section."""
    looks = looks_of(section.rows)
    return [Curve(row, colour, LINES[variant % len(LINES)]) for row in rows for colour, variant in [looks[row.label]]]


def looks_of(rows: Sequence[Row]) -> dict[str, tuple[str, int]]:
    """Return label → (colour of the row's model, number of its variant among those of the section's rows)."""
    models = list(dict.fromkeys([*MODELS, *sorted({row.model for row in rows})]))
    variants = sorted({_variant(row) for row in rows} | {""})
    return {row.label: (COLOURS[models.index(row.model) % len(COLOURS)], variants.index(_variant(row))) for row in rows}


def _variant(row: Row) -> str:
    return row.label.removeprefix(row.model)


def intervals(section: Section, file: Path) -> None:
    """Draw the four aggregates of the complete rows; a row without an interval has a point and no bar."""
    curves, leaders = curves_of(section), section.leaders
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.9 + 0.35 * len(curves)), layout="constrained")
        panels = figure.subplots(1, len(_TITLES), sharey=True, squeeze=False)[0]
        for panel, (name, title) in zip(panels, _TITLES.items(), strict=True):
            for place, curve in enumerate(curves):
                _draw_estimate(panel, place, section.estimates[curve.row.label][name], curve)
            panel.use_sticky_edges = False  # or a bar would end on the axis
            panel.margins(x=0.12)
            panel.set_title(title)
            panel.set_yticks(range(len(curves)), [curve.label for curve in curves])
            panel.set_ylim(len(curves) - 0.5, -0.5)
            panel.grid(axis="x", alpha=0.3)
        for curve, text in zip(curves, panels[0].get_yticklabels(), strict=True):
            text.set_fontweight("bold" if curve.row.label in leaders else "normal")
        set_title(figure, "Aggregate scores, 95 % intervals (bold: not separable from the best)", section, width=110)
        figure.supxlabel("normalised score × 100", fontsize=9)
        save(figure, file)


def _draw_estimate(panel: Any, place: int, estimate: stats.Estimate, curve: Curve) -> None:
    if estimate.interval is not None:
        low, high = (100 * bound for bound in estimate.interval)
        bar = {"left": low, "height": 0.6}
        panel.barh(place, high - low, **bar, color=curve.colour, alpha=0.45)
        panel.barh(place, high - low, **bar, fill=False, edgecolor=curve.colour, linestyle=curve.line, linewidth=1.2)
    panel.plot(100 * estimate.value, place, "|", color="black", markersize=14, markeredgewidth=1.5)


def profile(section: Section, file: Path) -> None:
    """Draw the share of runs above each score, with bands where there are three seeds; at most eight curves a panel."""
    groups = panels_of(curves_of(section))
    highest = max(1.0, *(float(matrix.max()) for matrix in section.complete.values()))
    thresholds = np.linspace(0, highest, 101)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.7 + 2.8 * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
        for axes, curves in zip(panels, groups, strict=True):
            for curve in curves:
                share, band = stats.performance_profile(section.complete[curve.row.label], thresholds)
                style = {"color": curve.colour, "linestyle": curve.line}
                axes.step(100 * thresholds, share, where="post", label=curve.label, **style)
                if band is not None:
                    axes.fill_between(100 * thresholds, *band, step="post", color=curve.colour, alpha=0.12, linewidth=0)
            axes.set(ylabel="share of runs with score > τ", ylim=(0, 1.02))
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), handlelength=3.5)
        panels[-1].set_xlabel("normalised score τ × 100")
        set_title(figure, "Performance profiles with 95 % bands for each score", section, width=95)
        save(figure, file)


def budgets(section: Section, found: Mapping[str, Protocols], file: Path) -> None:
    """Draw what a budget of k episodes deploys when all runs are candidates, beside the last checkpoint's score.

    Args:
        found: label → scores of the complete rows.
    """
    curves = [curve for curve in curves_of(section) if curve.row.label in found]
    groups, places = panels_of(curves), np.arange(1, len(BUDGETS) + 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.9 + 2.8 * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
        for axes, group in zip(panels, groups, strict=True):
            for curve in group:
                scores = found[curve.row.label]
                style = {"color": curve.colour, "linestyle": curve.line}
                values = [100 * outcome.value.value for outcome in scores.all_runs.outcomes]
                axes.plot(places, values, label=curve.label, marker=".", markersize=4, **style)
                axes.plot(0, 100 * scores.outcomes[LAST].value.value, "o", color=curve.colour, markersize=5)
                axes.plot(len(BUDGETS) + 1, 100 * scores.all_runs.known, "D", color=curve.colour, markersize=4)
                bands = [outcome.value.interval for outcome in scores.all_runs.outcomes]
                if all(bands):
                    low, high = 100 * np.array(bands).T
                    axes.fill_between(places, low, high, color=curve.colour, alpha=0.12, linewidth=0)
            axes.set_ylabel("normalised score × 100")
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), handlelength=3.5)
        names = ["last checkpoint,\nscore target", *map(str, BUDGETS), "all means\nknown"]
        panels[-1].set_xticks(range(len(names)), names)
        panels[-1].set_xlabel("episodes spent on choosing among the targets of all runs")
        set_title(
            figure, "What a budget of evaluation episodes deploys (bands: 95 % jackknife intervals)", section, width=95
        )
        save(figure, file)


def panels_of(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Divide curves into panels of at most eight; the variants of a model share a panel if they fit into one."""
    by_model: dict[str, list[Curve]] = {}
    for curve in curves:
        by_model.setdefault(curve.row.model, []).append(curve)
    even = math.ceil(len(curves) / math.ceil(len(curves) / _MOST_CURVES))
    panels: list[list[Curve]] = [[]]
    for group in by_model.values():
        for part in (group[start : start + _MOST_CURVES] for start in range(0, len(group), _MOST_CURVES)):
            is_full = len(panels[-1]) >= even or len(panels[-1]) + len(part) > _MOST_CURVES
            if panels[-1] and is_full:
                panels.append([])
            panels[-1].extend(part)
    return panels


def set_title(figure: Figure, what: str, section: Section, width: int) -> None:
    """Say what a figure shows, and of which suite, source, preset and how many seeds."""
    counts = section.seed_counts
    seeds = f"{either(counts)} {'seed' if counts == [1] else 'seeds'}"
    lines = textwrap.wrap(plain(f"{section.title} · {seeds}"), width)
    figure.suptitle("\n".join([what, *lines]))
