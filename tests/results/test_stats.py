"""Statistics against scipy and plain definitions, and the mistakes that rliable does not notice."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from dtbench.errors import ResultError
from dtbench.results import stats
from dtbench.suites.scores import ReferenceScores
from dtbench.suites.suites import load_suite

SCORES = np.random.default_rng(0).random((4, 9))


def test_iqm_is_the_trimmed_mean():
    assert stats.aggregate(SCORES)["iqm"].value == pytest.approx(scipy.stats.trim_mean(SCORES, 0.25, axis=None))


def test_other_aggregates_from_their_definitions():
    found = stats.aggregate(SCORES)
    assert found["mean"].value == pytest.approx(SCORES.mean())
    assert found["median"].value == pytest.approx(np.median(SCORES.mean(0)))
    assert found["optimality_gap"].value == pytest.approx(1 - np.minimum(SCORES, 1).mean())


def test_interval_is_the_stratified_bootstraps():
    """The mean's interval from an own bootstrap that draws runs anew within each task."""
    rng = np.random.default_rng(1)
    means = [SCORES[rng.integers(4, size=(4, 9)), np.arange(9)].mean() for _ in range(4000)]
    low, high = stats.aggregate(SCORES)["mean"].interval
    # Two bootstraps of 2,000 and 4,000 draws: the ends' standard error is about 3 % of the interval's width.
    assert np.abs(np.quantile(means, [0.025, 0.975]) - [low, high]).max() < 0.1 * (high - low)


def test_same_matrix_same_interval_and_the_callers_random_state_is_untouched():
    """rliable ignores `random_state` and draws from numpy's global generator."""
    np.random.seed(7)
    expected = np.random.random(3)
    np.random.seed(7)
    first = stats.aggregate(SCORES)
    assert np.array_equal(np.random.random(3), expected)
    np.random.seed(8)
    assert stats.aggregate(SCORES) == first
    pairs = [stats.probability_of_improvement(SCORES, SCORES[:2], repetitions=50) for _ in range(2)]
    assert pairs[0] == pairs[1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (SCORES[0], "runs × tasks"),
        (np.empty((0, 3)), "runs × tasks"),
        (np.where(SCORES > 0.5, np.nan, SCORES), "NaN"),
        (100 * SCORES, "0–1 scale"),
        (8 + 20 * SCORES, "0–1 scale"),  # weak models' percentages: none above thirty
    ],
)
def test_what_rliable_takes_in_silence_is_refused(bad, message):
    with pytest.raises(ResultError, match=message):
        stats.aggregate(bad)


def test_one_game_far_above_the_reference_is_not_mistaken_for_percentages():
    """Human-normalised Atari: one game at 20 times the human, the others at about 1."""
    assert stats.aggregate(np.where(np.arange(9) == 0, 20.0, SCORES))["iqm"].value < 1.5


def test_one_run_has_no_interval():
    assert all(estimate.interval is None for estimate in stats.aggregate(SCORES[:1]).values())
    assert stats.probability_of_improvement(SCORES[:1], SCORES).interval is None
    assert stats.performance_profile(SCORES[:1], np.array([0.5]))[1] is None


def test_probability_of_improvement_counts_pairs():
    a, b = SCORES, np.random.default_rng(2).random((3, 9))
    wins = [(a[i, t] > b[j, t]) + 0.5 * (a[i, t] == b[j, t]) for t in range(9) for i in range(4) for j in range(3)]
    found = stats.probability_of_improvement(a, b, repetitions=100)
    assert found.value == pytest.approx(np.mean(wins))
    assert found.interval[0] <= found.value <= found.interval[1]


def test_profile_is_the_share_above():
    thresholds = np.linspace(0, 1, 11)
    share, band = stats.performance_profile(SCORES, thresholds)
    assert share == pytest.approx([(threshold < SCORES).mean() for threshold in thresholds])
    assert band.shape == (2, 11)


def test_normalise_first_then_mean_and_spread():
    """Sent through the affine map itself, a standard deviation would be shifted by the random score."""
    reference = load_suite("d4rl-short").task("walker2d-medium").reference
    returns = np.array([1000.0, 2000.0, 3000.0])
    spread = reference.normalize(returns).std()
    assert spread == pytest.approx(returns.std() / (reference.expert - reference.random))
    assert spread != pytest.approx(reference.normalize(returns.std()), rel=1e-4)


def test_reference_scores_are_d4rls():
    """The values of d4rl/infos.py in Farama's D4RL."""
    expected = {"hopper": (-20.272305, 3234.3), "halfcheetah": (-280.178953, 12135.0), "walker2d": (1.629008, 4592.3)}
    for task in load_suite("d4rl-short").tasks:
        assert (task.reference.random, task.reference.expert) == expected[task.id.split("-")[0]]
        assert task.reference.table == "d4rl"
    assert ReferenceScores("x", 10, 20).normalize([10, 15, 30]).tolist() == [0, 0.5, 2]
