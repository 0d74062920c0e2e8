"""The page of `dtbench leaderboard --protocols`: the same runs under four protocols, and what selection adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from dtbench.results import stats
from dtbench.results.bandit import BUDGETS, REPETITIONS
from dtbench.results.pages import (
    Page,
    SectionFigure,
    absent_models,
    page_of_sections,
    protocol,
    provenance,
    unfinished_runs,
)
from dtbench.results.protocols import (
    EVALUATION,
    HALVES,
    LAST,
    TARGET,
    Outcome,
    Protocols,
    pool_coverage,
    protocols,
)
from dtbench.results.schema import Result
from dtbench.results.sections import EVERYTHING, Section, Selection, sections
from dtbench.results.text import code, estimate_text, markdown_table, markdown_text, p_sentence, signed_text

#: The heading of a page that has none of its own.
TITLE = "dtbench protocols"
#: The budget that stands for all in the tables with one.
_BUDGET = 20


def page(
    results: Sequence[Result],
    left_out: Sequence[str],
    selection: Selection = EVERYTHING,
    *,
    figures: str | None = None,
    title: str = TITLE,
    trials: int | None = None,
) -> Page:
    """Score the models of each section under four protocols; arguments and errors as of `leaderboard.page`."""
    from dtbench.results import plots

    def render(section: Section) -> tuple[list[str], Sequence[SectionFigure]]:
        found = {row.label: scored for row in section.rows if (scored := protocols(row, section.tasks)) is not None}
        what = "What a budget of evaluation episodes deploys"
        shown = [("budgets", what, partial(plots.budgets, section, found))] if found else []
        return _render_section(section, found, trials), shown

    return page_of_sections(title, sections(results, selection), left_out, render, figures)


def _render_section(section: Section, found: Mapping[str, Protocols], trials: int | None) -> list[str]:
    if not section.rows:
        return ["No run has finished.", *absent_models(section), *unfinished_runs(section)]
    body = [
        *_score_table(section, found),
        *_added_table(found),
        *_budget_tables(section, found),
        *_task_table(section, found),
    ]
    return [
        *(body if found else ["No model has a seed with every task."]),
        *_incomplete(section, found),
        *absent_models(section),
        *unfinished_runs(section),
        "### Protocol (a)",
        protocol(section, trials),
        *provenance(section),
    ]


def _score_table(section: Section, found: Mapping[str, Protocols]) -> list[str]:
    over = "the task" if len(section.tasks) == 1 else f"all {len(section.tasks)} tasks"
    leaders = {name: _leaders(found, name) for name in (LAST, EVALUATION, TARGET)}
    rows = []
    for label, scores in found.items():
        cells = [_bold(_value(scores, name), label in leaders[name]) for name in (LAST, EVALUATION, TARGET)]
        rows.append([code(label), str(scores.seeds), *cells, estimate_text(_budget(scores.all_runs.outcomes).value)])
    headers = [
        "model",
        "seeds",
        "(a) last checkpoint, score target",
        "(b) best evaluation",
        "(c) best target",
        f"(d) {_BUDGET} episodes, all runs",
    ]
    return [
        "### The same runs under four protocols",
        "- (a) The last checkpoint at the task's score target, nothing selected: what the leaderboard ranks.\n"
        "- (b) The best of the evaluations during training and the final one, at the score target.\n"
        "- (c) The last checkpoint at the best of its targets.\n"
        f"- (d) {_BUDGET} evaluation episodes are spent on choosing among the policies of all runs of the model (see "
        "below).",
        f"Means over {over} and all seeds × 100 (not IQMs: differences of means add up, and a budget deploys one "
        "policy per task); rows in the leaderboard's order. In brackets: 95 % intervals over training seeds; [n/a] "
        f"below {stats.FEWEST_SEEDS} seeds, and where all runs agree; one that held the true value in less than 90 % "
        f"of simulated cases says so. {_coverage(section, found)}".strip(),
        f"**Bold**: the highest of a column and all that are not separable from it: p ≥ {stats.SIGNIFICANCE:g} in a "
        "permutation test of the means over seeds, row by row, uncorrected for the number of rows. (d) has one value "
        "per model and task, and no such test.",
        markdown_table(rows, headers),
    ]


def _coverage(section: Section, found: Mapping[str, Protocols]) -> str:
    """Say how good the intervals of "all runs" are, for the fewest seeds that have one."""
    measured = [
        coverage
        for scores in found.values()
        if (coverage := pool_coverage(scores.seeds, len(section.tasks))) is not None
    ]
    if not measured:
        return ""
    return (
        "Those of (d) are jackknife intervals (a bootstrap cannot tell how the best of a few runs varies); at these "
        f"numbers of seeds and tasks they held the true value in at least {100 * min(measured):.0f} % of simulated "
        "cases."
    )


def _leaders(found: Mapping[str, Protocols], name: str) -> set[str]:
    """Return the labels of the highest mean under a protocol and of all that cannot be separated from it."""
    scores = {label: of.outcomes[name].scores for label, of in found.items() if name in of.outcomes}
    matrices = {label: matrix for label, matrix in scores.items() if matrix is not None}
    if not matrices:
        return set()
    best = max(matrices, key=lambda label: float(matrices[label].mean()))
    others = {label: matrix for label, matrix in matrices.items() if label != best}
    tests = {label: stats.permutation_test(matrix, matrices[best]) for label, matrix in others.items()}
    return {best, *(label for label, test in tests.items() if not test.is_separable)}


def _value(scores: Protocols, name: str) -> str:
    return estimate_text(scores.outcomes[name].value) if name in scores.outcomes else f"n/a ({scores.missing[name]})"


def _bold(text: str, is_leader: bool) -> str:
    return f"**{text}**" if is_leader else text


def _budget(outcomes: Sequence[Outcome]) -> Outcome:
    return outcomes[BUDGETS.index(_BUDGET)]


def _added_table(found: Mapping[str, Protocols]) -> list[str]:
    rows = []
    for label, scores in found.items():
        cells = [_added(scores, name) for name in (EVALUATION, TARGET, HALVES)]
        one_run = _added_text(_budget(scores.one_run)) if scores.one_run else f"n/a ({scores.missing[TARGET]})"
        rows.append([code(label), *cells, one_run, _added_text(_budget(scores.all_runs.outcomes))])
    headers = [
        "model",
        "(b) best evaluation",
        "(c) best target",
        "(c), scored on the other half",
        f"(d) {_BUDGET} episodes, one run",
        f"(d) {_BUDGET} episodes, all runs",
    ]
    return [
        "### What selection adds",
        "Difference from (a), × 100, with its interval: of the same seeds, paired. **(b) and (c) are optimistic**: "
        "they select and score with the same episodes, and cannot be below (a), whose evaluation is among those they "
        "select from. A positive difference is therefore no evidence that selection helps, and has no p. *Scored on "
        "the other half*: the target is chosen on one half of the episodes and scored on the other, both ways round, "
        "so that luck in the choice does not count; p is two-sided, from flipping the signs of the differences of "
        "seed × task, uncorrected. (d) deploys by few episodes, but the policy counts with the mean over all recorded "
        "ones, from which these were drawn: it becomes optimistic, too, where k is large.",
        markdown_table(rows, headers),
    ]


def _added(scores: Protocols, name: str) -> str:
    if name in scores.outcomes:
        return _added_text(scores.outcomes[name])
    return f"n/a ({scores.missing[TARGET if name == HALVES else name]})"


def _added_text(outcome: Outcome) -> str:
    """Return e.g. `+1.2 [-0.3, 2.7], p = 0.120`."""
    return signed_text(outcome.added) + (f", {p_sentence(outcome.test)}" if outcome.test else "")


def _budget_tables(section: Section, found: Mapping[str, Protocols]) -> list[str]:
    all_runs = [
        [
            code(label),
            _range(scores.all_runs.candidates),
            *(estimate_text(outcome.value) for outcome in scores.all_runs.outcomes),
            f"{100 * scores.all_runs.known:.1f}",
        ]
        for label, scores in found.items()
    ]
    one_run = [
        [code(label), *(estimate_text(outcome.value) for outcome in scores.one_run)]
        for label, scores in found.items()
        if scores.one_run
    ]
    episodes = [f"k = {budget}" for budget in BUDGETS]
    parts = [
        "### (d) An online budget of k episodes",
        "Before a policy is deployed, k evaluation episodes are spent on choosing it. A UCB bandit (Unifloral: Jackson "
        "et al., 2025, arXiv 2504.11453; α = 2, scores × 100) spends them, one recorded episode per pull; then the "
        "candidate with the best mean so far is taken, and counts with its mean over all its recorded episodes. At "
        "k = 1 this is a candidate drawn at random, which is not (a) where there are several targets; *all known* is "
        "the candidate with the best recorded mean. Values are "
        f"expectations over {REPETITIONS:,} simulated bandits.",
        "**All runs**: the candidates are every target of every seed's run of the model on the task, as for a person "
        "who trained it so often and deploys one policy. More seeds give more to choose from: compare only models with "
        "equally many.",
        markdown_table(all_runs, ["model", "candidates per task", *episodes, "all known"]),
    ]
    if one_run:
        parts += [
            "**One run**: the candidates are the targets of one training run, as for a person who trained the model "
            "once and looks for the return to ask for; the mean over seeds.",
            markdown_table(one_run, ["model", *episodes]),
        ]
    return parts


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _task_table(section: Section, found: Mapping[str, Protocols]) -> list[str]:
    if len(section.tasks) == 1:
        return []
    names = {LAST: "(a)", EVALUATION: "(b)", TARGET: "(c)"}
    rows = []
    for label, scores in found.items():
        matrices = {short: scores.outcomes[name].scores for name, short in names.items() if name in scores.outcomes}
        by_task = {short: matrix.mean(0) for short, matrix in matrices.items() if matrix is not None}
        by_task["(d)"] = scores.all_runs.by_task[BUDGETS.index(_BUDGET)]
        rows += [[code(label), short, *(f"{100 * value:.1f}" for value in means)] for short, means in by_task.items()]
    return [
        "### Per task",
        f"Means over seeds × 100; (d) with {_BUDGET} episodes and all runs.",
        markdown_table(rows, ["model", "protocol", *map(markdown_text, section.tasks)]),
    ]


def _incomplete(section: Section, found: Mapping[str, Protocols]) -> list[str]:
    """Name the rows that lack a task; nothing of them is averaged."""
    rows = [row for row in section.rows if row.label not in found]
    if not rows:
        return []
    return ["### Incomplete models", "\n".join(f"- {code(row.label)}: {row.shortfall(section.tasks)}" for row in rows)]
