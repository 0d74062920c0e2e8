"""The page of a factorial board: cells, what is missing, effects with intervals and p, and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from dtbench.errors import ResultError
from dtbench.results import stats
from dtbench.results.factorial import Design, Effect, complete_scores, effects, gaps
from dtbench.results.pages import (
    Page,
    data_table,
    figure,
    files_left_out,
    joined,
    models_table,
    protocol,
    provenance,
    unfinished_runs,
)
from dtbench.results.schema import Result
from dtbench.results.sections import Section, Selection, sections
from dtbench.results.text import code, either, markdown_table, markdown_text, p_text, signed_text

#: The heading of a page that has none of its own.
TITLE = "dtbench factorial"

Scores = Mapping[tuple[str, str], Mapping[int, float]]


def page(
    results: Sequence[Result],
    left_out: Sequence[str],
    design: Design,
    selections: Sequence[Selection],
    *,
    figures: str | None = None,
    title: str = TITLE,
    trials: int | None = None,
) -> Page:
    """Compute a factorial from results.

    Args:
        results, left_out: as `files.read_folder` returns them.
        design: the cells and factors.
        selections: for each suite, its tasks of the design, with the preset and the source.
        figures: prefix of the figures' file names; None makes a page without figures.
        title: the page's heading.
        trials: hyper-parameter trials per model, where the preset's file does not record them.

    Raises:
        ResultError: no cell has a result, or the results of a task come from several sources or data.
    """
    from dtbench.results import factorial_plots

    found = [section for selection in selections for section in _sections(results, design, selection)]
    cells = _cells(found)
    if not cells:
        raise ResultError(f"No cell of the factorial has a result: {', '.join(design.cells)}.")
    computed = effects(design, cells)
    parts, drawn = [f"# {markdown_text(title)}"], {}
    parts += [*_cell_table(design, cells), *_missing(design, cells), *_effect_table(design, cells, computed)]
    if figures and computed:
        name = f"{figures}-effects.svg"
        parts.append(figure("Effects with 95 % intervals", name))
        drawn[name] = partial(factorial_plots.effects, computed, title)
    for number, names in enumerate(_plotted(design) if figures else []):
        scores = complete_scores(design, cells, design.tasks)
        if scores is not None:
            name = f"{figures}-{number}-interaction.svg"
            parts.append(figure(f"Interaction {' × '.join(names)}", name))
            drawn[name] = partial(factorial_plots.interaction, design, scores, names, title)
    for section in found:
        parts += [f"## {markdown_text(section.title)}", *unfinished_runs(section)]
        if section.rows:
            parts += ["### Protocol", protocol(section, trials)]
            parts += [*models_table(section), *data_table(section), *provenance(section)]
    return Page(joined([*parts, *files_left_out(left_out)]), drawn)


def _sections(results: Sequence[Result], design: Design, selection: Selection) -> list[Section]:
    """Return the sections of a suite that hold cells of the design."""
    chosen = replace(selection, models=tuple(design.cells), must_exist=False)
    return [section for section in sections(results, chosen) if section.rows or section.unfinished]


def _cells(found: Sequence[Section]) -> Scores:
    """Return (label, task) → seed → score; a task's scores must come from one section."""
    cells: dict[tuple[str, str], dict[int, float]] = {}
    home: dict[str, str] = {}
    for section in found:
        for row in section.rows:
            for task, results in row.cells.items():
                before = home.setdefault(task, section.title)
                if before != section.title:
                    raise ResultError(
                        f"{task} has results in two sections ({before}; {section.title}), which are not comparable; "
                        "name the board's source, or keep the results in different folders."
                    )
                cells[row.label, task] = {result.seed: result.score for result in results}
    return cells


def _plotted(design: Design) -> list[tuple[str, ...]]:
    """Return the interactions to draw: the named ones of two or three factors, else the first two factors."""
    named = [names for names in design.interactions if len(names) <= 3]
    pair = tuple(design.all_factors[:2])
    return named or ([pair] if len(pair) == 2 else [])


