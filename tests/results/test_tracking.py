"""Return asked for against return got: numbers from their definitions, and the tables of the leaderboard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from dtbench.registry import MODELS, ModelEntry
from dtbench.results import leaderboard, tracking
from dtbench.results.schema import EpisodeScores
from dtbench.testing import build_model, windows
from tests.results import samples
from tests.results.test_leaderboard import row

HEADING = "Diagnostics: return asked for against return got (not ranked)"


def asked(content, returns: dict[float, list[float]]):
    """Return a result whose episodes at each target had these returns; its score target is left as it is."""
    found = {str(target): EpisodeScores(got, [10] * len(got), [0.5] * len(got)) for target, got in returns.items()}
    return replace(content, scores=replace(content.scores, per_target={**content.scores.per_target, **found}))


@pytest.mark.parametrize("name", list(MODELS))
def test_models_are_marked_by_what_they_do(name):
    """Acts change with the return asked for exactly where the registry says so."""
    module = build_model(name).eval()
    window = windows(module)
    other = {**window, "returns_to_go": window["returns_to_go"] + 3 * window["padding_mask"]}
    with torch.no_grad():
        differ = not torch.equal(module.act(dict(window)), module.act(other))
    assert differ == MODELS[name].conditions_on_return


def test_a_model_from_outside_is_taken_to_act_on_the_return():
    assert ModelEntry("bc", "my:Model", "mine", "–", is_ours=False).conditions_on_return
    assert tracking.acts_on_return("my:Model")
    assert not tracking.acts_on_return("bc")


@pytest.mark.parametrize("targets", [[500.0, 1000.0, 2000.0, 3000.0], [500.0, 1000.0]])
def test_numbers_are_per_seed_and_from_their_definitions(targets):
    """With three targets beside the score target, that one does not count; with two, all three do."""
    rng = np.random.default_rng(0)
    got = rng.uniform(0, 3000, size=(3, len(targets), 2))
    runs = [
        asked(samples.result(seed=seed), {target: got[seed, place].tolist() for place, target in enumerate(targets)})
        for seed in range(3)
    ]
    found = tracking.track(runs)
    assert found.targets == [*targets, 3600.0]
    for seed, run in enumerate(runs):
        means = [*got[seed].mean(1), np.mean(run.scores.returns)]  # the score target's episodes are the run's scores
        assert found.returns[seed] == pytest.approx(means)
        counted = [*targets, 3600.0][: max(3, len(targets))]
        errors = [abs(one - other) for one, other in zip(counted, means, strict=False)]
        assert found.errors[seed] == pytest.approx(np.mean(errors) / (counted[-1] - counted[0]))
        expected = scipy.stats.spearmanr(counted, means[: len(counted)]).statistic
        assert found.correlations[seed] == pytest.approx(expected)


def test_a_model_that_does_what_it_is_asked():
    found = tracking.track([asked(samples.result(), {100.0: [90.0, 110.0], 200.0: [200.0] * 2, 500.0: [500.0] * 2})])
    assert found.correlations == pytest.approx([1])
    assert found.errors == pytest.approx([0])


def test_the_same_return_whatever_the_target_is_no_correlation():
    assert tracking.rank_correlation([1, 2, 3], [5.0, 5.0, 5.0]) == 0


def test_only_targets_that_all_runs_share_are_compared():
    one, other = asked(samples.result(), {1.0: [1.0, 1.0], 2.0: [2.0, 2.0]}), samples.result(seed=1)
    assert tracking.track([one, other]) is None
    assert tracking.track([one, asked(other, {2.0: [2.0, 2.0]})]).targets == [2.0, 3600.0]
    assert tracking.track([one, asked(other, {2.0: [2.0, 2.0]})]).correlations is None  # two targets
    assert tracking.track([]) is None


def test_the_leaderboard_has_a_table_per_task_without_models_that_ignore_the_target(tmp_path):
    for seed in range(2):
        returns = {1000.0: [900.0 + 100 * seed] * 2, 2000.0: [1900.0] * 2}
        for model in ("dt", "bc"):
            samples.save(tmp_path, asked(samples.result(model, seed=seed, score=0.8), returns))
            samples.save(tmp_path, asked(samples.result(model, "walker2d-medium", seed, score=0.1), {1.0: [1.0, 1.0]}))
    text = leaderboard.render(tmp_path)
    part = text.split(f"### {HEADING}")[1].split("### ")[0]
    assert "asked 3600 (score target)" in part
    assert "asked 5000 (score target)" in part
    assert part.index("hopper-medium:") < part.index("walker2d-medium:")
    assert "act without a target: `bc`" in part
    assert "| `bc`" not in part
    _, low, high, scored, correlation, error, seeds = row(text, "dt", HEADING)
    assert (low, high, correlation, seeds) == ("950 ± 71", "1900 ± 0", "1.00 ± 0.00", "2")
    got = np.mean(samples.result(score=0.8).scores.returns)
    assert scored == f"{got:.0f} ± 0"
    errors = [(abs(900 + 100 * seed - 1000) + 100 + abs(got - 3600)) / 3 / 2600 for seed in range(2)]  # three targets
    assert error == f"{np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f}"
