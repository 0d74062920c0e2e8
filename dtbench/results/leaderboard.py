"""Results → markdown, console tables and figures. Equal results give equal bytes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group

from dtbench.registry import MODELS
from dtbench.resources import resource
from dtbench.results import stats
from dtbench.results.files import read_folder
from dtbench.results.pages import (
    Page,
    SectionFigure,
    absent_models,
    data_table,
    models_table,
    page_of_sections,
    protocol,
    provenance,
    unfinished_runs,
)
from dtbench.results.schema import Result
from dtbench.results.sections import EVERYTHING, Row, Section, Selection, sections
from dtbench.results.terminal import ScoreTable
from dtbench.results.text import code, estimate_text, markdown_table, markdown_text, p_text
from dtbench.results.tracking import FEWEST_TARGETS, acts_on_return, track

#: The heading of a page that has none of its own.
TITLE = "dtbench leaderboard"


def render(root: str | Path, selection: Selection = EVERYTHING, *, figures: str | None = None) -> str:
    """Render the results under `root` as markdown.

    Args:
        figures: prefix of figure files to refer to.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: no folder or no results. Files that cannot be read are listed in the text.
    """
    return page(*read_folder(Path(root)), selection, figures=figures).text


def write(root: str | Path, file: str | Path, selection: Selection = EVERYTHING, *, redraw: bool = True) -> None:
    """Write the markdown and the figures beside it; without `redraw` only if the markdown has changed.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: nothing to show, or the files cannot be written.
    """
    file = Path(file)
    made = page(*read_folder(Path(root)), selection, figures=file.stem)
    if redraw or not made.is_current(file):
        made.write(file)


def check(root: str | Path, file: str | Path, selection: Selection = EVERYTHING) -> bool:
    """Say whether `file` is what the results under `root` render to, with its figures beside it.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: nothing to show, or the file cannot be read.
    """
    file = Path(file)
    return page(*read_folder(Path(root)), selection, figures=file.stem).is_current(file)


def page(
    results: Sequence[Result],
    left_out: Sequence[str],
    selection: Selection = EVERYTHING,
    *,
    figures: str | None = None,
    title: str = TITLE,
    trials: int | None = None,
) -> Page:
    """Rank the models of each section.

    Args:
        results, left_out: as `files.read_folder` returns them.
        figures: prefix of the figures' file names; None makes a page without figures.
        title: the page's heading.
        trials: hyper-parameter trials per model, where the preset's file does not record them.

    Raises:
        UnknownNameError: a suite, task or preset without results, where the selection says that it must have some.
        ResultError: results that cannot be in one table.
    """
    from dtbench.results import plots

    def render(section: Section) -> tuple[list[str], Sequence[SectionFigure]]:
        shown = [
            ("intervals", "Aggregate scores", partial(plots.intervals, section)),
            ("profile", "Performance profile", partial(plots.profile, section)),
        ]
        return _render_section(section, trials), shown if section.complete else []

    return page_of_sections(title, sections(results, selection), left_out, render, figures)


def _render_section(section: Section, trials: int | None) -> list[str]:
    if not section.rows:
        return ["No run has finished.", *absent_models(section), *unfinished_runs(section)]
    other = (
        "Other data, or another way of scoring, than in the sections before (see Data and Protocol): these numbers are "
        "not comparable with those."
    )
    return [
        *([other] if section.part > 1 else []),
        *_task_table(section),
        *_aggregate_table(section),
        *absent_models(section),
        *unfinished_runs(section),
        *details(section, trials),
    ]


def details(section: Section, trials: int | None = None) -> list[str]:
    """Return how a section's numbers came about, in paragraphs: protocol, models, data, diagnostics, provenance."""
    return [
        "### Protocol",
        protocol(section, trials),
        *models_table(section),
        *data_table(section),
        *_tracking_tables(section),
        *_published_table(section),
        *provenance(section),
    ]


def _task_table(section: Section) -> list[str]:
    tables = sorted({result.task.reference.table for result in section.finished})
    rows = [[code(row.label), *(section.cell(row, task) for task in section.tasks)] for row in section.rows]
    seeds, table_names = section.seed_counts, markdown_text(", ".join(tables))
    return [
        "### Scores per task",
        f"Normalised scores × 100 (reference table: {table_names}): mean ± standard deviation over seeds; "
        f"n = {', '.join(map(str, seeds))} seeds per cell{' (one seed: the mean alone)' if seeds[0] == 1 else ''}.",
        markdown_table(rows, ["model", *map(markdown_text, section.tasks)]),
    ]


