"""A page of markdown with its figures, and the parts that several kinds of page share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dtbench import atomic
from dtbench.config import load_preset, preset_names
from dtbench.errors import DtbenchError, ResultError
from dtbench.results.files import error_reason
from dtbench.results.schema import Result
from dtbench.results.sections import Row, Section
from dtbench.results.text import code, code_block, either, markdown_table, markdown_text, one_line, reason
from dtbench.suites.suites import load_suite, suite_names

#: At most this many last lines of a failed run's log are shown.
_LOG_LINES = 10


@dataclass(frozen=True)
class Page:
    """A rendered page; equal results give equal bytes.

    Attributes:
        text: markdown that refers to the figures by their names.
        figures: name of a file beside the page → what draws it there.
    """

    text: str
    figures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Write the figures, then the markdown.

        Raises:
            ResultError: a file cannot be written.
        """
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            for name, draw in self.figures.items():
                draw(file.with_name(name))
            atomic.write_text(file, self.text)
        except OSError as error:
            raise ResultError(f"The leaderboard {file} cannot be written: {error_reason(error)}.") from error

    def is_current(self, file: Path) -> bool:
        """Say whether `file` holds this page, with its figures beside it.

        The figures' bytes are not compared: another version of matplotlib draws the same scores differently.

        Raises:
            ResultError: the file cannot be read.
        """
        try:
            present = file.is_file() and all(file.with_name(name).is_file() for name in self.figures)
            return present and file.read_bytes() == self.text.encode("utf-8")
        except OSError as error:
            raise ResultError(f"The leaderboard {file} cannot be read: {error_reason(error)}.") from error


def joined(parts: Sequence[str]) -> str:
    """Join the paragraphs of a page."""
    return "\n\n".join(parts) + "\n"


#: A figure of a section: the end of its file's name, what it shows, and what draws it into a file.
SectionFigure = tuple[str, str, Callable[[Path], None]]


def page_of_sections(
    title: str,
    sections: Sequence[Section],
    left_out: Sequence[str],
    render: Callable[[Section], tuple[list[str], Sequence[SectionFigure]]],
    figures: str | None,
) -> Page:
    """Put sections under one heading, each followed by its figures.

    Args:
        title: the heading.
        sections, left_out: what is shown, and the files that could not be read.
        render: returns a section's paragraphs and figures.
        figures: prefix of the figures' file names; None makes a page without figures.
    """
    parts, drawn = [f"# {markdown_text(title)}"], {}
    for number, section in enumerate(sections):
        text, shown = render(section)
        parts += [f"## {markdown_text(section.title)}", *text]
        for kind, what, draw in shown if figures else ():
            name = f"{figures}-{number}-{kind}.svg"
            parts.append(figure(what, name))
            drawn[name] = draw
    return Page(joined([*parts, *files_left_out(left_out)]), drawn)


def figure(title: str, name: str) -> str:
    """Return the reference to a figure beside the page."""
    return f"![{title}]({name})"


def files_left_out(left_out: Sequence[str]) -> list[str]:
    """Return the list of the files that could not be read."""
    if not left_out:
        return []
    return ["## Files left out", "\n".join(f"- {markdown_text(line)}" for line in left_out)]


def absent_models(section: Section) -> list[str]:
    """Name the models that were asked for and have no finished run."""
    if not section.absent:
        return []
    return ["### Missing models", f"No finished run here: {', '.join(map(code, section.absent))}."]


def trials_text(preset: str, count: int | None = None, suite: str = "", models: Collection[str] = ()) -> str:
    """Say how many hyper-parameter trials each model had, as the preset's file records it under `trials`.

    Args:
        preset: the preset's name; one that is not shipped has no record.
        count: the number where it is known from elsewhere, e.g. from a board; the preset's record is then left out.
        suite: the suite's name; the preset's settings for its domain have a record of their own.
        models: those on the page; the record names models `without` trials, or has a number for each of some.
    """
    found: dict[str, Any] = _recorded_trials(preset, suite) if count is None else {"count": count}
    number = _trials_of(found.get("count"), models)
    if not number:
        return "Hyper-parameter trials per model: not recorded."
    how = [
        f"on {', '.join(map(str, found['tasks']))}" if isinstance(found.get("tasks"), list) else "",
        f"with seeds {either(found['seeds'])}" if isinstance(found.get("seeds"), list) else "",
    ]
    where = f" (table: {found['table']})" if isinstance(found.get("table"), str) else ""
    without = [model for model in found.get("without") or () if model in models]
    but = f"; none for {', '.join(without)}" if without else ""
    return markdown_text(f"Hyper-parameter trials per model: {' '.join([number, *filter(None, how)])}{where}{but}.")


