"""Statistics against scipy and plain definitions, and the mistakes that rliable does not notice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from rliable import library, metrics

from dtbench.errors import ResultError
from dtbench.results import stats
from dtbench.results.coverage import measured_coverage
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


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (4, 9), (5, 2), (7, 3)])
def test_aggregates_are_rliables(shape):
    """They are computed here for many matrices at once."""
    many = np.random.default_rng(3).random((6, *shape)) * 1.5
    for name, rliables in {
        "iqm": metrics.aggregate_iqm,
        "median": metrics.aggregate_median,
        "mean": metrics.aggregate_mean,
        "optimality_gap": metrics.aggregate_optimality_gap,
    }.items():
        assert stats.AGGREGATES[name](many) == pytest.approx(np.array([rliables(matrix) for matrix in many]))


def test_interval_is_the_stratified_bootstraps_expanded():
    """The mean's interval from an own bootstrap that draws runs anew within each task."""
    rng = np.random.default_rng(1)
    means = [SCORES[rng.integers(4, size=(4, 9)), np.arange(9)].mean() for _ in range(4000)]
    point, (low, high) = SCORES.mean(), stats.aggregate(SCORES)["mean"].interval
    factor = np.sqrt(4 / 3) * scipy.stats.t.ppf(0.975, 9 * 3) / scipy.stats.norm.ppf(0.975)
    expected = point + factor * (np.quantile(means, [0.025, 0.975]) - point)
    # Bootstraps of 10,000 and 4,000 draws: the ends' standard error is about 2 % of the interval's width.
    assert np.abs(expected - [low, high]).max() < 0.06 * (high - low)


def test_many_resamples_at_once_give_rliables_own_intervals():
    """Resamples are drawn once and measured together; rliable measures one after the other."""

    def measures(scores):
        return np.array([measure(scores) for measure in stats.AGGREGATES.values()])

    def own(find):
        np.random.seed(stats._SEED)
        return np.asarray(find()[1]["model"])

    options, thresholds = {"reps": 300, "confidence_interval_size": 0.95}, np.linspace(0, 1, 11)
    ends = own(lambda: library.get_interval_estimates({"model": SCORES}, measures, **options))
    expected = stats.expanded(measures(SCORES), ends, *SCORES.shape)
    found = stats.aggregate(SCORES, 300)
    assert pytest.approx(expected, abs=1e-12) == np.array([estimate.interval for estimate in found.values()]).T
    (estimate,) = stats.mean_estimates(SCORES[None], 300)
    assert estimate == found["mean"]
    band = own(lambda: library.create_performance_profile({"model": SCORES}, thresholds, **options))
    share, found_band = stats.performance_profile(SCORES, thresholds, 300)
    assert found_band == pytest.approx(stats.expanded(share, band, *SCORES.shape).clip(0, 1), abs=1e-12)


def test_expansion_is_hesterbergs_for_a_normal_bootstrap():
    """Quantiles at Φ(−√(n/(n−1)) · t_{m(n−1), 0.975}) of a normal distribution, over those at 2.5 %."""
    for seeds, tasks in ((3, 1), (5, 3), (10, 9)):
        level = scipy.stats.norm.cdf(-np.sqrt(seeds / (seeds - 1)) * scipy.stats.t.ppf(0.975, tasks * (seeds - 1)))
        expected = scipy.stats.norm.ppf(level) / scipy.stats.norm.ppf(0.025)
        assert stats.expansion(seeds, tasks) == pytest.approx(expected)


def test_three_runs_of_one_task_have_nearly_students_interval():
    """Above the mean, half of the percentile interval is the distance to the highest run."""
    low, high = stats.aggregate(np.array([[0.4], [0.5], [0.6]]))["mean"].interval
    assert (high - low) / 2 == pytest.approx(0.1 * np.sqrt(1.5) * 4.302653 / 1.959964, rel=1e-5)


def test_an_expanded_end_never_crosses_the_estimate():
    """The percentile interval of a biased measure need not hold the estimate."""
    (low, high) = stats.expanded(np.array([0.5]), np.array([[0.6], [0.8]]), 3, 1)[:, 0]
    assert low == 0.5
    assert high > 0.8


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


@pytest.mark.parametrize("seeds", [1, 2])
def test_below_three_seeds_there_is_no_interval(seeds):
    few = SCORES[:seeds]
    assert all(estimate == stats.Estimate(estimate.value) for estimate in stats.aggregate(few).values())
    assert stats.probability_of_improvement(few, SCORES).interval is None
    assert stats.performance_profile(few, np.array([0.5]))[1] is None


