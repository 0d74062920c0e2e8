"""Factorials: contrasts from their definitions, the sizes of the tests, gaps, and the page."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from dtbench.errors import ConfigError, ResultError, UnknownNameError
from dtbench.results import factorial_page, stats
from dtbench.results.factorial import Design, complete_scores, effects, gaps, units
from dtbench.results.schema import SuiteRecord
from dtbench.results.sections import Selection
from dtbench.suites.suites import load_suite
from tests.results import samples

SHORT, LONG = ("s1", "s2"), ("l1", "l2")
LEVELS = ("no", "yes")
TWO = {"heads": LEVELS, "gate": LEVELS}
THREE = {"language": LEVELS, **TWO}


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch):
    """Enough for intervals that these tests only compare or read."""
    for measure in (stats.aggregate, stats.mean_estimates):
        monkeypatch.setattr(measure, "__defaults__", (50,))


def design(factors=THREE, task_levels=None, **parts) -> Design:
    """Return a factorial whose cells are named by their levels, e.g. `yes/no/yes`."""
    cells = {"/".join(place): dict(zip(factors, place, strict=True)) for place in itertools.product(*factors.values())}
    if task_levels is None:
        return Design(factors, cells, parts.pop("tasks", SHORT), **parts)
    tasks = tuple(task for level in task_levels.values() for task in level)
    return Design(factors, cells, tasks, "horizon", task_levels, **parts)


HORIZON = {"short": SHORT, "long": LONG}


def drawn(of: Design, seeds=5, seed=0, mean=lambda levels, task: 0.0, noise=None):
    """Return cells whose scores are a mean, a part that all runs of a seed share, and noise of their own."""
    rng = np.random.default_rng(seed)
    noise = noise or (lambda task: rng.normal(0, 0.1))
    shared = {(task, number): rng.normal(0, 0.2) for task in of.tasks for number in range(seeds)}
    return {
        (label, task): {
            number: 0.5 + mean(levels, task) + shared[task, number] + noise(task) for number in range(seeds)
        }
        for label, levels in of.cells.items()
        for task in of.tasks
    }


def found(of: Design, cells) -> dict[tuple[str, str], object]:
    return {(effect.name, effect.scope): effect for effect in effects(of, cells)}


def mean_of(cells, of: Design, tasks, **levels) -> float:
    """Average the cells with these levels by a plain loop."""
    values = [
        score
        for (label, task), scores in cells.items()
        for score in scores.values()
        if task in tasks and all(of.cells[label][name] == level for name, level in levels.items())
    ]
    return float(np.mean(values))


def test_two_by_two_in_closed_form():
    of = design(TWO, tasks=("t",))
    cells = drawn(of)
    computed = found(of, cells)
    y = {label: np.array(list(cells[label, "t"].values())) for label in of.cells}
    heads = (y["yes/no"] + y["yes/yes"] - y["no/no"] - y["no/yes"]) / 2
    gate = (y["no/yes"] + y["yes/yes"] - y["no/no"] - y["yes/no"]) / 2
    both = y["yes/yes"] - y["no/yes"] - y["yes/no"] + y["no/no"]
    for name, contrast in (("heads", heads), ("gate", gate), ("heads × gate", both)):
        effect = computed[name, "all"]
        assert effect.estimate.value == pytest.approx(contrast.mean())
        expected = scipy.stats.permutation_test(
            (contrast,), lambda x: abs(x.mean()), permutation_type="samples", n_resamples=np.inf, alternative="greater"
        )
        assert effect.test.p == pytest.approx(expected.pvalue)
        assert effect.test.smallest_p == 2 / 2**5
        assert effect.estimate.interval == pytest.approx(stats.aggregate(contrast[:, None])["mean"].interval)
    assert len(computed) == 3


def test_effects_are_differences_of_plain_means():
    of = design(task_levels=HORIZON, interactions=(("horizon", "gate", "heads"),))
    cells = drawn(of, mean=lambda levels, task: 0.3 * (task in LONG) * (levels["gate"] == "yes"))
    computed = found(of, cells)

    def effect(tasks, name, **fixed):
        return mean_of(cells, of, tasks, **{name: "yes"}, **fixed) - mean_of(cells, of, tasks, **{name: "no"}, **fixed)

    def interaction(tasks):
        return effect(tasks, "heads", gate="yes") - effect(tasks, "heads", gate="no")

    expected = {
        ("language", "all"): effect(of.tasks, "language"),
        ("gate", "long"): effect(LONG, "gate"),
        ("heads × gate", "all"): interaction(of.tasks),
        ("heads × gate", "short"): interaction(SHORT),
        ("gate × horizon", "long − short"): effect(LONG, "gate") - effect(SHORT, "gate"),
        ("heads × gate × horizon", "long − short"): interaction(LONG) - interaction(SHORT),
    }
    for key, value in expected.items():
        assert computed[key].estimate.value == pytest.approx(value), key
    assert computed["gate × horizon", "long − short"].test.is_separable
    # Three main effects and three interactions on three sets of tasks each, three with the horizon, the named one.
    assert len(computed) == 3 * 3 + 3 * 3 + 3 + 1


def test_a_three_way_interaction_of_model_factors():
    of = design(interactions=(("language", "heads", "gate"),))
    on = {"language": "yes", "heads": "yes", "gate": "yes"}
    cells = drawn(of, mean=lambda levels, task: 0.8 * (levels == on), noise=lambda task: 0.0)
    computed = found(of, cells)
    assert computed["language × heads × gate", "all"].estimate.value == pytest.approx(0.8)
    assert computed["heads × gate", "all"].estimate.value == pytest.approx(0.4)
    assert computed["heads", "all"].estimate.value == pytest.approx(0.2)


def test_units_of_the_tests():
    """Seed × task for model factors, seed × pair of tasks across levels, seeds where the levels have no pairs."""
    of = design(TWO, task_levels=HORIZON)
    smallest = {key: effect.test.smallest_p for key, effect in found(of, drawn(of, seeds=3)).items()}
    assert smallest["gate", "all"] == 2 / 2**12
    assert smallest["gate", "long"] == 2 / 2**6
    assert smallest["gate × horizon", "long − short"] == 2 / 2**6
    of = design(TWO, task_levels={"short": SHORT, "long": ("l1",)})
    cells = drawn(of, seeds=3)
    effect = found(of, cells)["gate × horizon", "long − short"]
    assert effect.test.smallest_p == 2 / 2**3

    def gate(tasks):
        return mean_of(cells, of, tasks, gate="yes") - mean_of(cells, of, tasks, gate="no")

    assert effect.estimate.value == pytest.approx(gate(("l1",)) - gate(SHORT))


def test_partners_are_the_tasks_in_the_order_of_the_list():
    of = design({"gate": LEVELS}, task_levels=HORIZON)
    cells = drawn(of)
    d = {task: np.array(list(cells["yes", task].values())) - list(cells["no", task].values()) for task in of.tasks}
    pairs = np.stack([d["l1"] - d["s1"], d["l2"] - d["s2"]], axis=1)
    assert found(of, cells)["gate × horizon", "long − short"].test == stats.sign_flip_test(pairs)


#: Noise: normal; skewed; rare falls; and tasks of different noise.
NOISES = {
    "normal": lambda rng, task: rng.normal(),
    "skewed": lambda rng, task: rng.exponential(),
    "falls": lambda rng, task: -2.0 * (rng.random() < 0.2),
    "uneven": lambda rng, task: rng.normal() * (4 if task == "l1" else 1),
}


@pytest.mark.parametrize("kind", NOISES)
def test_no_effect_is_found_where_there_is_none(kind):
    """The share of p ≤ 0.05 is 0.05 or the next lower p, that of p ≤ 0.5 a half: within 3.5 binomial standard errors.

    Language has an effect on all tasks, so that its interaction with the horizon is nil though it is not; and runs of
    one seed share a part of their score, as do those with and without a gate.
    """
    repetitions, of = 1500, design(task_levels=HORIZON, interactions=(("heads", "gate", "horizon"),))
    effects_of = [("heads",), ("heads", "gate"), ("language", "horizon"), ("heads", "gate", "horizon")]
    rng, p = np.random.default_rng(1), {names: [] for names in effects_of}
    language = np.array([levels["language"] == "yes" for levels in of.cells.values()])
    twin = np.array([list(of.cells).index(label.rsplit("/", 1)[0] + "/no") for label in of.cells])
    for _ in range(repetitions):
        own = np.array([[[NOISES[kind](rng, task) for task in of.tasks] for _ in range(3)] for _ in of.cells])
        common = rng.normal(size=own.shape)[twin] + rng.normal(size=own.shape[1:])
        scores = own + common + 2.0 * language[:, None, None]
        for names in effects_of:
            p[names].append(stats.sign_flip_test(units(of, names, scores)).p)
    for names, values in p.items():
        size = 6 if "horizon" in names else 12
        for level in (0.05, 0.5):
            attainable = np.floor(level * 2 ** (size - 1)) / 2 ** (size - 1)  # p is a multiple of 2 / 2ᴺ
            share = np.mean(np.array(values) <= level)
            error = 3.5 * np.sqrt(attainable * (1 - attainable) / repetitions)
            assert share <= attainable + error, names
            if kind != "falls":  # equal sums make p larger
                assert share >= attainable - error, names


def test_shifting_all_runs_of_a_seed_changes_nothing():
    of = design(task_levels=HORIZON)
    cells = drawn(of)
    shifted = {key: {seed: score + 0.1 * seed for seed, score in scores.items()} for key, scores in cells.items()}
    before, after = found(of, cells), found(of, shifted)
    for key in before:
        assert after[key].estimate.value == pytest.approx(before[key].estimate.value)
        assert after[key].test.p == pytest.approx(before[key].test.p)


def test_nothing_is_averaged_over_gaps():
    of = design(task_levels=HORIZON)
    cells = drawn(of)
    del cells["yes/yes/no", "l2"]
    del cells["no/no/no", "s1"][3]
    assert gaps(of, cells) == {("no/no/no", "s1"): [3], ("yes/yes/no", "l2"): []}
    computed = found(of, cells)
    assert {scope for _, scope in computed} == {"short"}
    assert {effect.seeds for effect in computed.values()} == {4}
    assert complete_scores(of, cells, SHORT).shape == (8, 4, 2)
    assert complete_scores(of, cells, LONG) is None
    values = {key: {seed: score for seed, score in scores.items() if seed != 3} for key, scores in cells.items()}
    gate = mean_of(values, of, SHORT, gate="yes") - mean_of(values, of, SHORT, gate="no")
    assert computed["gate", "short"].estimate.value == pytest.approx(gate)


def test_seeds_that_never_meet_give_no_effect():
    of = design({"gate": LEVELS}, tasks=("t",))
    cells = {("no", "t"): {0: 0.1}, ("yes", "t"): {1: 0.2}}
    assert effects(of, cells) == []
    assert gaps(of, cells) == {("no", "t"): [1], ("yes", "t"): [0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factors": {}}, "at least one"),
        ({"factors": {**TWO, "gate": ("no", "no")}}, "level 'no' twice"),
        ({"cells": {"a": {"heads": "no"}}}, "the cell 'a' has no level of 'gate'"),
        ({"cells": {"a": {"heads": "no", "gate": "no", "gat": "no"}}}, "did you mean 'gate'"),
        ({"cells": {"a": {"heads": "no", "gate": "yess"}}}, "did you mean 'yes'"),
        ({"interactions": (("heads", "gates"),)}, "did you mean 'gate'"),
        ({"interactions": (("heads", "heads"),)}, "different factors"),
        ({"interactions": (("heads",),)}, "at least two"),
        ({"tasks": ()}, "tasks must name at least one task"),
        ({"task_factor": "gate", "task_levels": HORIZON}, "'gate' is a factor of the models and of the tasks"),
        ({"task_factor": "horizon", "task_levels": {"short": SHORT, "long": ()}}, "long must name at least one task"),
        ({"task_factor": "horizon", "task_levels": {"all": SHORT, "long": LONG}}, "cannot be called 'all'"),
    ],
)
def test_what_is_no_factorial_is_refused(change, message):
    of = design(TWO)
    parts = {"factors": of.factors, "cells": of.cells, "tasks": of.tasks, **change}
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        Design(**parts)


def test_a_missing_or_double_combination_is_named():
    of = design(TWO)
    cells = {label: levels for label, levels in of.cells.items() if label != "yes/no"}
    with pytest.raises(ConfigError, match="no cell has heads=yes, gate=no"):
        Design(TWO, cells, of.tasks)
    with pytest.raises(ConfigError, match="'yes/no' and 'again' have the same levels"):
        Design(TWO, {**of.cells, "again": of.cells["yes/no"]}, of.tasks)


# The page

TASKS = {"d4rl-short": ("hopper-medium", "walker2d-medium"), "d4rl-long": ("pointmaze-dtma-medium",)}
PLACES = {
    "gpt2_dtma": ("yes", "yes"),
    "gate=false": ("yes", "no"),
    "heads=0": ("no", "yes"),
    "heads=0 gate=false": ("no", "no"),
}
LABELS = {place: "gpt2_dtma" if place == "gpt2_dtma" else f"gpt2_dtma {place}" for place in PLACES}
PAGE = Design(
    TWO,
    {LABELS[place]: dict(zip(TWO, levels, strict=True)) for place, levels in PLACES.items()},
    (*TASKS["d4rl-short"], *TASKS["d4rl-long"]),
    "horizon",
    {"short": TASKS["d4rl-short"], "long": TASKS["d4rl-long"]},
    (("heads", "gate", "horizon"),),
)
SELECTIONS = [Selection(suite, tasks, "quick") for suite, tasks in TASKS.items()]


def records(seeds=3):
    """Return one result per cell, task and seed."""
    rng, made = np.random.default_rng(2), []
    for suite, tasks in TASKS.items():
        loaded = load_suite(suite)
        for task, (place, levels), seed in itertools.product(tasks, PLACES.items(), range(seeds)):
            score = 0.4 + 0.1 * (levels[0] == "yes") + float(rng.normal(0, 0.03))
            changes = [] if place == "gpt2_dtma" else place.split()
            made.append(
                samples.changed(*changes, model="gpt2_dtma", config_hash=place, seed=seed, score=score)
                if changes
                else samples.result("gpt2_dtma", seed=seed, score=score)
            )
            env_id = loaded.task(task).env_id
            record = replace(made[-1].task, id=task, env_id=env_id)
            made[-1] = replace(made[-1], suite=SuiteRecord(suite, loaded.version), task=record)
    return made


def test_the_page_shows_cells_effects_and_both_suites(tmp_path):
    page = factorial_page.page(records(), [], PAGE, SELECTIONS, figures="f", title="Heads & gates", trials=12)
    text = page.text
    assert text.startswith("# Heads & gates\n")
    assert "hopper-medium (short)" in text
    assert "pointmaze-dtma-medium (long)" in text
    assert "## Missing" not in text
    assert "the units are the seeds" in text  # two short tasks, one long
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| heads ")
    ]
    heads = [row for row in rows if row[0] == "heads"]
    assert [row[1:3] for row in heads] == [["all", "3"], ["short", "3"], ["long", "3"]]
    assert heads[0][4] == f"{2 / 2**9:.3f}"  # an effect of ten points, noise of three
    assert heads[2][4] == "0.250 (cannot be below 0.250)"  # three seeds on one task
    assert heads[0][3].startswith("+")
    assert text.count("Hyper-parameter trials per model: 12.") == 2
    assert "## d4rl-short@1" in text
    assert "## d4rl-long@2" in text
    assert set(page.figures) == {"f-effects.svg", "f-0-interaction.svg"}
    for folder in ("a", "b"):
        page.write(tmp_path / folder / "f.md")
    written = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert written[0] == written[1]
    assert set(written[0]) == {"f.md", *page.figures}


def test_the_page_lists_what_is_missing():
    some = [r for r in records() if not (r.model.config_hash == "gate=false" and r.suite.name == "d4rl-long")]
    some = [r for r in some if not (r.model.config_hash == "abc" and r.task.id == "hopper-medium" and r.seed == 2)]
    text = factorial_page.page(some, [], PAGE, SELECTIONS, figures="f").text
    assert "- `gpt2_dtma gate=false` on pointmaze-dtma-medium: no finished run" in text
    assert "- `gpt2_dtma` on hopper-medium: seed 2" in text
    assert "Not computed, for lack of results: the effects on all tasks, long." in text
    assert re.search(r"^\| heads +\| short", text, flags=re.MULTILINE)
    assert "interaction.svg" not in text
    nothing = [r for r in records() if r.model.config_hash == "abc"]
    text = factorial_page.page(nothing, [], PAGE, SELECTIONS, figures="f").text
    assert "Not computed" in text
    assert not re.search(r"^\| heads", text, flags=re.MULTILINE)
    with pytest.raises(ResultError, match="No cell of the factorial has a result"):
        factorial_page.page([samples.result("dt")], [], PAGE, SELECTIONS)


def test_results_of_two_sources_are_not_mixed():
    both = [*records(), samples.result("gpt2_dtma", task_source="d4rl")]
    with pytest.raises(ResultError, match=r"hopper-medium has results in two sections .*name the board's source"):
        factorial_page.page(both, [], PAGE, SELECTIONS)
    only = [replace(selection, source="local") for selection in SELECTIONS]
    assert "## Effects" in factorial_page.page(both, [], PAGE, only).text
