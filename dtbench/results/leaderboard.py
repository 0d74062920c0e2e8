"""Results → markdown, console tables and figures. Equal results give equal bytes."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Group

from dtbench import atomic
from dtbench.errors import ResultError
from dtbench.registry import MODELS
from dtbench.resources import resource
from dtbench.results import stats
from dtbench.results.files import error_reason, read_folder
from dtbench.results.schema import Result
from dtbench.results.sections import EVERYTHING, Row, Section, Selection, sections
from dtbench.results.terminal import ScoreTable
from dtbench.results.text import (
    code,
    code_block,
    either,
    estimate_text,
    markdown_table,
    markdown_text,
    one_line,
    p_text,
    reason,
)

#: At most this many last lines of a failed run's log are shown.
_LOG_LINES = 10


def render(root: str | Path, selection: Selection = EVERYTHING, *, figures: str | None = None) -> str:
    """Render the results under `root` as markdown.

    Args:
        figures: prefix of figure files to refer to.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: no folder or no results. Files that cannot be read are listed in the text.
    """
    return _render(root, selection, figures)[0]


def _render(root: str | Path, selection: Selection, figures: str | None) -> tuple[str, list[Section]]:
    results, left_out = read_folder(Path(root))
    found = sections(results, selection)
    parts = ["# dtbench leaderboard"]
    for number, section in enumerate(found):
        parts += [f"## {markdown_text(section.title)}", *_render_section(section)]
        if figures and section.complete:
            parts += [f"![Aggregate scores]({figures}-{number}-intervals.svg)"]
            parts += [f"![Performance profile]({figures}-{number}-profile.svg)"]
    if left_out:
        parts += ["## Files left out", "\n".join(f"- {markdown_text(line)}" for line in left_out)]
    return "\n\n".join(parts) + "\n", found


def write(root: str | Path, file: str | Path, selection: Selection = EVERYTHING) -> None:
    """Write the markdown and the figures beside it.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: nothing to show, or the files cannot be written.
    """
    from dtbench.results import plots

    file = Path(file)
    text, found = _render(root, selection, file.stem)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for number, section in enumerate(found):
            if section.complete:
                for draw, name in ((plots.intervals, "intervals"), (plots.profile, "profile")):
                    draw(section, file.with_name(f"{file.stem}-{number}-{name}.svg"))
        atomic.write_text(file, text)
    except OSError as error:
        raise ResultError(f"The leaderboard {file} cannot be written: {error_reason(error)}.") from error


def check(root: str | Path, file: str | Path, selection: Selection = EVERYTHING) -> bool:
    """Say whether `file` is what the results under `root` render to, with its figures beside it.

    The figures' bytes are not compared: another version of matplotlib draws the same scores differently.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: nothing to show, or the file cannot be read.
    """
    file = Path(file)
    text = render(root, selection, figures=file.stem)
    figures = re.findall(r"^!\[[^]]*\]\((.+)\)$", text, flags=re.MULTILINE)
    try:
        present = file.is_file() and all(file.with_name(name).is_file() for name in figures)
        return present and file.read_bytes() == text.encode("utf-8")
    except OSError as error:
        raise ResultError(f"The leaderboard {file} cannot be read: {error_reason(error)}.") from error


def _render_section(section: Section) -> list[str]:
    if not section.rows:
        return ["No run has finished.", *_unfinished(section)]
    other = (
        "Other data, or another way of scoring, than in the sections before (see Data and Protocol): these numbers are "
        "not comparable with those."
    )
    return [
        *([other] if section.part > 1 else []),
        *_task_table(section),
        *_aggregate_table(section),
        *_unfinished(section),
        "### Protocol",
        _protocol(section),
        *_models_table(section),
        *_data_table(section),
        *_target_table(section),
        *_published_table(section),
        *_provenance(section),
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


def _unfinished(section: Section) -> list[str]:
    if not section.unfinished:
        return []
    listed = sorted(section.unfinished, key=lambda run: (run[0], run[1].task.id, run[1].seed))
    return ["### Runs without a score", "\n".join(_unfinished_run(label, result) for label, result in listed)]


def _unfinished_run(label: str, result: Result) -> str:
    """Return a list item with the reason, and below it the last lines of the run's log where they were recorded."""
    item = f"- {code(label)} on {markdown_text(result.task.id)}, seed {result.seed}: {markdown_text(reason(result))}"
    log = result.error.log_tail[-_LOG_LINES:] if result.error else []
    return f"{item}\n\n{code_block(log, indent='  ')}\n" if log else item