def test_runs_without_a_spread_have_no_interval():
    """All resamples agree, so that nothing is known about how far off the estimate is."""
    assert stats.aggregate(np.full((5, 2), 0.3))["iqm"] == stats.Estimate(pytest.approx(0.3))
    assert stats.probability_of_improvement(SCORES + 2, SCORES) == stats.Estimate(1.0)


def test_an_interval_says_how_often_such_intervals_hold_the_true_value():
    found = stats.aggregate(SCORES[:3, :3])
    for name, estimate in found.items():
        assert estimate.coverage == measured_coverage(name, 3, 3)
    pair = stats.probability_of_improvement(SCORES[:, :3], SCORES[1:, :3] + 0.01)
    assert pair.coverage == measured_coverage("probability_of_improvement", 3, 3)  # the smaller number of seeds


def test_no_interval_reaches_beyond_what_is_possible():
    scores = np.array([[0.9], [1.2], [1.3], [1.1]])
    assert stats.aggregate(scores)["optimality_gap"].interval[0] == 0
    low, high = stats.probability_of_improvement(scores, scores - 0.15).interval
    assert 0 <= low < high <= 1
    band = stats.performance_profile(scores, np.linspace(0, 2, 21))[1]
    assert band.min() >= 0
    assert band.max() <= 1


@pytest.mark.parametrize(("runs_a", "runs_b"), [(3, 3), (2, 4), (5, 3)])
def test_permutation_test_is_scipys_on_one_task(runs_a, runs_b):
    rng = np.random.default_rng(runs_a)
    a, b = rng.random((runs_a, 1)), rng.random((runs_b, 1)) + 0.4
    expected = scipy.stats.permutation_test(
        (a[:, 0], b[:, 0]), lambda x, y: abs(x.mean() - y.mean()), n_resamples=np.inf, alternative="greater"
    )
    found = stats.permutation_test(a, b)
    assert found.is_exact
    assert found.p == pytest.approx(expected.pvalue)


def test_permutation_test_exchanges_runs_within_each_task():
    """Against a plain loop over the assignments of each of three tasks."""
    rng = np.random.default_rng(5)
    a, b = rng.random((2, 3)) + 0.3, rng.random((2, 3))
    statistics = []
    for chosen in itertools.product(itertools.combinations(range(4), 2), repeat=3):
        pooled = [[*a[:, task], *b[:, task]] for task in range(3)]
        of_a = np.array([[runs[i] for i in own] for runs, own in zip(pooled, chosen, strict=True)]).T
        of_b = np.array(
            [[runs[i] for i in range(4) if i not in own] for runs, own in zip(pooled, chosen, strict=True)]
        ).T
        statistics.append(abs(of_a.mean() - of_b.mean()))
    found = stats.permutation_test(a, b)
    assert found.p == pytest.approx(np.mean(np.array(statistics) >= abs(a.mean() - b.mean()) - 1e-9))
    assert found == stats.Permutation(found.p, 2 / 6**3, is_exact=True)


def test_drawn_assignments_come_near_the_exact_p(monkeypatch):
    a, b = SCORES[:3, :3] + 0.2, np.random.default_rng(6).random((3, 3))
    exact = stats.permutation_test(a, b)
    monkeypatch.setattr(stats, "_MOST_ASSIGNMENTS", 10)
    drawn = stats.permutation_test(a, b)
    assert exact.is_exact
    assert not drawn.is_exact
    assert drawn.p == pytest.approx(exact.p, abs=4 * np.sqrt(0.25 / stats.REPETITIONS))  # four standard errors
    assert stats.permutation_test(a, b) == drawn


def test_a_drawn_p_is_never_zero():
    found = stats.permutation_test(SCORES + 3, SCORES, repetitions=99)
    assert found == stats.Permutation(0.01, 0.01, is_exact=False)


@pytest.mark.parametrize(("runs", "smallest"), [(2, 2 / 6), (3, 2 / 20), (4, 2 / 70), (5, 2 / 252)])
def test_complete_separation_on_one_task_has_the_smallest_p(runs, smallest):
    scores = np.arange(2 * runs)[:, None] / 10
    found = stats.permutation_test(scores[:runs], scores[runs:])
    assert found.p == found.smallest_p == pytest.approx(smallest)
    assert found.is_separable == found.can_separate == (runs > 3)


def test_equal_scores_are_not_separable():
    assert stats.permutation_test(SCORES, SCORES).p == 1
    assert stats.permutation_test(np.full((3, 2), 0.1 + 0.2), np.full((3, 2), 0.3)).p == 1


