"""Tables on the terminal and in a pipe: all scores, whole, and text from outside as it is."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from dtbench.cli.run import _finish
from dtbench.registry import MODELS
from dtbench.results import leaderboard, stats
from dtbench.results.compare import Comparison, TaskDifference, comparison_tables
from dtbench.results.files import scan
from dtbench.results.schema import Result
from dtbench.results.sections import EVERYTHING, Selection
from dtbench.runs.execute import RunSummary
from dtbench.runs.plan import RunRequest
from dtbench.suites.suites import load_suite
from tests.results import samples


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch):
    for measure in (stats.aggregate, stats.probability_of_improvement):
        monkeypatch.setattr(measure, "__defaults__", (50,))


EQUAL = stats.Permutation(1.0, 0.1, is_exact=True)


def shown(results: list[Result], selection: Selection = EVERYTHING) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(leaderboard.console_table(results, selection))
    return console.export_text()


def test_console_table_shows_scores_and_each_rows_weights(tmp_path):
    samples.save_suite(tmp_path)
    samples.save(tmp_path, samples.changed(score=0.9, model_initial_weights="gpt2"))
    text = shown(scan(tmp_path)[0])
    assert "41.0 ± 1.4" in text
    (weights,) = (line for line in text.splitlines() if "initial weights" in line)
    assert [part.strip() for part in weights.strip("│").split("│")[1:]] == ["random", "gpt2"]


def test_console_table_shows_p_against_the_best_and_puts_it_first(tmp_path):
    samples.save_suite(tmp_path, seeds=(0, 1, 2))
    samples.save_suite(tmp_path, "lamo", seeds=(0, 1, 2), base=0.6)
    text = shown(scan(tmp_path)[0])
    (header,) = (line for line in text.splitlines() if "task" in line and "┃" in line)
    assert header.index("lamo") < header.index("dt")
    (p,) = (line for line in text.splitlines() if "p against the best" in line)
    assert [part.strip() for part in p.strip("│").split("│")[1:]] == ["–", "< 0.001"]


def test_console_shows_every_section_and_unfinished_ones():
    text = shown([samples.result(), samples.result(preset="paper", score=0.9)])
    assert "preset quick" in text
    assert "preset paper" in text
    assert "no run has finished" in shown([samples.failed()])
    assert shown([]).strip() == ""


def test_a_run_of_some_tasks_is_aggregated_over_them(tmp_path):
    results = [samples.result(score=0.2), samples.result(task="walker2d-medium", score=0.4)]
    asked = Selection(tasks=["hopper-medium", "walker2d-medium"], must_exist=False)
    text = shown(results, asked)
    assert "incomplete" not in text
    assert "30.0 [n/a]" in text
    assert "incomplete (1 of 2 tasks)" in shown(results[:1], asked)


MANY = [
    samples.result(model, task.id, seed, 0.4 + 0.02 * seed, model_initial_weights="bundled (sha256 4d8207c9dc23)")
    for model in MODELS
    for task in load_suite("d4rl-short").tasks
    for seed in (0, 1)
]


def printed(renderable: object, width: int = 80, *, terminal: bool = False) -> str:
    """Print as `dtbench` does, to a pipe or to a terminal."""
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, soft_wrap=True, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def words_of(text: str) -> int:
    return text.count("41.0 ± 1.4")


def test_in_a_pipe_all_models_and_tasks_are_in_one_table():
    text = printed(leaderboard.console_table(MANY))
    header = next(line for line in text.splitlines() if "task" in line)
    assert [part.strip() for part in header.strip("┃").split("┃")] == ["task", *MODELS]
    for task in load_suite("d4rl-short").tasks:
        (line,) = (line for line in text.splitlines() if line.startswith(f"│ {task.id} "))
        assert words_of(line) == len(MODELS)
    assert text.count("bundled (sha256 4d8207c9dc23)") == len(MODELS)
    assert "…" not in text


@pytest.mark.parametrize("width", [40, 61, 80, 120, 300])
def test_on_a_terminal_nothing_is_wider_than_it_or_cut(width):
    text = printed(leaderboard.console_table(MANY), width, terminal=True)
    assert max(len(line) for line in text.splitlines() if line[0] in "┏┃│") <= width
    assert words_of(text) == len(MODELS) * 9
    assert text.count("d4rl-short@1 · local data") == 1
    assert "…" not in text
    tables = text.count("┏")
    in_one = {40: 1, 61: 2, 80: 3, 120: 5, 300: len(MODELS)}[width]  # as many models as fit side by side
    assert tables == math.ceil(len(MODELS) / in_one)


def test_a_label_is_wrapped_between_words():
    results = [
        *MANY,
        *(samples.changed("backbone=scratch", "layers=2", model="lamo", task=r.task.id) for r in MANY[:2]),
    ]
    text = printed(leaderboard.console_table(results), 80, terminal=True)
    assert "┃ backbone=scratch ┃" in text
    assert "layers=2 ┃" in text


def test_text_with_brackets_is_shown_as_it_is():
    message = "[/red] shape [batch, time, dim] \x1b[31m"
    results = [
        samples.result("my[bold]model", score=0.5, model_initial_weights="[link]"),
        samples.failed("my[bold]model", message, seed=1),
    ]
    text = printed(leaderboard.console_table(results))
    assert "my[bold]model ┃" in text
    assert " [link] │" in text
    assert "50.0 [n/a]" in printed(leaderboard.console_table(results, Selection(tasks=["hopper-medium"])))
    assert "failed: ValueError: [/red] shape [batch, time, dim] [31m" in text
    comparison = Comparison("[bold]", "a[/]", "b", [TaskDifference("[t]", 0.5, 0.25, 0.25, EQUAL)], None, None)
    text = printed(*comparison_tables([comparison]))
    assert "[bold]" in text
    assert "a[/]" in text
    assert "[t]" in text


def test_runs_without_a_score_are_named_below_the_table():
    results = [samples.result(), *(samples.failed(message=f"reason {seed}", seed=seed) for seed in range(1, 14))]
    text = printed(leaderboard.console_table(results))
    assert text.index("Runs without a score: 13") > text.index("└")
    assert "  dt on hopper-medium, seed 10: failed: ValueError: reason 10\n  and 3 more" in text
    assert "reason 11" not in text


def test_a_second_run_into_the_same_folder_shows_the_tasks_it_was_asked_for(tmp_path, capsys):
    earlier, now = samples.result(task="walker2d-medium", score=0.4), samples.result(score=0.2)
    for result in (earlier, now):
        samples.save(tmp_path, result)
    request = RunRequest(models=["dt"], tasks=["hopper-medium"], output=tmp_path)
    _finish(request, RunSummary([now], finished=1, skipped=0, failed=0, verdicts=[]), as_json=False)
    printed = capsys.readouterr().out
    assert "20.0 [n/a]" in printed
    assert "walker2d" not in printed
    assert "only hopper-medium, walker2d-medium" in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