def _aggregate_table(section: Section) -> list[str]:
    rows = [_aggregate_row(section, row) for row in section.rows]
    headers = ["model", "seeds", "IQM", "p against the best", "median", "mean", "optimality gap"]
    over = "one task" if len(section.tasks) == 1 else f"all {len(section.tasks)} tasks"
    return [
        "### Aggregate",
        f"Over {over}, × 100, ranked by IQM. In brackets: 95 % intervals over training seeds (rliable's stratified "
        f"bootstrap, {stats.REPETITIONS:,} repetitions, expanded for few seeds); [n/a] below {stats.FEWEST_SEEDS} "
        "seeds, and where all runs agree. An interval that held the true value in less than 90 % of simulated cases "
        "says so (the lowest share of `benchmarks/coverage.md`). A model that lacks a task is incomplete and is not "
        "averaged over the others.",
        f"**Bold**: the highest IQM and all that are not separable from it: p ≥ {stats.SIGNIFICANCE:g} in a "
        "permutation test of the means over seeds, row by row, uncorrected for the number of rows. Where p cannot be "
        f"below {stats.SIGNIFICANCE:g}, there are too few seeds to separate any two models.",
        markdown_table(rows, headers),
    ]


def _aggregate_row(section: Section, row: Row) -> list[str]:
    label, matrix = code(row.label), row.matrix(section.tasks)
    if matrix is None:
        return [label, "–", row.shortfall(section.tasks), "–", "–", "–", "–"]
    iqm, *others = (estimate_text(section.estimates[row.label][name]) for name in stats.AGGREGATES)
    test = section.against_best.get(row.label)
    mark = "**" if row.label in section.leaders else ""
    return [f"{mark}{label}{mark}", str(len(matrix)), f"{mark}{iqm}{mark}", p_text(test) if test else "–", *others]


def _tracking_tables(section: Section) -> list[str]:
    """Return the returns got at several targets, a table per task: diagnostics, never ranked."""
    tables = [part for task in section.tasks for part in _tracking_table(section, task)]
    if not tables:
        return []
    ignoring = [code(row.label) for row in section.rows if not acts_on_return(row.model)]
    return [
        "### Diagnostics: return asked for against return got (not ranked)",
        "Mean return over a run's episodes at each target, ± standard deviation over seeds. The correlation is "
        "Spearman's, of asked and got; the error is the mean of |got − asked|, as a share of the range of the targets. "
        "Both are computed per seed and then averaged. They leave the score target out, because the data may hold no "
        f"such return, unless fewer than {FEWEST_TARGETS} targets remain; below {FEWEST_TARGETS} in all there are none."
        + (f" Left out, because they act without a target: {', '.join(ignoring)}." if ignoring else ""),
        *tables,
    ]


def _tracking_table(section: Section, task: str) -> list[str]:
    conditioned = [row for row in section.rows if task in row.cells and acts_on_return(row.model)]
    found = {row.label: tracking for row in conditioned if (tracking := track(row.cells[task])) is not None}
    if not found:
        return []
    targets = sorted({target for tracking in found.values() for target in tracking.targets})
    scored = next(result.task.score_target for row in conditioned for result in row.cells[task])
    rows = []
    for label, tracking in found.items():
        got = dict(zip(tracking.targets, tracking.returns.T, strict=True))
        cells = [_spread(got[target], 0) if target in got else "–" for target in targets]
        summary = [_spread(tracking.correlations, 2), _spread(tracking.errors, 2), str(len(tracking.returns))]
        rows.append([code(label), *cells, *summary])
    asked = [f"asked {target:g}{' (score target)' if target == scored else ''}" for target in targets]
    return [f"{markdown_text(task)}:", markdown_table(rows, ["model", *asked, "correlation", "error", "seeds"])]


def _spread(values: NDArray[np.float64] | None, digits: int) -> str:
    """Format mean and standard deviation (n − 1); one value has no spread."""
    if values is None:
        return "–"
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def _published_table(section: Section) -> list[str]:
    name = section.suite.partition("@")[0]
    rows = []
    for model in dict.fromkeys(row.model for row in section.rows):
        file = resource("baselines", model, "reference.csv")
        if model in MODELS and file.is_file():
            with file.open(newline="", encoding="utf-8") as content:
                published = [entry for entry in csv.DictReader(content) if entry["suite"] == name]
            published = [entry for entry in published if entry["task"] in section.tasks]
            rows += [[code(model), *(entry[key] for key in ("task", "score", "data", "source"))] for entry in published]
    if not rows:
        return []
    return [
        "### Published elsewhere, on other data (for context; never compare columns)",
        markdown_table(rows, ["model", "task", "score", "data", "source"]),
    ]


def console_table(results: Sequence[Result], selection: Selection = EVERYTHING) -> Group:
    """Return the scores for the terminal, a table per section; runs without a score are named below it.

    Raises:
        UnknownNameError: the selection names something without results, and says that it must exist.
    """
    return Group(*(ScoreTable(section) for section in sections(results, selection)))
