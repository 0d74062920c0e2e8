"""The figures of a section as plain values for plotly; the page colours them, hides rows and draws them.

A trace says in `meta` to which row it belongs, what of it takes the row's colour, and under which choices of the reader
it is shown. All scores are × 100 here, and every hover text is written with the functions of the tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from dtbench.results import stats
from dtbench.results.sections import Row, Section
from dtbench.results.site.styles import Style
from dtbench.results.text import estimate_text

#: The aggregates, as they are called in tables.
MEASURES = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}
#: Scores at which a performance profile is computed.
_THRESHOLDS = 101
_SCORE = "normalised score × 100"

Figure = dict[str, Any]
Styles = Mapping[str, Style]


def intervals(section: Section, styles: Styles) -> Figure:
    """Return the aggregates of the complete rows with their intervals, one measure at a time."""
    rows = _complete(section)
    traces = [
        _estimate_trace(row, styles[row.label], measure, section.estimates[row.label][measure])
        for measure in MEASURES
        for row in rows
    ]
    return _figure(traces, rows, styles, {"xaxis": {"title": {"text": _SCORE}}})


def _estimate_trace(row: Row, style: Style, measure: str, estimate: stats.Estimate) -> Figure:
    value = 100 * estimate.value
    trace: Figure = {
        "type": "scatter",
        "mode": "markers",
        "x": [_rounded(value)],
        "y": [style.tick],
        "marker": {"size": 9},
        "hovertemplate": _hover(row.label, f"{MEASURES[measure]} {estimate_text(estimate)}"),
        "meta": {"row": row.label, "when": {"measure": measure}, "colour": ["marker.color", "error_x.color"]},
    }
    if estimate.interval is not None:
        low, high = (100 * end for end in estimate.interval)
        ends = {"array": [_rounded(high - value)], "arrayminus": [_rounded(value - low)]}
        trace["error_x"] = {"type": "data", "symmetric": False, "thickness": 2.5, "width": 5, **ends}
    return trace


def profile(section: Section, styles: Styles) -> Figure:
    """Return the share of runs above each score, with bands where there are three seeds."""
    highest = max(1.0, *(float(matrix.max()) for matrix in section.complete.values()))
    thresholds = np.linspace(0, highest, _THRESHOLDS)
    at = [_rounded(100 * value) for value in thresholds]
    bands: list[Figure] = []
    lines: list[Figure] = []
    for row in _complete(section):
        share, band = stats.performance_profile(section.complete[row.label], thresholds)
        dash = {"shape": "hv", "dash": styles[row.label].dash, "width": 2}
        meta = {"row": row.label, "colour": ["line.color"]}
        hover = _hover(row.label, "score > %{x:.0f}: %{y:.0%} of the runs")
        lines.append({**_line(at, share), "line": dash, "hovertemplate": hover, "meta": meta})
        if band is not None:
            bands += _band(row.label, at, band)
    layout = {
        "xaxis": {"title": {"text": f"{_SCORE}, τ"}, "zeroline": False},
        "yaxis": {"title": {"text": "share of runs with score > τ"}, "range": [0, 1.02], "tickformat": ".0%"},
        "height": 430,
    }
    return {"data": [*bands, *lines], "layout": layout}


def profile_table(section: Section) -> dict[str, Any]:
    """Return the numbers behind the profile: the share of runs above every tenth part of the range, in per cent."""
    highest = max(1.0, *(float(matrix.max()) for matrix in section.complete.values()))
    thresholds = np.linspace(0, highest, 11)[:-1]
    rows = []
    for row in _complete(section):
        share, band = stats.performance_profile(section.complete[row.label], thresholds)
        ends = [""] * len(share) if band is None else [f" [{100 * low:.0f}, {100 * high:.0f}]" for low, high in band.T]
        rows.append((row.label, [f"{100 * value:.0f}{end}" for value, end in zip(share, ends, strict=True)]))
    return {"headers": [f"> {100 * value:.0f}" for value in thresholds], "rows": rows}


def _band(label: str, at: Sequence[float], band: Any) -> list[Figure]:
    """Return a band as two lines, the second filled down to the first."""
    meta = {"row": label, "when": {"bands": True}}
    edge = {"shape": "hv", "width": 0}
    low = {**_line(at, band[0]), "line": edge, "hoverinfo": "skip", "meta": meta}
    filled = {"fill": "tonexty", "opacity": 1, "meta": {**meta, "colour": ["fillcolor"]}}
    return [low, {**_line(at, band[1]), "line": edge, "hoverinfo": "skip", **filled}]


def _line(x: Sequence[float], y: Any) -> Figure:
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": [_rounded(float(value), 4) for value in y]}


def task(section: Section, name: str, styles: Styles) -> Figure:
    """Return one task's scores: a dot per seed, a bar at the mean, and a tick per episode on demand."""
    rows = [row for row in section.rows if row.cells.get(name)]
    episodes, seeds, means = [], [], []
    for row in rows:
        results, tick = row.cells[name], styles[row.label].tick
        scores = [100 * result.score for result in results]
        base: Figure = {"type": "scatter", "mode": "markers"}
        for result in results:
            returns = [100 * score for score in result.measured.scores.normalized]
            episodes.append(
                {
                    **base,
                    "x": [_rounded(score, 1) for score in returns],
                    "y": [tick] * len(returns),
                    "marker": {"symbol": "line-ns-open", "size": 11, "line": {"width": 1}},
                    "opacity": 0.55,
                    "hovertemplate": _hover(row.label, f"seed {result.seed}, one episode: %{{x:.1f}}"),
                    "meta": {"row": row.label, "when": {"episodes": True}, "colour": ["marker.color"]},
                }
            )
        seeds.append(
            {
                **base,
                "x": [_rounded(score) for score in scores],
                "y": [tick] * len(scores),
                "customdata": [result.seed for result in results],
                "marker": {"size": 8, "opacity": 0.75},
                "hovertemplate": _hover(row.label, "seed %{customdata}: %{x:.1f}"),
                "meta": {"row": row.label, "colour": ["marker.color"]},
            }
        )
        means.append(
            {
                **base,
                "x": [_rounded(float(np.mean(scores)))],
                "y": [tick],
                "marker": {"symbol": "line-ns-open", "size": 18, "line": {"width": 2.5}},
                "hovertemplate": _hover(row.label, f"mean ± standard deviation: {section.cell(row, name)}"),
                "meta": {"row": row.label, "ink": ["marker.color"]},
            }
        )
    return _figure([*episodes, *seeds, *means], rows, styles, {"xaxis": {"title": {"text": _SCORE}}})


