"""Leaderboards: what a cell shows, what is never averaged or mixed, and equal bytes for equal results."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from dtbench.cli import app as cli
from dtbench.cli.output import echo_json
from dtbench.errors import ResultError, UnknownNameError
from dtbench.registry import MODELS
from dtbench.results import leaderboard, plots, stats
from dtbench.results.compare import compare
from dtbench.results.coverage import measured_coverage
from dtbench.results.files import scan
from dtbench.results.schema import EpisodeScores, ErrorRecord
from dtbench.results.sections import Selection, sections
from dtbench.suites.scores import ReferenceScores
from tests.results import samples

render = leaderboard.render


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch):
    """Enough for tables that are only read by these tests."""
    measures = (stats.aggregate, stats.mean_estimates, stats.probability_of_improvement, stats.performance_profile)
    for measure in measures:
        monkeypatch.setattr(measure, "__defaults__", (50,))


def row(text: str, model: str, heading: str, cell: str | None = None) -> list[str]:
    """Return a model's row under a heading, without bold; `cell` is its first cell if that is not just the name."""
    part = text.split(f"### {heading}")[1].split("###")[0].replace("**", "")
    line = next(line for line in part.splitlines() if line.startswith(f"| {cell or f'`{model}`'}"))
    return [text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]]