def _trials_of(count: Any, models: Collection[str]) -> str:
    """Say how many trials there were: a number for all models, or of some each its own; "" for anything else."""
    if isinstance(count, Mapping):
        had = [f"{number} for {model}" for model, number in count.items() if model in models]
        others = ["0 for the others"] if set(models) - set(count) else []
        return ", ".join([*had, *others])
    return str(count) if isinstance(count, int) and not isinstance(count, bool) else ""


def _recorded_trials(preset: str, suite: str) -> dict[str, Any]:
    if preset not in preset_names():
        return {}
    try:
        content = load_preset(preset)
        domain = load_suite(suite).domain if suite in suite_names() else ""
        found = (content.get("domains", {}).get(domain) or content).get("trials")
    except DtbenchError:  # a preset that cannot be read stops runs, not tables
        return {}
    return found if isinstance(found, dict) else {}


def unfinished_runs(section: Section) -> list[str]:
    """List the runs without a score, each with its reason."""
    if not section.unfinished:
        return []
    listed = sorted(section.unfinished, key=lambda run: (run[0], run[1].task.id, run[1].seed))
    return ["### Runs without a score", "\n".join(_unfinished_run(label, result) for label, result in listed)]


def _unfinished_run(label: str, result: Result) -> str:
    """Return a list item with the reason, and below it the last lines of the run's log where they were recorded."""
    item = f"- {code(label)} on {markdown_text(result.task.id)}, seed {result.seed}: {markdown_text(reason(result))}"
    log = result.error.log_tail[-_LOG_LINES:] if result.error else []
    return f"{item}\n\n{code_block(log, indent='  ')}\n" if log else item


def protocol(section: Section, trials: int | None = None) -> str:
    """Say how the runs were scored, and how many hyper-parameter trials each model had."""
    finished, seeds = section.finished, sorted({result.seed for result in section.finished})
    searched = trials_text(
        section.preset, trials, section.suite.partition("@")[0], {result.model.name for result in finished}
    )
    targets = {result.task.id: result.task.score_target for result in finished}
    listed = ", ".join(f"{markdown_text(task)} {targets[task]:g}" for task in section.tasks if task in targets)
    episodes = sorted({result.measured.evaluation.episodes for result in finished})
    return (
        f"The last checkpoint is scored, at one return target per task ({listed}). Each run is evaluated on "
        f"{either(episodes)} episodes, one per environment, seeded by the run's seed ({either(seeds)}). Each "
        "episode's return is normalised first; a run's score is the mean over its episodes. Neither the best "
        f"checkpoint nor the best target is chosen. {_episodes_text(section)}{searched}"
    )


def _episodes_text(section: Section) -> str:
    """Say how discrete actions were chosen, and where episodes were cut; nothing where neither applies."""
    chosen: dict[str, list[str]] = {}
    cuts = set()
    for row in section.rows:
        for result in row.results(section.tasks):
            evaluation = result.measured.evaluation
            cuts |= {evaluation.max_episode_steps} - {None}
            if evaluation.actions is not None and row.label not in chosen.setdefault(evaluation.actions, []):
                chosen[evaluation.actions].append(row.label)
    said = [f"{markdown_text(how)} in {', '.join(map(code, labels))}" for how, labels in sorted(chosen.items())]
    text = f"Actions are chosen: {'; '.join(said)}. " if said else ""
    if cuts:
        text += f"Episodes are cut after {either(sorted(cuts))} steps. "
    return text


def models_table(section: Section) -> list[str]:
    """Return what each row started from, how long it was trained and on what, and its configuration."""
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


def data_table(section: Section) -> list[str]:
    """Return each task's environment and data."""
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


def provenance(section: Section) -> list[str]:
    """Return versions and commits."""
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
