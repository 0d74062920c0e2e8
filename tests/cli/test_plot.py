"""`dtbench plot`: every figure in every format, and what cannot be drawn is one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dtbench.errors import ConfigError, ResultError, UnknownNameError
from dtbench.results import learning_plots, task_plots
from dtbench.results.frames import read_all
from dtbench.results.learning import LOSSES, SCORES, learning_curves, mean_curve
from dtbench.results.schema import EpisodeScores
from dtbench.results.sections import Selection, one_section, sections
from tests.commands import dtbench
from tests.results import samples

TASKS = ("hopper-medium", "walker2d-medium")
BEGINNINGS = {"svg": b"<?xml", "pdf": b"%PDF-", "png": b"\x89PNG"}


def with_more(result, *, during: bool = True):
    """Add evaluations during training and further targets."""
    scores = result.scores
    further = {str(t): EpisodeScores([t / 2, t / 2 + 10], [5, 6], [0.1, 0.2]) for t in (500.0, 1000.0, 1500.0)}
    history = [(10, result.score / 2), (20, result.score)] if during else None
    return replace(result, scores=replace(scores, per_target={**scores.per_target, **further}, during_training=history))


@pytest.fixture
def folder(tmp_path) -> Path:
    for task in TASKS:
        for seed in range(3):
            samples.save(tmp_path, with_more(samples.result("dt", task, seed, 0.3 + 0.05 * seed)))
            samples.save(tmp_path, with_more(samples.result("bc10", task, seed, 0.5 + 0.02 * seed)))
            samples.save(tmp_path, with_more(samples.changed("gate=false", model="gpt2_dtma", task=task, seed=seed)))
    return tmp_path


KINDS = ("intervals", "profile", "per-task", "learning-curves", "target-vs-return")


@pytest.mark.parametrize(("kind", "suffix"), zip(KINDS, ("svg", "pdf", "png", "svg", "svg"), strict=True))
def test_figures_in_the_format_of_the_suffix(folder, tmp_path, kind, suffix):
    out = tmp_path / "figures" / f"{kind}.{suffix}"
    assert f"Wrote {out}" in dtbench("plot", kind, folder, "--task", ",".join(TASKS), "--out", out)
    content = out.read_bytes()
    assert content.startswith(BEGINNINGS[suffix])
    dtbench("plot", kind, folder, "--task", ",".join(TASKS), "--out", out)
    assert out.read_bytes() == content


def drawn(monkeypatch, module, draw, *arguments):
    """Return the figure that would be written, after it was laid out."""
    kept = []
    monkeypatch.setattr(module, "save", lambda figure, file: (figure.draw_without_rendering(), kept.append(figure)))
    draw(*arguments, Path("unused.svg"))
    (figure,) = kept
    return figure


def the_section(folder):
    return one_section(read_all(folder), Selection(tasks=TASKS))[0]


def test_per_task_has_a_dot_per_seed(folder, monkeypatch):
    section = the_section(folder)
    figure = drawn(monkeypatch, task_plots, task_plots.per_task, section)
    assert [axes.get_title() for axes in figure.axes if axes.get_visible()] == list(TASKS)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    expected = [[100 * result.score for result in row.cells[TASKS[0]]] for row in section.rows]
    assert [list(line.get_xdata()) for line in dots] == expected
    for part in (section.suite, "preset quick", "3 seeds"):
        assert part in figure.get_suptitle()


def test_learning_curves_show_seeds_and_their_mean(folder, monkeypatch):
    section = the_section(folder)
    found = learning_curves(section, folder)
    assert found.what == SCORES
    figure = drawn(monkeypatch, learning_plots, learning_plots.learning, section, found)
    assert "3 seeds" in figure.get_suptitle()
    lines = figure.axes[0].lines
    assert len(lines) == 3 * (3 + 1)
    means = [line.get_ydata()[-1] for line in lines[3::4]]
    assert means == pytest.approx([100 * np.mean([r.score for r in row.cells[TASKS[0]]]) for row in section.rows])


def test_target_vs_return_leaves_out_who_acts_without_a_target(folder, monkeypatch):
    figure = drawn(monkeypatch, task_plots, task_plots.target_vs_return, the_section(folder))
    (key,) = figure.legends
    assert {text.get_text() for text in key.get_texts()} == {"dt", "gpt2_dtma gate=false"}
    panel = figure.axes[0]
    assert panel.lines[1].get_xdata().tolist() == [500.0, 1000.0, 1500.0, 3600.0]
    assert panel.lines[1].get_ydata().tolist()[:3] == [255.0, 505.0, 755.0]


@pytest.mark.parametrize("draw", [task_plots.per_task, task_plots.target_vs_return])
def test_nothing_overlaps_the_title(folder, monkeypatch, draw):
    figure = drawn(monkeypatch, task_plots, draw, the_section(folder))
    title = figure._suptitle.get_window_extent()
    for other in [*figure.legends, *(axes.title for axes in figure.axes)]:
        assert not title.overlaps(other.get_window_extent())


def test_losses_that_were_logged_are_drawn_where_no_scores_are(tmp_path):
    for seed in range(2):
        file = samples.save(tmp_path, samples.result("dt", seed=seed))
        for part, rows in ((0, ["9,0.5", "19,0.4"]), (10, ["39,nan", "49,0.1"]), (2, ["19,0.3", "29,0.2"])):
            place = file.with_suffix("") / "csv" / f"part-{part}"
            place.mkdir(parents=True)
            (place / "metrics.csv").write_text("\n".join(["step,train/loss", *rows, ""]))
    (section,) = sections(read_all(tmp_path), Selection(tasks=["hopper-medium"]))
    found = learning_curves(section, tmp_path)
    assert found.what == LOSSES
    curve = mean_curve(found.curves["hopper-medium"]["dt"])
    assert curve.steps.tolist() == [9, 19, 29, 49]
    assert curve.values.tolist() == pytest.approx([0.5, 0.3, 0.2, 0.1])  # what was logged last for a step counts


def test_heads(tmp_path):
    out = tmp_path / "heads.png"
    dtbench("plot", "heads", "bundled", "--out", out)
    assert out.read_bytes().startswith(BEGINNINGS["png"])


def test_mistakes_are_named(tmp_path):
    samples.save(tmp_path, samples.result("dt"))
    out = ("--out", tmp_path / "a.svg")
    with pytest.raises(ConfigError, match=r"a\.jpg must end with \.svg, \.pdf or \.png"):
        dtbench("plot", "per-task", tmp_path, "--out", tmp_path / "a.jpg")
    with pytest.raises(ResultError, match="no model has a finished run on every task"):
        dtbench("plot", "intervals", tmp_path, *out)
    with pytest.raises(ResultError, match="no evaluations during training"):
        dtbench("plot", "learning-curves", tmp_path, *out)
    with pytest.raises(ResultError, match="evaluated at one target each"):
        dtbench("plot", "target-vs-return", tmp_path, *out)
    with pytest.raises(UnknownNameError, match="preset in these results 'paper'"):
        dtbench("plot", "per-task", tmp_path, "--preset", "paper", *out)
    samples.save(tmp_path, samples.result("dt", preset="learn"))
    with pytest.raises(ResultError, match=r"choose with --suite, --preset or --source: .*learn; .*quick"):
        dtbench("plot", "per-task", tmp_path, *out)
    with pytest.raises(ResultError, match="nothing to draw"):
        dtbench("plot", "per-task", tmp_path, "--preset", "quick", "--model", "lamo", *out)
