"""Lists of boards: what a board shows, whether its page is up to date, and mistakes in the list."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dtbench.cli import app as cli  # noqa: F401 - the commands are imported once, not in the first test
from dtbench.config import load_preset
from dtbench.errors import ConfigError, ResultError
from dtbench.registry import MODELS
from dtbench.results import pages, stats
from dtbench.results.boards import check_boards, load_boards, write_boards
from tests import commands
from tests.results import samples
from tests.results.test_factorial import LABELS, PLACES, records

COMMITTED = Path(__file__).parents[2] / "leaderboards" / "boards.yaml"
CELLS = "\n".join(
    f"      - {{model: '{LABELS[place]}', heads: {heads}, gate: {gate}}}" for place, (heads, gate) in PLACES.items()
)
FACTORIAL = f"""
  - file: factorial.md
    kind: factorial
    title: Heads and gate
    suite: [d4rl-short, d4rl-long]
    preset: quick
    factors: {{heads: [no, yes], gate: [no, yes]}}
    cells:
{CELLS}
    task_factor: {{horizon: {{short: [hopper-medium, walker2d-medium], long: [pointmaze-dtma-medium]}}}}
    interactions: [[heads, gate, horizon]]
"""
BOARD = "{file: short.md, suite: d4rl-short, preset: quick, tasks: [hopper-medium]}"


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch):
    """Enough for intervals that these tests only read."""
    for measure in (stats.aggregate, stats.mean_estimates, stats.performance_profile):
        monkeypatch.setattr(measure, "__defaults__", (50,))


def listed(folder: Path, *boards: str) -> Path:
    """Write a list of boards; each is the inside of an item, or a block that brings its own dash."""
    lines = "\n".join(board if board.startswith("\n") else f"  - {board}" for board in boards)
    (folder / "boards.yaml").write_text(f"boards:\n{lines}\n" if boards else "boards: []\n", encoding="utf-8")
    return folder / "boards.yaml"


@pytest.fixture
def folder(tmp_path):
    """A folder with results of one model on two tasks of d4rl-short."""
    for task in ("hopper-medium", "walker2d-medium"):
        for seed in range(2):
            samples.save(tmp_path / "results", samples.result(task=task, seed=seed, score=0.4 + 0.02 * seed))
    return tmp_path


def test_boards_are_written_and_checked(folder):
    for content in records():
        samples.save(folder / "results", content)
    path = listed(
        folder,
        BOARD,
        "{file: sub/p.md, kind: protocols, suite: d4rl-short, preset: quick, tasks: [hopper-medium]}",
        FACTORIAL,
    )
    assert [state.is_current for state in check_boards(path)] == [False] * 3
    assert [file.relative_to(folder).as_posix() for file in write_boards(path)] == [
        "short.md",
        "sub/p.md",
        "factorial.md",
    ]
    assert [state.is_current for state in check_boards(path)] == [True] * 3
    assert "only hopper-medium" in (folder / "short.md").read_text()
    assert "What selection adds" in (folder / "sub" / "p.md").read_text()
    assert "# Heads and gate\n" in (folder / "factorial.md").read_text()
    before = {file: file.read_bytes() for file in folder.rglob("*.*") if file.suffix in (".md", ".svg")}
    write_boards(path)
    assert {file: file.read_bytes() for file in before} == before
    samples.save(folder / "results", samples.result(task="hopper-medium", seed=2, score=0.5))
    assert [state.is_current for state in check_boards(path)] == [False, False, True]


def test_a_missing_figure_is_out_of_date(folder):
    path = listed(folder, BOARD)
    write_boards(path)
    (folder / "short-0-intervals.svg").unlink()
    assert [state.is_current for state in check_boards(path)] == [False]


def test_models_are_filtered_and_those_without_results_are_gaps(folder):
    samples.save(folder / "results", samples.result("bc"))
    path = listed(folder, "{file: a.md, suite: d4rl-short, preset: quick, models: [dt, lamo backbone=scratch]}")
    write_boards(path)
    text = (folder / "a.md").read_text()
    assert "No finished run here: `lamo backbone=scratch`." in text
    assert "`bc`" not in text
    path = listed(folder, "{file: a.md, suite: d4rl-short, preset: quick, models: [lamo]}")
    with pytest.raises(ConfigError, match=r"board 'a.md': no run of it is finished \(d4rl-short, preset quick\)"):
        write_boards(path)


def test_a_task_without_results_is_a_gap(folder):
    path = listed(folder, "{file: a.md, suite: d4rl-short, preset: quick, tasks: [hopper-medium, halfcheetah-medium]}")
    write_boards(path)
    assert "incomplete (1 of 2 tasks)" in (folder / "a.md").read_text()


def test_title_trials_source_and_results_folder(folder):
    (folder / "results").rename(folder / "elsewhere")
    samples.save(folder / "elsewhere", samples.result("bc", task_source="d4rl"))
    path = listed(
        folder,
        "{file: a.md, title: Mine, suite: d4rl-short, preset: quick, source: local, results: elsewhere, trials: 12}",
    )
    write_boards(path)
    text = (folder / "a.md").read_text()
    assert text.startswith("# Mine\n")
    assert "d4rl data" not in text
    assert "Hyper-parameter trials per model: 12." in text


def test_trials_are_those_that_the_preset_records(monkeypatch):
    assert pages.trials_text("no-such-preset") == "Hyper-parameter trials per model: not recorded."
    found = {"count": 12, "tasks": ["hopper-medium", "b"], "seeds": [100, 101], "table": "benchmarks/budgets.md"}
    domains = {"atari": {"trials": {"count": 0}}}
    monkeypatch.setattr(pages, "load_preset", lambda name: {"trials": found, "domains": domains})
    assert pages.trials_text("quick") == (
        "Hyper-parameter trials per model: 12 on hopper-medium, b with seeds 100 or 101 (table: benchmarks/budgets.md)."
    )
    assert pages.trials_text("quick", suite="d4rl-long") == pages.trials_text("quick")
    found["without"] = ["new", "newer"]
    assert pages.trials_text("quick", models=["dt", "newer"]).endswith(
        "(table: benchmarks/budgets.md); none for newer."
    )
    assert pages.trials_text("quick", models=["dt"]).endswith("budgets.md).")
    assert pages.trials_text("quick", suite="atari") == "Hyper-parameter trials per model: 0."
    domains["atari"]["trials"]["count"] = {"dt": 8, "dc": 3}
    assert pages.trials_text("quick", suite="atari", models=["dt"]) == "Hyper-parameter trials per model: 8 for dt."
    both = pages.trials_text("quick", suite="atari", models=["dt", "bc"])
    assert both == "Hyper-parameter trials per model: 8 for dt, 0 for the others."
    assert pages.trials_text("quick", 3) == "Hyper-parameter trials per model: 3."
    for odd in (None, [], {"count": "many"}, {"count": True}):
        monkeypatch.setattr(pages, "load_preset", lambda name, odd=odd: {"trials": odd})
        assert pages.trials_text("quick").endswith("not recorded.")


def test_a_suite_that_is_not_shipped_is_known_by_its_results(tmp_path):
    content = samples.result()
    samples.save(tmp_path / "results", replace(content, suite=replace(content.suite, name="mine"), preset="tiny"))
    path = listed(tmp_path, "{file: a.md, suite: mine, preset: tiny}")
    write_boards(path)
    assert "## mine@1" in (tmp_path / "a.md").read_text()


MISTAKES = {
    "{suite: d4rl-short, preset: quick}": "board number 1: file is missing",
    "{file: a.md, preset: quick}": "board 'a.md': suite is missing",
    "{file: a.md, suite: d4rl-short}": "preset is missing",
    "{file: a.md, suite: d4rl-shrot, preset: quick}": "did you mean 'd4rl-short'",
    "{file: a.md, suite: d4rl-short, preset: quik}": "did you mean 'quick'",
    "{file: a.md, suite: d4rl-short, preset: quick, taks: [hopper-medium]}": "did you mean 'tasks'",
    "{file: a.md, suite: d4rl-short, preset: quick, tasks: [hoper-medium]}": "did you mean 'hopper-medium'",
    "{file: a.md, suite: d4rl-short, preset: quick, kind: protocol}": "did you mean 'protocols'",
    "{file: a.md, suite: d4rl-short, preset: quick, cells: []}": "Unknown key of a board of kind ranking 'cells'",
    "{file: a.md, suite: [d4rl-short, d4rl-long], preset: quick}": "never mixed",
    "{file: a.md, suite: [], preset: quick}": "suite must name at least one",
    "{file: a.txt, suite: d4rl-short, preset: quick}": r"must be a markdown file \(.md\)",
    "{file: ../a.md, suite: d4rl-short, preset: quick}": "file must be made of",
    "{file: a.md, suite: d4rl-short, preset: quick, models: dt}": "models must be a list",
    "{file: a.md, suite: d4rl-short, preset: quick, models: [dt, dt]}": "models names 'dt' twice",
    "{file: a.md, suite: d4rl-short, preset: quick, trials: 0}": "trials must be a positive whole number",
    "{file: a.md, suite: d4rl-short, preset: quick, title: [a]}": "title must be a text",
    "a.md": "board number 1 must be a mapping",
}


@pytest.mark.parametrize(("board", "message"), MISTAKES.items(), ids=list(MISTAKES))
def test_mistakes_are_named(folder, board, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_boards(listed(folder, board))
    assert str(caught.value).startswith(str(folder / "boards.yaml"))
    assert "\n" not in str(caught.value)


FACTORIAL_MISTAKES = {
    (
        "    preset: quick\n",
        "    preset: quick\n    models: [dt]\n",
    ): "Unknown key of a board of kind factorial 'models'",
    ("factors: {heads: [no, yes], gate: [no, yes]}", "factors: {heads: [no, yes, maybe], gate: [no, yes]}"): (
        r"factors\.heads must have two levels, not 3"
    ),
    ("    factors: {heads: [no, yes], gate: [no, yes]}\n", ""): "factors is missing",
    ("heads: yes, gate: yes}", "heads: yes}"): "has no level of 'gate'",
    ("{model: 'gpt2_dtma', ", "{"): r"cells\[0\] needs model",
    ("'gpt2_dtma gate=false'", "'gpt2_dtma'"): "cells names 'gpt2_dtma' twice",
    ("    task_factor:", "    tasks: [hopper-medium]\n    task_factor:"): "not both",
    ("long: [pointmaze-dtma-medium]", "long: [pointmaze-dtma-medum]"): "did you mean 'pointmaze-dtma-medium'",
    ("long: [pointmaze-dtma-medium]", "long: [hopper-medium]"): "task_factor.horizon names 'hopper-medium' twice",
    (", long: [pointmaze-dtma-medium]", ""): "task_factor.horizon must have two levels, not 1",
    ("[[heads, gate, horizon]]", "[[heads, gates]]"): "did you mean 'gate'",
    ("[[heads, gate, horizon]]", "[heads]"): "interactions must be a list",
    ("suite: [d4rl-short, d4rl-long]", "suite: [d4rl-short, d4rl-short]"): "suite names 'd4rl-short' twice",
}


@pytest.mark.parametrize(
    ("change", "message"), FACTORIAL_MISTAKES.items(), ids=map(str, range(len(FACTORIAL_MISTAKES)))
)
def test_mistakes_in_a_factorial_are_named(tmp_path, change, message):
    assert change[0] in FACTORIAL
    with pytest.raises(ConfigError, match=message):
        load_boards(listed(tmp_path, FACTORIAL.replace(*change, 1)))


def test_levels_that_yaml_takes_for_truth_values_are_yes_and_no(tmp_path):
    (board,) = load_boards(listed(tmp_path, FACTORIAL.replace("gate: [no, yes]", "gate: [off, on]")))
    assert board.design.factors == {"heads": ("no", "yes"), "gate": ("no", "yes")}


def test_two_boards_of_one_file_are_refused(folder):
    with pytest.raises(ConfigError, match=r"boards names 'short.md' twice"):
        load_boards(listed(folder, BOARD, BOARD))


def test_a_list_is_one_key(folder):
    path = folder / "boards.yaml"
    for content, message in (
        ("board: []", "did you mean 'boards'"),
        ("{}", "boards is missing"),
        ("boards: 3", "boards must be a list"),
        ("- a", "must hold a mapping"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            load_boards(path)
    with pytest.raises(ConfigError, match="There is no file"):
        load_boards(folder / "nowhere.yaml")


def test_the_command_writes_and_checks(folder):
    path = listed(folder, BOARD)
    assert f"{folder}/short.md is out of date" in commands.dtbench("leaderboard", "--boards", path, "--check", expect=1)
    assert f"Wrote {folder}/short.md" in commands.dtbench("leaderboard", "--boards", path)
    assert "short.md is up to date" in commands.dtbench("leaderboard", "--boards", path, "--check")


def test_an_empty_list_and_absent_results_pass(tmp_path):
    path = listed(tmp_path)
    for words in ([], ["--check"]):
        assert "lists no boards" in commands.dtbench("leaderboard", "--boards", path, *words)
    path = listed(tmp_path, BOARD)
    assert "is not checked: no results" in commands.dtbench("leaderboard", "--boards", path, "--check")
    with pytest.raises(ResultError, match="no folder"):
        write_boards(path)


def test_the_command_scores_under_protocols(folder):
    out = folder / "p.md"
    words = ["leaderboard", folder / "results", "--protocols", "--task", "hopper-medium"]
    assert "## d4rl-short@1" in commands.dtbench(*words)
    commands.dtbench(*words, "--out", out, "--check", expect=1)
    commands.dtbench(*words, "--out", out)
    assert "up to date" in commands.dtbench(*words, "--out", out, "--check")
    assert "What selection adds" in out.read_text()


@pytest.mark.skipif(not COMMITTED.is_file(), reason="the leaderboards are not in this copy")
def test_the_committed_list_is_sound():
    assert isinstance(load_boards(COMMITTED), list)


def test_a_page_names_its_models_without_trials(folder, monkeypatch):
    trials = {**load_preset("quick")["trials"], "without": ["edt"]}
    monkeypatch.setattr(pages, "load_preset", lambda name: {"trials": trials})
    path = listed(folder, "{file: a.md, suite: d4rl-short, preset: quick}")
    write_boards(path)
    assert "; none for" not in (folder / "a.md").read_text()
    samples.save(folder / "results", samples.result("edt"))
    write_boards(path)
    assert "(table: benchmarks/budgets.md); none for edt." in (folder / "a.md").read_text()


@pytest.mark.skipif(not COMMITTED.is_file(), reason="the record of the trials is not in this copy")
@pytest.mark.parametrize("preset", ["quick", "learn"])
def test_models_had_the_trials_that_the_preset_states(preset):
    stated = load_preset(preset)["trials"]
    record = json.loads((COMMITTED.parents[1] / "benchmarks" / "budgets.json").read_text())["scores"]
    had = {model: len(record.get(model, ())) for model in MODELS}
    assert had == {model: 0 if model in stated.get("without", ()) else stated["count"] for model in MODELS}


def test_the_readme_shows_the_boards_own_table():
    root = Path(__file__).parents[2]
    readme, board = (root / "README.md").read_text(), (root / "leaderboards" / "d4rl-short.md").read_text()
    shown = [line for line in readme.splitlines() if line.startswith("|") and ("IQM" in line or "[" in line)]
    shown = [line for line in shown if line.count("|") == 8]
    assert len(shown) == 18
    assert "\n".join(shown[1:]) in board
