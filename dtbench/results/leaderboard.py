"""Results → markdown, console tables and figures. Equal results give equal bytes."""

from __future__ import annotations

import csv
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from dtbench.errors import ResultError
from dtbench.resources import resource
from dtbench.results import stats
from dtbench.results.files import scan
from dtbench.results.schema import Result
from dtbench.results.sections import EVERYTHING, Section, Selection, either, sections

#: Bootstrap repetitions of what is written to a file; rliable's own default is 50,000, at ten seconds and more a model.
PUBLISHED_REPETITIONS = 10_000


def render(root: str | Path, selection: Selection = EVERYTHING, *, figures: str | None = None) -> str:
    """Render the results under `root` as markdown.

    Args:
        figures: prefix of figure files to refer to.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: no folder or no results; files that are left out are listed in the text.
    """
    results, unreadable = scan(Path(root))
    if unreadable and not results:
        raise ResultError(f"{root} holds no result that can be read; the first of {len(unreadable)}: {unreadable[0]}")
    if not results:
        raise ResultError(f"{root} holds no results; `dtbench run --output {root}` writes some.")
    parts = ["# dtbench leaderboard"]
    for number, section in enumerate(sections(results, selection)):
        parts += [f"## {section.title}", *_render_section(section)]
        if figures and _complete(section):
            parts += [f"![Aggregate scores]({figures}-{number}-intervals.svg)"]
            parts += [f"![Performance profile]({figures}-{number}-profile.svg)"]
    if unreadable:
        parts += ["## Files left out", "\n".join(f"- {line}" for line in unreadable)]
    return "\n\n".join(parts) + "\n"


def write(root: str | Path, file: str | Path, selection: Selection = EVERYTHING) -> None:
    """Write the markdown and the figures beside it.

    Raises:
        ResultError: nothing to show, or the file cannot be written.
    """
    from dtbench.results import plots

    root, file = Path(root), Path(file)
    text = render(root, selection, figures=file.stem)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for number, section in enumerate(sections(scan(root)[0], selection)):
            complete = _complete(section)
            if complete:
                plots.intervals(complete, file.with_name(f"{file.stem}-{number}-intervals.svg"))
                plots.profile(complete, file.with_name(f"{file.stem}-{number}-profile.svg"))
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as content:
            content.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except OSError as error:
        raise ResultError(f"The leaderboard {file} cannot be written: {error}.") from error


def check(root: str | Path, file: str | Path, selection: Selection = EVERYTHING) -> bool:
    """Say whether `file` is what the results under `root` render to, with its figures beside it.

    The figures' bytes are not compared: another version of matplotlib draws the same scores differently.
    """
    file = Path(file)
    text = render(root, selection, figures=file.stem)
    figures = re.findall(r"^!\[[^]]*\]\((.+)\)$", text, flags=re.MULTILINE)
    present = file.is_file() and all(file.with_name(name).is_file() for name in figures)
    return present and file.read_text(encoding="utf-8") == text


def _complete(section: Section) -> dict[str, np.ndarray]:
    matrices = {model: section.matrix(model) for model in section.models}
    return {model: matrix for model, matrix in matrices.items() if matrix is not None}


def _render_section(section: Section) -> list[str]:
    if not section.models:
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
    rows = [[f"`{model}`", *(cell(section, model, task) for task in section.tasks)] for model in section.models]
    seeds = sorted({len(cells) for cells in section.cells.values()})
    return [
        "### Scores per task",
        f"Normalised scores × 100 (reference table: {', '.join(tables)}): mean ± standard deviation over seeds; "
        f"n = {', '.join(map(str, seeds))} seeds per cell{' (one seed: the mean alone)' if seeds[0] == 1 else ''}.",
        _markdown(rows, ["model", *section.tasks]),
    ]


def cell(section: Section, model: str, task: str) -> str:
    """Format a cell: mean, spread over seeds (n − 1) where there are two, and n where cells differ in it."""
    results = section.cells.get((model, task))
    if not results:
        return "–"
    scores = 100 * np.array([result.score for result in results])
    spread = f" ± {scores.std(ddof=1):.1f}" if len(scores) > 1 else ""
    uneven = len({len(cells) for cells in section.cells.values()}) > 1
    return f"{scores.mean():.1f}{spread}{f' (n={len(scores)})' if uneven else ''}"


def _aggregate_table(section: Section) -> list[str]:
    rows = [_aggregate_row(section, model) for model in section.models]
    headers = ["model", "runs", "IQM", "median", "mean", "optimality gap"]
    return [
        "### Aggregate",
        f"Over all {len(section.tasks)} tasks, × 100, with 95 % stratified bootstrap intervals over seeds "
        f"({PUBLISHED_REPETITIONS:,} repetitions, rliable). An interval needs two seeds. A model that lacks a task is "
        "incomplete and is not averaged over what is there.",
        _markdown(rows, headers),
    ]


def _aggregate_row(section: Section, model: str) -> list[str]:
    matrix = section.matrix(model)
    if matrix is None:
        return [f"`{model}`", "–", section.shortfall(model), "–", "–", "–"]
    estimates = stats.aggregate(matrix, PUBLISHED_REPETITIONS)
    return [f"`{model}`", str(len(matrix)), *(_estimate(estimates[name]) for name in stats.AGGREGATES)]


