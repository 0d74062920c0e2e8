"""An online budget spent by a UCB bandit: which policy is deployed after k episodes, and what is it worth?

The protocol of Unifloral (Jackson et al., 2025, "A Clean Slate for Offline Reinforcement Learning", arXiv 2504.11453;
`evaluation.py` of EmptyJackson/unifloral at f2dc127). Candidate policies are the bandit's arms. Pulling an arm is one
evaluation episode of its policy: one of its recorded scores, drawn with replacement. Pull number t takes the arm with
the highest

    mean of its scores + √(α ln t / number of its pulls),   α = 2,

where an arm without a pull comes before all others. After k pulls the arm with the best mean so far is taken and counts
with its true mean, over all its recorded episodes. The value is the expectation over many simulated bandits.

As there, scores are × 100 inside the index, so that the bonus is small beside the differences of most policies: each
arm is tried once, and then those that look best. Where we differ:

- An arm that was never pulled is never taken. There its mean counts as 0, which is above a negative score.
- Ties are broken by an order of the arms that is drawn once per bandit; there anew for each pull, and in favour of the
  first policy when the best is taken.
- All candidates take part. There, each bandit is given some of a larger pool, and the interval is over bandits: it says
  how well the simulation is known, not how the training seeds fell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: The numbers of episodes that are shown.
BUDGETS = (1, 2, 5, 10, 20, 50, 100)
#: Simulated bandits, as many as there; a value's standard error is about 3 % of the spread of the candidates.
REPETITIONS = 1_000
#: The exploration of UCB1 (Auer et al., 2002).
ALPHA = 2.0
#: Scores are × 100 in the index.
_SCALE = 100.0
_SEED = 0
#: Bandits simulated at once: with 30 arms and 100 pulls they take 25 MB.
_AT_ONCE = 1_000

Floats = NDArray[np.float64]


def deployed_scores(
    arms: Sequence[Sequence[float]],
    choices: NDArray[np.bool_] | None = None,
    *,
    budgets: Sequence[int] = BUDGETS,
    repetitions: int = REPETITIONS,
) -> Floats:
    """Return the expected true mean of the policy that is taken after each budget.

    Equal arguments give equal values: the bandits are seeded. Choices of arms meet the same episodes, so that their
    values differ by the arms and hardly by chance.

    Args:
        arms: each candidate's episode scores (0–1).
        choices: (g, arms) the candidates that each of g bandits has, at least one; None means all, once.
        budgets: numbers of pulls, ascending.

    Returns:
        (g, budgets) on the 0–1 scale.
    """
    choices = np.ones((1, len(arms)), dtype=bool) if choices is None else choices
    true_means = np.array([np.mean(scores) for scores in arms])
    totals = np.zeros((len(choices), len(budgets)))
    rng = np.random.default_rng(_SEED)
    for start in range(0, repetitions, _AT_ONCE):
        bandits = min(_AT_ONCE, repetitions - start)
        pulls = _drawn(arms, bandits, budgets[-1], rng)
        orders = rng.random((bandits, len(arms))).argsort(axis=1)
        for index, chosen in enumerate(choices):
            own = orders[chosen[orders]].reshape(bandits, -1)
            taken = play(np.take_along_axis(pulls, own[:, :, None], axis=1), budgets)
            totals[index] += true_means[np.take_along_axis(own, taken, axis=1)].sum(0)
    return totals / repetitions


def _drawn(arms: Sequence[Sequence[float]], bandits: int, pulls: int, rng: np.random.Generator) -> Floats:
    """Return (bandits, arms, pulls) recorded scores: what each pull of each arm shows, if it is made."""
    shares = rng.random((bandits, len(arms), pulls))
    drawn = [np.asarray(scores)[(shares[:, arm] * len(scores)).astype(np.intp)] for arm, scores in enumerate(arms)]
    return np.stack(drawn, axis=1)


def play(pulls: Floats, budgets: Sequence[int]) -> NDArray[np.intp]:
    """Let bandits spend their budgets.

    Args:
        pulls: (bandits, arms, pulls) the score that each pull of each arm shows; the arms are tried in this order, and
            the first of equal ones is preferred.
        budgets: numbers of pulls, ascending.

    Returns:
        (bandits, budgets) the arms taken.
    """
    bandits, arms, _ = pulls.shape
    counts, sums = np.zeros((bandits, arms), dtype=np.intp), np.zeros((bandits, arms))
    every, taken = np.arange(bandits), []
    for number in range(1, budgets[-1] + 1):
        if number <= arms:
            arm = np.full(bandits, number - 1)
        else:
            arm = (_SCALE * sums / counts + np.sqrt(ALPHA * np.log(number) / counts)).argmax(1)
        sums[every, arm] += pulls[every, arm, counts[every, arm]]
        counts[every, arm] += 1
        if number in budgets:
            tried = slice(0, min(number, arms))
            taken.append((sums[:, tried] / counts[:, tried]).argmax(1))
    return np.stack(taken, axis=1)