def _cell_table(design: Design, cells: Scores) -> list[str]:
    counts = sorted({len(scores) for scores in cells.values()})
    rows = [
        [code(label), *(markdown_text(levels[name]) for name in design.factors)]
        + [_cell(cells.get((label, task), {}), len(counts) > 1) for task in design.tasks]
        for label, levels in design.cells.items()
    ]
    group = {task: level for level, tasks in (design.task_levels or {}).items() for task in tasks}
    tasks = [f"{task} ({group[task]})" if task in group else task for task in design.tasks]
    return [
        "## Cells",
        "Normalised scores × 100, last checkpoint at the score target: mean ± standard deviation over seeds; n = "
        f"{', '.join(map(str, counts))} seeds per cell.",
        markdown_table(rows, ["model", *map(markdown_text, [*design.factors, *tasks])]),
    ]


def _cell(scores: Mapping[int, float], show_count: bool) -> str:
    if not scores:
        return "–"
    values = 100 * np.array(list(scores.values()))
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}{f' (n={len(values)})' if show_count else ''}"


def _missing(design: Design, cells: Scores) -> list[str]:
    missing = gaps(design, cells)
    if not missing:
        return []
    lines = [
        f"- {code(label)} on {markdown_text(task)}: {f'seed {either(seeds)}' if seeds else 'no finished run'}"
        for (label, task), seeds in missing.items()
    ]
    return [
        "## Missing",
        "Nothing is averaged over gaps: an effect is computed over the seeds that every cell has on every one of its "
        "tasks, and not at all where there is none.",
        "\n".join(lines),
    ]


def _effect_table(design: Design, cells: Scores, computed: Sequence[Effect]) -> list[str]:
    scopes = ", ".join(scope for scope, tasks in design.scopes.items() if complete_scores(design, cells, tasks) is None)
    lacking = (
        [f"Not computed, for lack of results: the effects on {scopes.replace('all', 'all tasks')}."] if scopes else []
    )
    if not computed:
        return ["## Effects", *lacking]
    levels = "; ".join(f"{name}: {second} − {first}" for name, (first, second) in design.factors.items())
    rows = [
        [
            markdown_text(effect.name),
            markdown_text(effect.scope),
            str(effect.seeds),
            signed_text(effect.estimate),
            p_text(effect.test),
        ]
        for effect in computed
    ]
    pairing = _pairing(design)
    return [
        "## Effects",
        f"Differences of normalised scores × 100, each task weighing equally ({markdown_text(levels)}). An interaction "
        "is a difference of differences: by how much the effect of the first factor changes from the first to the "
        "second level of the others. In brackets: 95 % intervals over training seeds (stratified bootstrap, expanded "
        f"for few seeds; [n/a] below {stats.FEWEST_SEEDS} seeds; one that held the true value in less than 90 % of "
        "simulated cases says so).",
        "p is two-sided, from flipping signs: runs of one seed are paired across cells, and if there is no effect, the "
        f"contrast of a seed and task is as likely with either sign. {pairing}Where an effect differs between tasks, "
        "the p of its mean is conservative: it can be large although the interval excludes 0. It is uncorrected for "
        f"the number of effects, which is {len(computed)} here; of effects that are nil, about one in "
        f"{1 / stats.SIGNIFICANCE:.0f} has p < {stats.SIGNIFICANCE:g}.",
        "Intervals and p speak of training seeds only: where a level is a set of pretrained weights, they do not say "
        "what another pretraining would give.",
        markdown_table(rows, ["effect", "tasks", "seeds", "difference × 100", "p"]),
        *lacking,
    ]


def _pairing(design: Design) -> str:
    """Say which tasks are partners in the interactions with the task factor."""
    if design.task_levels is None:
        return ""
    first, second = design.task_levels.values()
    if len(first) != len(second):
        return f"For interactions with {markdown_text(str(design.task_factor))}, the units are the seeds. "
    pairs = ", ".join(f"{after} − {before}" for before, after in zip(first, second, strict=True))
    return f"For interactions with {markdown_text(str(design.task_factor))}, tasks are paired: {markdown_text(pairs)}. "
