r"""Leaderboards for other programs and for papers: CSV, JSON, LaTeX.

CSV and JSON hold scores on the 0–1 scale, as results do; LaTeX shows them × 100, as pages do.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtbench.errors import UnknownNameError
from dtbench.results import stats
from dtbench.results.records import storable
from dtbench.results.schema import Result
from dtbench.results.sections import EVERYTHING, Row, Section, Selection, sections
from dtbench.results.text import coverage_text, either, one_line, p_text, reason

#: The columns of the CSV, one number to a line: `kind` is `aggregate` or `task`, `name` a statistic or a task.
COLUMNS = (
    "suite", "source", "preset", "part", "model", "kind", "name", "seeds", "estimate", "low", "high", "sd", "coverage",
    "p_against_best",
)  # fmt: skip
#: What LaTeX gives a meaning to, and what pdfTeX's fonts lack.
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "·": r"$\cdot$", "±": r"$\pm$", "×": r"$\times$", "→": r"$\to$",
}  # fmt: skip


def export(results: Sequence[Result], selection: Selection, name: str) -> str:
    """Return the leaderboard in a format by its name.

    Raises:
        UnknownNameError: no such format; or a suite, task or preset without results.
        ResultError: results that cannot be in one table.
    """
    if name not in EXPORTS:
        raise UnknownNameError("format", name, ["markdown", *EXPORTS])
    return EXPORTS[name](results, selection)


def to_csv(results: Sequence[Result], selection: Selection = EVERYTHING) -> str:
    """Return a line per number: each model's aggregates, and its mean on each task.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: results that cannot be in one table.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for section in sections(results, selection):
        place = {"suite": section.suite, "source": section.source, "preset": section.preset, "part": section.part}
        for row in section.rows:
            for entry in _numbers(section, row):
                writer.writerow({**place, "model": row.label, **{k: v for k, v in entry.items() if v is not None}})
    return text.getvalue()


def to_json(results: Sequence[Result], selection: Selection = EVERYTHING) -> str:
    """Return the sections with their protocol, rows and unfinished runs, as JSON.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: results that cannot be in one table.
    """
    content = [_section(section) for section in sections(results, selection)]
    return json.dumps(storable(content), indent=2, allow_nan=False) + "\n"


def to_latex(results: Sequence[Result], selection: Selection = EVERYTHING) -> str:
    """Return two tables per section, aggregates and tasks, for `booktabs` and `graphicx`.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: results that cannot be in one table.
    """
    parts = [r"% \usepackage{booktabs,graphicx}"]
    for section in sections(results, selection):
        if section.rows:
            parts += [_aggregate_table(section), _task_table(section)]
    return "\n\n".join(parts) + "\n"


def latex(text: str) -> str:
    r"""Return text as LaTeX shows it; characters that no rule names and pdfTeX lacks become `?`.

    >>> print(latex("gpt2_dtma gate=false, 5 %"))
    gpt2\_dtma gate=false, 5 \%
    """
    shown = (_LATEX.get(character, character) for character in one_line(text))
    return "".join(part if part.isascii() else "?" for part in shown)


def _numbers(section: Section, row: Row) -> list[dict[str, Any]]:
    """Return a row's numbers: its aggregates if it is complete, and its tasks."""
    found: list[dict[str, Any]] = []
    test = section.against_best.get(row.label)
    for name, estimate in section.estimates.get(row.label, {}).items():
        low, high = estimate.interval or (None, None)
        entry = {"kind": "aggregate", "name": name, "seeds": len(section.complete[row.label])}
        entry |= {"estimate": estimate.value, "low": low, "high": high, "coverage": estimate.coverage}
        found.append({**entry, "p_against_best": test.p if test is not None and name == "iqm" else None})
    for task in section.tasks:
        if task in row.cells:
            scores = np.array([result.score for result in row.cells[task]])
            sd = float(scores.std(ddof=1)) if len(scores) > 1 else None
            found.append(
                {"kind": "task", "name": task, "seeds": len(scores), "estimate": float(scores.mean()), "sd": sd}
            )
    return found


