"""The search for plans against all plans there are, and against the same search written with lists."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from dtbench.models.parts.beam_search import BeamOptions, beam_search, draw

BINS, OBSERVATION, ACTION = 3, 1, 1
STEP = OBSERVATION + ACTION + 2
HORIZON = 3
REWARDS, VALUES = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([-2.0, 0.5, 4.0])
PLAIN = BeamOptions(HORIZON, 4, 3, discount=0.9, k_obs=1, k_act=None, cdf_obs=None, cdf_act=None)


class Table:
    """A model of tokens: every token so far, by its place, adds a row of a table to the logits of the next one."""

    observation_tokens, action_tokens = OBSERVATION, ACTION

    def __init__(self, tokens: torch.Tensor, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        length = OBSERVATION + HORIZON * STEP
        self.table = torch.from_numpy(rng.normal(size=(length, length, BINS + 1, BINS + 1))).float()
        self.tokens = tokens

    def of(self, tokens: list[int]) -> torch.Tensor:
        return self._rows(torch.tensor([tokens]))[0]

    def _rows(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        return self.table[length, torch.arange(length), tokens].sum(dim=1)

    def logits(self) -> torch.Tensor:
        return self._rows(self.tokens)

    def append(self, tokens: torch.Tensor) -> None:
        self.tokens = torch.cat((self.tokens, tokens[:, None]), dim=1)

    def select(self, rows: torch.Tensor) -> None:
        self.tokens = self.tokens[rows]


def starts() -> torch.Tensor:
    return torch.tensor([[0], [2], [1]])


def uniforms(candidates: int, count: int = 3) -> torch.Tensor:
    numbers = np.random.default_rng(5).random((count, HORIZON, OBSERVATION + ACTION, candidates))
    return torch.from_numpy(numbers)


def judge(model: Table, tokens: list[int], paid: float, step: int) -> tuple[list[int], float, float]:
    """Append reward and value: the tokens, the discounted rewards so far, and what the plan is worth."""
    reward = model.of(tokens).softmax(0)[:-1] @ REWARDS
    tokens = [*tokens, int(model.of(tokens).argmax())]
    value = model.of(tokens).softmax(0)[:-1] @ VALUES
    tokens = [*tokens, int(model.of(tokens).argmax())]
    paid += PLAIN.discount**step * float(reward)
    return tokens, paid, paid + PLAIN.discount ** (step + 1) * float(value)


def exhaustive(model: Table, start: int) -> tuple[list[int], float]:
    """Try all sequences of actions, the stop token among them."""
    best: tuple[list[int], float] = ([], -np.inf)
    for actions in itertools.product(range(BINS + 1), repeat=HORIZON):
        tokens, paid, worth = [start], 0.0, 0.0
        for step, action in enumerate(actions):
            tokens, paid, worth = judge(model, [*tokens, action], paid, step)
            if step + 1 < HORIZON:
                tokens = [*tokens, int(model.of(tokens).argmax())]
        best = max(best, (tokens[OBSERVATION:], worth), key=lambda found: found[1])
    return best


def test_all_plans_kept_equal_exhaustive_enumeration():
    """With one action per sequence nothing is dropped, and 3,000 sequences are enough to hold the best of 64."""
    model = Table(starts())
    model.table *= 0.3  # no action is too rare
    options = replace(PLAIN, width=3000, expand=1)
    expected = [exhaustive(model, start) for start in starts()[:, 0].tolist()]
    found, worth = beam_search(model, REWARDS, VALUES, options, uniforms(3000))
    assert found.tolist() == [tokens for tokens, _ in expected]
    assert worth.tolist() == pytest.approx([value for _, value in expected], rel=1e-5)
    assert len({tuple(tokens) for tokens in found.tolist()}) == 3  # the environments have plans of their own


def with_lists(model: Table, start: int, numbers: np.ndarray, options: BeamOptions) -> tuple[list[int], float]:
    """Search for one environment."""

    def drawn(tokens: list[int], number: float, k: int | None, cdf: float | None) -> int:
        return int(draw(model.of(tokens)[None], torch.tensor([number], dtype=torch.float64), k, cdf))

    beams: list[tuple[list[int], float]] = [([start], 0.0)]
    for step in range(HORIZON):
        judged = []
        for candidate in range(options.width * options.expand):
            tokens, paid = beams[candidate % len(beams)]
            tokens = [*tokens, drawn(tokens, numbers[step, 0, candidate], options.k_act, options.cdf_act)]
            judged.append(judge(model, tokens, paid, step))
        judged.sort(key=lambda found: -found[2])
        beams = [(tokens, paid) for tokens, paid, _ in judged[: options.width]]
        if step + 1 < HORIZON:
            beams = [
                ([*tokens, drawn(tokens, numbers[step, ACTION, place], options.k_obs, options.cdf_obs)], paid)
                for place, (tokens, paid) in enumerate(beams)
            ]
    return beams[0][0][OBSERVATION:], judged[0][2]


@pytest.mark.parametrize(
    "options",
    [PLAIN, replace(PLAIN, cdf_act=0.4), replace(PLAIN, k_act=2, k_obs=2), replace(PLAIN, k_obs=None, cdf_obs=0.3)],
)
def test_pruned_search_equals_the_same_with_lists(options):
    model, numbers = Table(starts()), uniforms(options.width * options.expand)
    expected = [
        with_lists(model, start, numbers[row].numpy(), options) for row, start in enumerate(starts()[:, 0].tolist())
    ]
    found, worth = beam_search(model, REWARDS, VALUES, options, numbers)
    assert found.tolist() == [tokens for tokens, _ in expected]
    assert worth.tolist() == pytest.approx([value for _, value in expected], rel=1e-5)


def drawn_by_definition(probabilities: np.ndarray, number: float, k: int | None, cdf: float | None) -> int:
    """Leave out the tail and all but the k likeliest; then take the first token whose sum passes the number."""
    kept = probabilities.copy()
    if cdf is not None:
        rising, total, bound = np.sort(kept), 0.0, np.sort(kept)[0]
        for probability in rising:
            total += probability
            if total >= cdf:
                break
            bound = probability
        kept[kept <= bound] = 0
    if k is not None:
        kept[kept < np.sort(kept)[-k]] = 0
    total = 0.0
    for token, probability in enumerate(kept / kept.sum()):
        total += probability
        if total > number:
            return token
    raise AssertionError


@pytest.mark.parametrize(("k", "cdf"), [(None, None), (1, None), (3, None), (None, 0.6), (None, 0.0), (2, 0.3)])
def test_draws_are_the_definition(k, cdf):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(200, 7))
    numbers = rng.random(200)
    found = draw(torch.from_numpy(logits), torch.from_numpy(numbers), k, cdf).tolist()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = zip(probabilities, numbers, strict=True)
    assert found == [drawn_by_definition(row, number, k, cdf) for row, number in rows]
    assert len(set(found)) > 3


def test_equally_likely_tokens_are_all_kept():
    numbers = torch.linspace(0, 0.99, 50, dtype=torch.float64)
    assert set(draw(torch.zeros(50, 4), numbers, None, 0.6).tolist()) == {0, 1, 2, 3}


def test_what_cannot_happen_is_never_drawn():
    logits = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, -1)
    numbers = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, numbers, None, None).tolist() == [0, 2, 2]