def _protocol(section: Section) -> str:
    finished, seeds = section.finished, sorted({result.seed for result in section.finished})
    targets = {result.task.id: result.task.score_target for result in finished}
    listed = ", ".join(f"{markdown_text(task)} {targets[task]:g}" for task in section.tasks if task in targets)
    episodes = sorted({result.measured.evaluation.episodes for result in finished})
    return (
        f"The last checkpoint is scored, at one return target per task ({listed}). Each run is evaluated on "
        f"{either(episodes)} episodes, one per environment, seeded by the run's seed ({either(seeds)}). Each "
        "episode's return is normalised first; a run's score is the mean over its episodes. Neither the best "
        "checkpoint nor the best target is chosen."
    )


def _models_table(section: Section) -> list[str]:
    rows = []
    for row in section.rows:
        results = row.results(section.tasks)
        hashes = sorted({result.model.config_hash for result in results})
        training = results[0].measured.training
        speed = np.median([result.measured.training.steps_per_s for result in results])
        devices = sorted({result.measured.training.device for result in results})
        rows.append(
            [
                code(row.label),
                markdown_text(row.initial_weights),
                f"{training.steps:,}",
                f"{speed:.1f}",
                markdown_text(either(devices)),
                either(sorted({code(result.measured.training.precision) for result in results})),
                f"{either([code(digits) for digits in hashes])} {_changed(row)}".strip(),
            ]
        )
    headers = ["model", "initial weights", "steps", "steps/s (median)", "device", "precision", "configuration"]
    return ["### Models", markdown_table(rows, headers)]


def _changed(row: Row) -> str:
    """Say that a row's configuration was changed, and how if its label does not."""
    if not row.is_changed:
        return ""
    is_in_label = all(one_line(change) in row.label for change in row.changes)
    return "changed by the user" + ("" if is_in_label else f": {', '.join(map(code, row.changes))}")


def _data_table(section: Section) -> list[str]:
    tasks = {result.task.id: result.task for result in section.finished}
    rows = [
        [
            *map(markdown_text, (task, tasks[task].env_id, tasks[task].dataset_id)),
            code((tasks[task].fingerprint or "")[:12]),
        ]
        for task in section.tasks
        if task in tasks
    ]
    return ["### Data", markdown_table(rows, ["task", "environment", "dataset", "fingerprint"])]


def _target_table(section: Section) -> list[str]:
    """Return scores at further targets: diagnostics, never ranked."""
    rows = []
    for row in section.rows:
        for task in section.tasks:
            scores: dict[str, list[float]] = {}
            for result in row.cells.get(task, []):
                for target, episodes in result.measured.scores.per_target.items():
                    scores.setdefault(target, []).append(100 * episodes.mean)
            if len(scores) > 1:
                parts = [f"{float(target):g} → {np.mean(values):.1f}" for target, values in scores.items()]
                rows.append([code(row.label), markdown_text(task), ", ".join(parts)])
    if not rows:
        return []
    return [
        "### Diagnostics: other return targets (not ranked)",
        markdown_table(rows, ["model", "task", "target → score"]),
    ]


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


def _provenance(section: Section) -> list[str]:
    finished = section.finished
    commits = sorted({str(result.provenance.git) for result in finished})
    versions = sorted({result.dtbench_version for result in finished})
    packages: dict[str, set[str]] = {}
    for result in finished:
        for package, version in result.provenance.packages.items():
            packages.setdefault(package, set()).add(str(version))
    listed = ", ".join(f"{package} {'/'.join(sorted(found))}" for package, found in sorted(packages.items()))
    return [
        "### Provenance",
        f"dtbench {', '.join(map(markdown_text, versions))}, commit {', '.join(map(markdown_text, commits))}; "
        f"{markdown_text(listed)}. {len(finished)} runs.",
    ]


def console_table(results: Sequence[Result], selection: Selection = EVERYTHING) -> Group:
    """Return the scores for the terminal, a table per section; runs without a score are named below it.

    Raises:
        UnknownNameError: the selection names something without results, and says that it must exist.
    """
    return Group(*(ScoreTable(section) for section in sections(results, selection)))