def _section(section: Section) -> dict[str, Any]:
    targets = {result.task.id: result.task.score_target for result in section.finished}
    episodes = sorted({result.measured.evaluation.episodes for result in section.finished})
    return {
        "title": section.title,
        "suite": section.suite,
        "source": section.source,
        "preset": section.preset,
        "part": section.part,
        "tasks": section.tasks,
        "protocol": {
            "scored": "last checkpoint, at the score target",
            "score_targets": targets,
            "episodes": episodes,
            "seeds": sorted({result.seed for result in section.finished}),
            "scale": "normalised, 0–1 between the reference returns",
            "intervals": "95 %, over training seeds (rliable's stratified bootstrap, expanded for few seeds)",
            "p": "permutation test of the means over seeds against the best row, two-sided, uncorrected",
        },
        "rows": [_row(section, row) for row in section.rows],
        "unfinished": [
            {"model": label, "task": result.task.id, "seed": result.seed, "reason": reason(result)}
            for label, result in section.unfinished
        ],
    }


def _row(section: Section, row: Row) -> dict[str, Any]:
    matrix, test = row.matrix(section.tasks), section.against_best.get(row.label)
    numbers = _numbers(section, row)
    kept = {"aggregate": ("seeds", "estimate", "low", "high", "coverage"), "task": ("seeds", "estimate", "sd")}
    by_kind = {
        kind: {entry["name"]: {key: entry[key] for key in keys} for entry in numbers if entry["kind"] == kind}
        for kind, keys in kept.items()
    }
    return {
        "label": row.label,
        "model": row.model,
        "changes": list(row.changes),
        "initial_weights": row.initial_weights,
        "complete": matrix is not None,
        "shortfall": row.shortfall(section.tasks) if matrix is None else None,
        "is_leader": row.label in section.leaders,
        "p_against_best": None if test is None else test.p,
        "aggregates": by_kind["aggregate"],
        "tasks": {
            task: {**entry, "scores": {str(result.seed): result.score for result in row.cells[task]}}
            for task, entry in by_kind["task"].items()
        },
    }


def _aggregate_table(section: Section) -> str:
    lines = []
    for row in section.rows:
        if row.label not in section.estimates:
            lines.append([latex(row.label), latex(row.shortfall(section.tasks)), *["--"] * 5])
            continue
        iqm, *others = (_estimate(section.estimates[row.label][name]) for name in stats.AGGREGATES)
        test, is_leader = section.against_best.get(row.label), row.label in section.leaders
        label = latex(row.label)
        first = [rf"\textbf{{{label}}}" if is_leader else label, str(len(section.complete[row.label]))]
        p = "--" if test is None else latex(p_text(test))
        lines.append([*first, rf"\textbf{{{iqm}}}" if is_leader else iqm, p, *others])
    headers = ["model", "seeds", "IQM", "$p$ against the best", "median", "mean", "optimality gap"]
    caption = (
        f"{_caption(section)} Aggregates over {len(section.tasks)} tasks, 95\\,\\% intervals over training seeds "
        "(stratified bootstrap, expanded for few seeds); bold: the highest IQM and all that a permutation test does "
        f"not separate from it ($p \\geq {stats.SIGNIFICANCE:g}$, uncorrected)."
    )
    return _table(lines, headers, "lrlllll", caption)


def _task_table(section: Section) -> str:
    tasks = [task for task in section.tasks if any(task in row.cells for row in section.rows)]
    lines = [[latex(row.label), *(latex(section.cell(row, task)) for task in tasks)] for row in section.rows]
    headers = ["model", *map(latex, tasks)]
    counts = latex(either(section.seed_counts))
    caption = f"{_caption(section)} Mean $\\pm$ standard deviation over {counts} seeds."
    return _table(lines, headers, "l" + "r" * len(tasks), caption)


def _caption(section: Section) -> str:
    episodes = either(sorted({result.measured.evaluation.episodes for result in section.finished}))
    return (
        f"{latex(section.title)}. Normalised scores $\\times$ 100 of the last checkpoint, {latex(episodes)} episodes "
        "per run."
    )


def _estimate(estimate: stats.Estimate) -> str:
    if estimate.interval is None:
        return f"{100 * estimate.value:.1f}"
    low, high = estimate.interval
    return f"{100 * estimate.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]{latex(coverage_text(estimate))}"


def _table(lines: Sequence[Sequence[str]], headers: Sequence[str], columns: str, caption: str) -> str:
    """Return a floating table as wide as the text at most."""
    rows = [f"  {' & '.join(line)} \\\\" for line in lines]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"  \toprule",
            f"  {' & '.join(headers)} \\\\",
            r"  \midrule",
            *rows,
            r"  \bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


#: Format → what writes it.
EXPORTS = {"csv": to_csv, "json": to_json, "latex": to_latex}