def _estimate(estimate: stats.Estimate) -> str:
    if estimate.interval is None:
        return f"{100 * estimate.value:.1f} [n/a]"
    low, high = estimate.interval
    return f"{100 * estimate.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _unfinished(section: Section) -> list[str]:
    if not section.unfinished:
        return []
    lines = []
    for result in section.unfinished:
        error = result.error
        reason = f": {error.type}: {' '.join(error.message.split())}" if error else ""
        run = f"`{result.model.name}` on {result.task.id}, seed {result.seed}"
        lines.append(f"- {run}: {result.status}{reason}")
    return ["### Runs without a score", "\n".join(sorted(lines))]


def _protocol(section: Section) -> str:
    finished, seeds = section.finished, sorted({result.seed for result in section.finished})
    targets = {r.task.id: r.task.score_target for r in finished}
    listed = ", ".join(f"{task} {targets[task]:g}" for task in section.tasks if task in targets)
    episodes = sorted({r.measured.evaluation.episodes for r in finished})
    return (
        f"The last checkpoint is scored, at one return target per task ({listed}). Each run is evaluated on "
        f"{either(episodes)} episodes, one per environment, seeded by the run's seed ({either(seeds)}). Each "
        "episode's return is normalised first; a run's score is the mean over its episodes. Neither the best "
        "checkpoint nor the best target is chosen."
    )


def _models_table(section: Section) -> list[str]:
    rows = []
    for model in section.models:
        results = section.results(model)
        first = results[0]
        hashes = sorted({result.model.config_hash for result in results})
        changed = "" if first.model.is_preset_config else "changed by the user"
        training = first.measured.training
        speed = np.median([result.measured.training.steps_per_s for result in results])
        rows.append(
            [
                f"`{model}`",
                section.weights(model),
                f"{training.steps:,}",
                f"{speed:.1f}",
                either(sorted({result.measured.training.device for result in results})),
                f"{either([f'`{digits}`' for digits in hashes])} {changed}".strip(),
            ]
        )
    headers = ["model", "initial weights", "steps", "steps/s (median)", "device", "configuration"]
    return ["### Models", _markdown(rows, headers)]


def _data_table(section: Section) -> list[str]:
    tasks = {result.task.id: result.task for result in section.finished}
    rows = [
        [task, tasks[task].env_id, tasks[task].dataset_id, f"`{(tasks[task].fingerprint or '')[:12]}`"]
        for task in section.tasks
        if task in tasks
    ]
    return ["### Data", _markdown(rows, ["task", "environment", "dataset", "fingerprint"])]


def _target_table(section: Section) -> list[str]:
    """Scores at further targets: diagnostics, never ranked."""
    rows = []
    for model in section.models:
        for task in section.tasks:
            scores: dict[str, list[float]] = {}
            for result in section.cells.get((model, task), []):
                for target, entry in result.measured.scores.per_target.items():
                    scores.setdefault(target, []).append(100 * entry.mean)
            if len(scores) > 1:
                parts = [f"{float(target):g} → {np.mean(values):.1f}" for target, values in scores.items()]
                rows.append([f"`{model}`", task, ", ".join(parts)])
    if not rows:
        return []
    return ["### Diagnostics: other return targets (not ranked)", _markdown(rows, ["model", "task", "target → score"])]


def _published_table(section: Section) -> list[str]:
    name = section.suite.partition("@")[0]
    rows = []
    for model in dict.fromkeys(result.model.name for result in section.finished):
        file = resource("baselines", model, "reference.csv")
        if file.is_file():
            with file.open(newline="") as content:
                published = [row for row in csv.DictReader(content) if row["suite"] == name]
            published = [row for row in published if row["task"] in section.tasks]
            rows += [[f"`{model}`", *(row[key] for key in ("task", "score", "data", "source"))] for row in published]
    if not rows:
        return []
    return [
        "### Published elsewhere, on other data (for context; never compare columns)",
        _markdown(rows, ["model", "task", "score", "data", "source"]),
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
        f"dtbench {', '.join(versions)}, commit {', '.join(commits)}; {listed}. {len(finished)} runs.",
    ]


def _markdown(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def console_table(results: Sequence[Result], selection: Selection = EVERYTHING) -> Group:
    """Return the scores for the terminal, a table per section: tasks as rows, models as columns."""
    return Group(*(_console_section(section) for section in sections(results, selection)))


def _console_section(section: Section) -> Table | Text:
    if not section.models:
        return Text(f"{section.title}: no run has finished")
    table = Table(title=escape(section.title), caption="normalised score × 100, last checkpoint, mean ± std over seeds")
    table.add_column("task")
    for model in section.models:
        table.add_column(escape(model), justify="right")
    for task in section.tasks:
        if any((model, task) in section.cells for model in section.models):
            table.add_row(escape(task), *(cell(section, model, task) for model in section.models))
    table.add_section()
    iqm = []
    for model in section.models:
        matrix = section.matrix(model)
        iqm.append(section.shortfall(model) if matrix is None else _estimate(stats.aggregate(matrix)["iqm"]))
    table.add_row(escape("IQM [95 % interval]"), *map(escape, iqm))
    table.add_row("initial weights", *(escape(section.weights(model)) for model in section.models))
    return table