def test_probability_of_improvement_counts_pairs():
    a, b = SCORES, np.random.default_rng(2).random((3, 9))
    wins = [(a[i, t] > b[j, t]) + 0.5 * (a[i, t] == b[j, t]) for t in range(9) for i in range(4) for j in range(3)]
    found = stats.probability_of_improvement(a, b, repetitions=100)
    assert found.value == pytest.approx(metrics.probability_of_improvement(a, b))
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


def test_several_means_are_resampled_together():
    """Each has the interval that it has alone, and so has the difference of two of the same runs."""
    other = np.random.default_rng(7).random(SCORES.shape)
    found = stats.mean_estimates(np.stack([SCORES, other, SCORES - other]))
    for matrix, estimate in zip((SCORES, other), found, strict=False):
        alone = stats.aggregate(matrix)["mean"]
        assert (estimate.value, *estimate.interval) == pytest.approx((alone.value, *alone.interval))
        assert estimate.coverage == alone.coverage
    assert found[2].value == pytest.approx(found[0].value - found[1].value)
    (shifted,) = stats.mean_estimates((SCORES + 0.1 - SCORES)[None])
    assert shifted == stats.Estimate(pytest.approx(0.1))  # no spread, apart from rounding
    assert stats.mean_estimates(SCORES[None, :2]) == [stats.Estimate(pytest.approx(SCORES[:2].mean()))]
    with pytest.raises(ResultError, match="NaN"):
        stats.mean_estimates(np.full((1, 3, 2), np.nan))


def test_the_jackknife_of_a_mean_is_students_interval():
    """Without one of n runs, a mean differs so that the jackknife's variance is s²/n."""
    scores = np.random.default_rng(8).random((5, 1))
    without = np.array([np.delete(scores, run, 0).mean(0) for run in range(5)])[:, :, None]
    value, half = stats.jackknife(scores.mean(0)[:, None], without)
    interval = scipy.stats.t.interval(0.95, 4, scores.mean(), scores.std(ddof=1) / np.sqrt(5))
    assert (value[0] - half[0], value[0] + half[0]) == pytest.approx(interval)


def test_the_jackknife_adds_the_variances_of_tasks():
    scores = np.random.default_rng(9).random((4, 3))
    without = np.array([np.delete(scores, run, 0).mean(0) for run in range(4)])[:, :, None]
    _, half = stats.jackknife(scores.mean(0)[:, None], without)
    error = np.sqrt((scores.var(0, ddof=1) / 4).sum()) / 3
    assert half[0] == pytest.approx(scipy.stats.t.ppf(0.975, 9) * error)


@pytest.mark.parametrize("shape", [(3, 1), (5, 1), (3, 4), (5, 3)])
def test_sign_flips_are_scipys_paired_permutation_test(shape):
    values = np.random.default_rng(shape[0]).normal(0.3, 1, size=shape)
    expected = scipy.stats.permutation_test(
        (values.ravel(),),
        lambda x: abs(x.mean()),
        permutation_type="samples",
        n_resamples=np.inf,
        alternative="greater",
    )
    found = stats.sign_flip_test(values)
    assert found == stats.Permutation(pytest.approx(expected.pvalue), 2 / 2**values.size, is_exact=True)


def test_sign_flips_against_a_plain_loop_with_ties():
    values = np.array([0.1, 0.2, -0.3, 0.2, 0.0])
    sums = [abs(np.dot(signs, values)) for signs in itertools.product([1, -1], repeat=5)]
    assert stats.sign_flip_test(values).p == pytest.approx(np.mean(np.array(sums) >= abs(values.sum()) - 1e-9))


@pytest.mark.parametrize(("units", "smallest"), [(3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_contrasts_of_one_sign_have_the_smallest_p(units, smallest):
    found = stats.sign_flip_test(-np.arange(1, units + 1))
    assert found.p == found.smallest_p == smallest
    assert stats.sign_flip_test(np.zeros(units)).p == 1


def test_drawn_signs_come_near_the_exact_p_and_are_never_zero(monkeypatch):
    values = np.random.default_rng(10).normal(0.3, 1, size=(5, 3))
    exact = stats.sign_flip_test(values)
    monkeypatch.setattr(stats, "_MOST_FLIPS", 3)
    drawn = stats.sign_flip_test(values)
    assert not drawn.is_exact
    assert drawn.p == pytest.approx(exact.p, abs=4 * np.sqrt(0.25 / stats.REPETITIONS))  # four standard errors
    assert stats.sign_flip_test(values) == drawn
    assert stats.sign_flip_test(np.ones(30), repetitions=99) == stats.Permutation(0.01, 0.01, is_exact=False)