def ranking(text: str) -> dict[str, list[str]]:
    """Return the rows of the aggregate table in their order, first cell → the others."""
    lines = [line for line in text.split("### Aggregate")[1].split("###")[0].splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {cells[0]: cells[1:] for cells in rows[1:]}


def test_cells_are_mean_and_spread_over_seeds_times_100(tmp_path):
    samples.save_suite(tmp_path)
    # Seeds score 0.40 and 0.42 on the first task: mean 41, sample standard deviation 0.02/sqrt(2) = 1.414 %.
    assert row(render(tmp_path), "dt", "Scores per task")[1] == "41.0 ± 1.4"


def test_aggregate_is_the_trimmed_mean_with_an_interval(tmp_path):
    samples.save_suite(tmp_path, seeds=(0, 1, 2))
    scores = [0.4 + 0.05 * task + 0.02 * seed for task in range(9) for seed in range(3)]
    iqm = row(render(tmp_path), "dt", "Aggregate")[2]
    assert iqm.startswith(f"{100 * scipy.stats.trim_mean(scores, 0.25):.1f} [")


def test_two_seeds_have_a_spread_but_no_interval(tmp_path):
    samples.save_suite(tmp_path)
    text = render(tmp_path)
    assert row(text, "dt", "Aggregate")[2].endswith("[n/a]")
    assert "[n/a] below 3 seeds" in text


def test_an_interval_that_covers_too_little_says_so(tmp_path):
    for seed, score in enumerate((0.2, 0.3, 0.5)):
        samples.save(tmp_path, samples.result(seed=seed, score=score))
    text = render(tmp_path, Selection(tasks=["hopper-medium"]))
    expected = measured_coverage("mean", 3, 1)
    assert expected < 0.9
    assert row(text, "dt", "Aggregate")[5].endswith(f"(covers about {100 * expected:.0f} %)")
    assert "covers" not in row(text, "dt", "Aggregate")[2]  # the IQM's is above 90 %


def test_models_are_ranked_and_those_not_separable_from_the_best_are_bold(tmp_path):
    seeds = (0, 1, 2)
    samples.save_suite(tmp_path, "dt", seeds, base=0.2)
    samples.save_suite(tmp_path, "lamo", seeds, base=0.4)
    samples.save_suite(tmp_path, "gpt2_dt", seeds, base=0.399)
    samples.save(tmp_path, samples.result("cql", score=0.9))
    text = render(tmp_path)
    found = ranking(text)
    assert list(found) == ["**`lamo`**", "**`gpt2_dt`**", "`dt`", "`cql`"]
    assert [cells[1].startswith("**") for cells in found.values()] == [True, True, False, False]
    assert [cells[2] for cells in found.values()][::2] == ["–", "< 0.001"]
    assert float(found["**`gpt2_dt`**"][2]) > 0.05
    scores = text.split("### Scores per task")[1].split("###")[0]
    assert re.findall(r"^\| `(\w+)`", scores, flags=re.MULTILINE) == ["lamo", "gpt2_dt", "dt", "cql"]


def test_too_few_seeds_to_separate_anything_are_told_from_no_difference(tmp_path):
    for seed in (0, 1, 2):
        samples.save(tmp_path, samples.result("dt", seed=seed, score=0.2 + 0.01 * seed))
        samples.save(tmp_path, samples.result("lamo", seed=seed, score=0.8 + 0.01 * seed))
    text = render(tmp_path, Selection(tasks=["hopper-medium"]))
    assert ranking(text)["**`dt`**"][2] == "0.100 (cannot be below 0.100)"


def test_one_seed_has_no_spread_and_no_interval(tmp_path):
    samples.save_suite(tmp_path, seeds=(0,))
    text = render(tmp_path)
    assert row(text, "dt", "Scores per task")[1] == "40.0"
    assert row(text, "dt", "Aggregate")[2].endswith("[n/a]")
    assert "one seed: the mean alone" in text


def test_an_incomplete_model_is_never_averaged(tmp_path):
    samples.save_suite(tmp_path)
    samples.save(tmp_path, samples.result("gpt2_dtma", score=0.99))
    text = render(tmp_path)
    assert row(text, "gpt2_dtma", "Scores per task")[1:3] == ["99.0 (n=1)", "–"]
    assert row(text, "gpt2_dtma", "Aggregate")[2:] == ["incomplete (1 of 9 tasks)", "–", "–", "–", "–"]


def test_failed_runs_are_listed_with_their_reason(tmp_path):
    samples.save_suite(tmp_path)
    samples.save(tmp_path, samples.failed("gpt2_dtma"))
    assert "- `gpt2_dtma` on hopper-medium, seed 0: failed: ValueError: loss is NaN" in render(tmp_path)


def test_a_run_whose_process_died_is_listed_with_signal_and_log(tmp_path):
    log = [f"line {number}" for number in range(20)] + ["```", "\x1b[31mKilled"]
    error = ErrorRecord("WorkerEnded", "no result", signal="SIGKILL", log_tail=log)
    samples.save(tmp_path, replace(samples.failed(), error=error))
    samples.save(tmp_path, replace(samples.failed(seed=1), error=ErrorRecord("WorkerEnded", "no result", exit_code=3)))
    samples.save(tmp_path, samples.unfinished(samples.result(seed=2, status="interrupted")))
    text = render(tmp_path)
    assert "- `dt` on hopper-medium, seed 0: failed: WorkerEnded: no result (killed by SIGKILL)\n\n  ````text\n" in text
    assert "  line 19\n  ```\n  [31mKilled\n  ````\n" in text
    assert "line 11\n" not in text
    assert "seed 1: failed: WorkerEnded: no result (exit code 3)\n" in text
    assert "- `dt` on hopper-medium, seed 2: interrupted" in text


def test_a_signal_that_the_message_names_is_not_repeated(tmp_path):
    error = ErrorRecord("WorkerEnded", "The worker was killed by SIGKILL.", signal="SIGKILL")
    samples.save(tmp_path, replace(samples.failed(), error=error))
    assert render(tmp_path).count("SIGKILL") == 1


HOSTILE = "a|b `c` <d>\n[x](y) \\"


def test_text_from_outside_does_not_break_the_markdown(tmp_path):
    samples.save(tmp_path, samples.failed(message=HOSTILE))
    named = samples.result("dt|`x`", model_initial_weights=HOSTILE, task_dataset_id=HOSTILE)
    samples.save(tmp_path, named)
    text = render(tmp_path)
    assert "ValueError: a|b \\`c\\` \\<d> [x](y) \\\\\n" in text
    assert row(text, "dt", "Models", cell="`` dt\\|`x` ``")[1] == "a\\|b \\`c\\` \\<d> [x](y) \\\\"
    for line in text.splitlines():
        if line.startswith("| ``"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (7, 8, 11), (
                line
            )  # six or seven columns, or a model and nine tasks


def test_only_the_score_target_is_ranked(tmp_path):
    """Another target's better score is a diagnostic."""
    content = samples.result(score=0.3)
    content.scores.per_target["1800.0"] = EpisodeScores([1.0, 1.0], [1, 1], [0.9, 0.9])
    samples.save(tmp_path, content)
    text = render(tmp_path)
    assert row(text, "dt", "Scores per task")[1] == "30.0"
    got = row(text, "dt", "Diagnostics: return asked for against return got (not ranked)")
    assert got[1:] == ["1", f"{np.mean(content.scores.returns):.0f}", "–", "–", "1"]  # of two targets no correlation


def test_sources_and_presets_are_sections_of_their_own(tmp_path):
    """D4RL's and locally built data are different data, which never share a column."""
    samples.save(tmp_path, samples.result())
    samples.save(tmp_path, samples.result(preset="paper"))
    samples.save(tmp_path, samples.result(score=0.9, task_source="d4rl"))
    found = sections(scan(tmp_path)[0])
    expected = [("d4rl", "quick"), ("local", "paper"), ("local", "quick")]
    assert [(section.source, section.preset) for section in found] == expected
    assert all(len(section.finished) == 1 for section in found)


def test_the_reference_tables_name_travels_with_the_score(tmp_path):
    """Three tables of Atari's reference scores are in use; a normalised score without its table's name says little."""
    samples.save(tmp_path, samples.result())
    reference = ReferenceScores("another", 0.0, 1.0)
    samples.save(tmp_path, samples.result(task="walker2d-medium", task_reference=reference))
    assert "(reference table: another, d4rl)" in render(tmp_path)


def test_different_data_of_one_task_are_refused(tmp_path):
    samples.save(tmp_path, samples.result())
    samples.save(tmp_path, samples.result(seed=1, task_fingerprint="e" * 64))
    with pytest.raises(ResultError, match="hopper-medium come from different data"):
        render(tmp_path)


def test_a_changed_configurations_own_data_make_a_section_of_their_own(tmp_path):
    """`--set data.steps=…` builds other data under the same task's name."""
    samples.save_suite(tmp_path)
    samples.save(tmp_path, samples.changed(score=0.9, task_fingerprint="e" * 64))
    found = sections(scan(tmp_path)[0])
    assert [[row.label for row in section.rows] for section in found] == [["dt"], ["dt+xyz"]]
    assert found[1].title.endswith("other data 2")
    assert "not comparable" in render(tmp_path).split("other data 2")[1]
    with pytest.raises(ResultError, match="share no task"):
        compare(tmp_path, "dt", "dt+xyz")


@pytest.mark.parametrize(
    ("field", "value"),
    [("score_target", 1800.0), ("reference", ReferenceScores("d4rl", 0.0, 1.0)), ("return_scale", 7.0)],
)
def test_scores_made_in_different_ways_are_never_averaged(tmp_path, field, value):
    samples.save(tmp_path, samples.result())
    samples.save(tmp_path, samples.result(seed=1, **{f"task_{field}": value}))
    with pytest.raises(ResultError, match="hopper-medium were scored in different ways"):
        render(tmp_path)


def test_a_copied_result_is_not_averaged_and_is_named(tmp_path):
    path = samples.save(tmp_path / "r", samples.result())
    path.with_name("seed-1.json").write_bytes(path.read_bytes())
    text = render(tmp_path / "r")
    assert row(text, "dt", "Scores per task")[1] == "50.0"
    assert "seed-1.json holds the result of" in text.split("## Files left out")[1]
    assert str(tmp_path) not in text


def test_seeds_that_never_meet_give_no_aggregate(tmp_path):
    for index, task in enumerate(sections([samples.result()])[0].tasks):
        samples.save(tmp_path, samples.result(task=task, seed=index % 2))
    assert row(render(tmp_path), "dt", "Aggregate")[2] == "incomplete (no seed has all tasks)"


def test_changed_configurations_are_rows_of_their_own(tmp_path):
    samples.save(tmp_path, samples.result(score=0.2))
    samples.save(tmp_path, samples.changed(score=0.8))
    text = render(tmp_path)
    assert row(text, "dt", "Scores per task")[1] == "20.0"
    assert row(text, "dt+xyz", "Scores per task")[1] == "80.0"
    assert "changed by the user" in row(text, "dt+xyz", "Models")[6]


def test_a_selection_of_tasks_is_aggregated_and_said(tmp_path):
    samples.save(tmp_path, samples.result(score=0.2))
    samples.save(tmp_path, samples.result(task="walker2d-medium", score=0.4))
    samples.save(tmp_path, samples.result(task="walker2d-medium", score=0.9, preset="learn"))
    assert "incomplete (2 of 9 tasks)" in render(tmp_path)
    text = render(tmp_path, Selection("d4rl-short", ["hopper-medium", "walker2d-medium"], "quick"))
    assert "only hopper-medium, walker2d-medium" in text
    assert "Over all 2 tasks" in text
    assert row(text, "dt", "Aggregate")[5] == "30.0 [n/a]"
    assert "90.0" not in text
    with pytest.raises(UnknownNameError, match="did you mean 'hopper-medium'"):
        render(tmp_path, Selection(tasks=["hoper-medium"]))
    with pytest.raises(UnknownNameError, match="preset in these results"):
        render(tmp_path, Selection(preset="paper"))
    with pytest.raises(UnknownNameError, match="suite in these results 'd4rl-long'"):
        render(tmp_path, Selection("d4rl-long"))


def test_equal_results_give_equal_bytes(tmp_path):
    samples.save_suite(tmp_path / "r")
    samples.save_suite(tmp_path / "r", "gpt2_dtma", base=0.45)
    written = []
    for folder in ("a", "b"):
        leaderboard.write(tmp_path / "r", tmp_path / folder / "board.md")
        written.append({file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"board.md", "board-0-intervals.svg", "board-0-profile.svg"}
    assert leaderboard.check(tmp_path / "r", tmp_path / "a" / "board.md")
    samples.save(tmp_path / "r", samples.result(seed=0, score=0.41))
    assert not leaderboard.check(tmp_path / "r", tmp_path / "a" / "board.md")


def test_a_missing_figure_is_not_up_to_date(tmp_path):
    samples.save_suite(tmp_path / "r")
    leaderboard.write(tmp_path / "r", tmp_path / "a" / "board.md")
    assert leaderboard.check(tmp_path / "r", tmp_path / "a" / "board.md")
    (tmp_path / "a" / "board-0-profile.svg").unlink()
    assert not leaderboard.check(tmp_path / "r", tmp_path / "a" / "board.md")


def test_compare_reports_differences_and_probability(tmp_path):
    samples.save_suite(tmp_path)
    samples.save_suite(tmp_path, "gpt2_dtma", base=0.5)
    (comparison,) = compare(tmp_path, "gpt2_dtma", "dt")
    assert [row.difference for row in comparison.tasks] == pytest.approx([0.1] * 9)
    assert comparison.probability_of_improvement.value == 1.0
    assert comparison.permutation.is_separable
    assert [row.permutation.p for row in comparison.tasks] == pytest.approx([1 / 3] * 9)
    with pytest.raises(UnknownNameError, match="did you mean 'dt'"):
        compare(tmp_path, "gpt2_dtma", "dtt")
    words = ["compare", str(tmp_path), "gpt2_dtma", "dt", "--task", "hopper-medium,walker2d-medium", "--json"]
    (chosen,) = json.loads(CliRunner().invoke(cli.app, words).stdout)
    assert [row["task"] for row in chosen["tasks"]] == ["hopper-medium", "walker2d-medium"]
    assert chosen["permutation"] == {"p": pytest.approx(2 / 36), "smallest_p": pytest.approx(2 / 36), "is_exact": True}
    printed = CliRunner().invoke(cli.app, words[:-1]).stdout
    assert "0.333 (cannot be below 0.333)" in printed
    assert "permutation p of the means' difference: 0.056 (cannot be below 0.056)" in printed
    wrong = CliRunner().invoke(cli.app, [*words, "--preset", "learnt"])
    assert "Unknown preset in these results 'learnt'" in str(wrong.exception)


def test_empty_and_missing_folders_are_named(tmp_path):
    with pytest.raises(ResultError, match="holds no results"):
        render(tmp_path)
    samples.save(tmp_path, samples.result()).write_text("{")
    with pytest.raises(ResultError, match=r"first of 1: d4rl-short@1/.*seed-0.json cannot be read"):
        render(tmp_path)
    with pytest.raises(ResultError, match="no folder"):
        render(tmp_path / "nowhere")


def test_a_dollar_sign_in_a_name_is_not_mathematics(tmp_path):
    (section,) = sections([samples.result("my$model_{$")], Selection(tasks=["hopper-medium"]))
    for number, draw in enumerate((plots.intervals, plots.profile)):
        draw(section, tmp_path / f"{number}.svg")
    assert len(list(tmp_path.iterdir())) == 2


def test_curves_have_a_colour_per_model_and_a_line_style_per_variant():
    scratch = {"config_hash": "x", "task": "hopper-medium"}
    results = [
        *(samples.result(model) for model in ("dt", "lamo", "gpt2_dt")),
        *(samples.changed("backbone=scratch", model=model, **scratch) for model in ("lamo", "gpt2_dt")),
    ]
    (section,) = sections(results, Selection(tasks=["hopper-medium"]))
    curves = {curve.row.label: curve for curve in plots.curves_of(section)}
    own, changed = (
        [curves[name] for name in ("lamo", "gpt2_dt")],
        [curves[f"{name} backbone=scratch"] for name in ("lamo", "gpt2_dt")],
    )
    assert [curve.colour for curve in own] == [curve.colour for curve in changed]
    assert len({curve.colour for curve in curves.values()}) == 3
    assert {curve.line for curve in own} == {curves["dt"].line} == {"-"}
    assert len({curve.line for curve in changed}) == 1
    assert changed[0].line != "-"


def test_every_model_of_ours_has_a_colour_of_its_own():
    assert len(MODELS) <= len(set(plots.COLOURS)) == len(plots.COLOURS)


def test_a_panel_has_eight_curves_at_most_and_a_legend_beside_it(tmp_path, monkeypatch):
    results = [samples.result(f"model{number}", score=0.03 * number) for number in range(18)]
    (section,) = sections(results, Selection(tasks=["hopper-medium"]))
    panels = plots.panels_of(plots.curves_of(section))
    assert [len(panel) for panel in panels] == [6, 6, 6]
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, file: (figure.canvas.draw(), drawn.append(figure)))
    plots.profile(section, tmp_path / "profile.svg")
    (figure,) = drawn
    assert section.title in figure.get_suptitle()
    for axes in figure.axes:
        assert len(axes.lines) == 6
        assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1


def test_json_for_programs_holds_no_nan(capsys):
    echo_json({"return": float("nan"), "steps": [1, float("inf")]})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"return": "nan", "steps": [1, "inf"]}