def has_curves(section: Section) -> bool:
    """Say whether any record holds evaluations during training."""
    return any(result.measured.scores.during_training for result in section.finished)


def curves(section: Section, name: str, styles: Styles) -> Figure | None:
    """Return one task's evaluations during training, or None: a thin line per seed, a thick one for their mean."""
    thin, thick = [], []
    for row in section.rows:
        by_seed = {result.seed: _during(result.measured.scores.during_training) for result in row.cells.get(name, [])}
        by_seed = {seed: curve for seed, curve in by_seed.items() if curve}
        dash = styles[row.label].dash
        for seed, curve in by_seed.items():
            thin.append(
                {
                    **_line([float(step) for step in curve], [100 * score for score in curve.values()]),
                    "line": {"width": 1, "dash": dash},
                    "opacity": 0.4,
                    "hovertemplate": _hover(row.label, f"seed {seed}, step %{{x:,}}: %{{y:.1f}}"),
                    "meta": {"row": row.label, "when": {"seeds": True}, "colour": ["line.color"]},
                }
            )
        average = mean_curve(by_seed.values())
        if average:
            what = f"mean of {len(by_seed)} seeds" if len(by_seed) > 1 else "one seed"
            thick.append(
                {
                    **_line([float(step) for step in average], [100 * score for score in average.values()]),
                    "mode": "lines+markers",
                    "marker": {"size": 5},
                    "line": {"width": 2.5, "dash": dash},
                    "hovertemplate": _hover(row.label, f"{what}, step %{{x:,}}: %{{y:.1f}}"),
                    "meta": {"row": row.label, "colour": ["line.color", "marker.color"]},
                }
            )
    if not thick and not thin:
        return None
    layout = {"xaxis": {"title": {"text": "gradient steps"}}, "yaxis": {"title": {"text": _SCORE}}, "height": 340}
    return {"data": [*thin, *thick], "layout": layout}


def curve_rows(section: Section, name: str) -> list[tuple[str, str]]:
    """Return the numbers behind one task's curves: each row's mean over seeds at every step that all seeds have."""
    found = []
    for row in section.rows:
        by_seed = [_during(result.measured.scores.during_training) for result in row.cells.get(name, [])]
        average = mean_curve([curve for curve in by_seed if curve])
        if average:
            found.append((row.label, ", ".join(f"{step:,}: {100 * score:.1f}" for step, score in average.items())))
    return found


def mean_curve(by_seed: Any) -> dict[int, float]:
    """Return step → mean score over seeds, at the steps that all of them have."""
    found = list(by_seed)
    steps = sorted(set.intersection(*(set(curve) for curve in found))) if found else []
    return {step: float(np.mean([curve[step] for curve in found])) for step in steps}


def _during(evaluations: Sequence[tuple[int, float]] | None) -> dict[int, float]:
    """Return step → score; an evaluation without a finite score is left out."""
    return {step: score for step, score in evaluations or [] if math.isfinite(score)}


def histogram(counts: Sequence[int], edges: Sequence[float]) -> Figure:
    """Return the returns of a dataset's episodes as bars."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    texts = [f"{low:,.1f} to {high:,.1f}" for low, high in pairwise(edges)]
    bar = {
        "type": "bar",
        "x": [_rounded(middle) for middle in middles],
        "y": list(counts),
        "width": [_rounded(high - low, 4) for low, high in pairwise(edges)],
        "customdata": texts,
        "hovertemplate": "return %{customdata}: %{y:,} episodes<extra></extra>",
        "meta": {"accent": ["marker.color"]},
    }
    layout = {"xaxis": {"title": {"text": "return of an episode"}}, "yaxis": {"title": {"text": "episodes"}}}
    return {"data": [bar], "layout": {**layout, "height": 320, "bargap": 0.02}}


def _figure(traces: Sequence[Figure], rows: Sequence[Row], styles: Styles, layout: Figure) -> Figure:
    """Return a figure with a line per row; the page makes it as high as the rows that are shown."""
    heights = {row.label: max(26, 16 * (styles[row.label].tick.count("<br>") + 1) + 6) for row in rows}
    axis = {"type": "category", "autorange": "reversed", "automargin": True, "ticks": ""}
    return {"data": list(traces), "layout": {**layout, "yaxis": axis}, "heights": heights}


def _complete(section: Section) -> list[Row]:
    complete = section.complete
    return [row for row in section.rows if row.label in complete]


def _hover(label: str, text: str) -> str:
    """Return a hover text; a label cannot bring a tag or one of plotly's places with it."""
    return f"<b>{escape(label).replace('%{', '% {')}</b><br>{text}<extra></extra>"


def _rounded(value: float, digits: int = 2) -> float:
    return round(float(value), digits)
