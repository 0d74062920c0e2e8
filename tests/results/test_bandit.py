"""The UCB bandit against a plain loop over its definition, closed forms, and its limits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from dtbench.results.bandit import deployed_scores, play

ARMS = [[0.1, 0.5], [0.4, 0.6], [0.2, 0.3]]


def loop(pulls, budgets) -> list[int]:
    """One bandit as Unifloral's code plays it, on scores × 100 and with the first of equal arms preferred."""
    shown, taken = [[] for _ in pulls], []
    for number in range(1, budgets[-1] + 1):
        indices = []
        for scores in shown:
            if not scores:
                indices.append(math.inf)
            else:
                indices.append(100 * sum(scores) / len(scores) + math.sqrt(2 * math.log(number) / len(scores)))
        arm = indices.index(max(indices))
        shown[arm].append(pulls[arm][len(shown[arm])])
        if number in budgets:
            means = [sum(scores) / len(scores) if scores else -math.inf for scores in shown]
            taken.append(means.index(max(means)))
    return taken


@pytest.mark.parametrize("arms", [1, 2, 5, 9])
def test_bandits_are_a_plain_loop(arms):
    rng = np.random.default_rng(arms)
    # Scores a hundredth apart, so that the bonus decides, with ties and negative values among them.
    pulls = rng.choice([-0.01, 0.0, 0.01, 0.02, 0.03], size=(40, arms, 60))
    budgets = (1, 2, 3, 7, 20, 60)
    assert play(pulls, budgets).tolist() == [loop(bandit.tolist(), budgets) for bandit in pulls]


def test_one_arm_is_worth_its_mean():
    assert deployed_scores([[0.1, 0.2, 0.6]]) == pytest.approx(np.full((1, 7), 0.3))


def test_one_episode_deploys_an_arm_at_random():
    found = deployed_scores(ARMS, budgets=(1,), repetitions=4000)
    means = np.mean(ARMS, axis=1)
    # The mean over arms; four standard errors.
    assert found == pytest.approx(means.mean(), abs=4 * means.std() / math.sqrt(4000))


def test_as_many_episodes_as_arms_are_one_for_each():
    """Exact, with ties: over all that the arms can show, the mean of the arm that shows the best, ties averaged."""
    arms = [[0.1, 0.5], [0.5, 0.7], [0.2, 0.5]]
    means, values = [np.mean(arm) for arm in arms], []
    for shown in itertools.product(*arms):
        best = [mean for mean, score in zip(means, shown, strict=True) if score == max(shown)]
        values.append(np.mean(best))
    found = deployed_scores(arms, budgets=(3,), repetitions=8000)
    assert found == pytest.approx(np.mean(values), abs=4 * np.std(means) / math.sqrt(8000))  # four standard errors


def test_many_episodes_find_the_best_arm():
    arms = [[0.40, 0.44], [0.41, 0.45], [0.30, 0.50]]
    found = deployed_scores(arms, budgets=(1, 1000), repetitions=300)[0]
    assert found[0] < 0.42
    assert found[1] == pytest.approx(0.43, abs=0.001)


def test_an_arm_without_a_pull_is_never_taken():
    """With negative scores, a mean of 0 for no pulls would be the best."""
    assert play(np.full((1, 3, 2), -0.5), (1, 2)).tolist() == [[0, 0]]


def test_choices_are_bandits_with_these_arms_only():
    everything = deployed_scores(ARMS, np.array([[True] * 3, [True, False, True], [False, False, True]]))
    assert everything[0] == pytest.approx(deployed_scores(ARMS)[0])
    assert everything[2] == pytest.approx(np.full(7, 0.25))
    without = deployed_scores([ARMS[0], ARMS[2]], repetitions=4000)[0]
    assert everything[1] == pytest.approx(without, abs=4 * 0.05 * math.sqrt(1 / 1000 + 1 / 4000))
    assert np.all(everything[1] <= 0.3 + 1e-12)  # the better of the two


def test_equal_arguments_give_equal_values_and_the_callers_random_state_is_untouched():
    np.random.seed(3)
    expected = np.random.random(2)
    np.random.seed(3)
    assert np.array_equal(deployed_scores(ARMS), deployed_scores(ARMS))
    assert np.array_equal(np.random.random(2), expected)
