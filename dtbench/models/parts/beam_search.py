"""Trajectory Transformer's search for plans (arXiv 2106.02039, algorithm 1; trajectory/search/core.py and sampling.py).

It keeps `width` sequences per environment. In each step of the plan every sequence is continued with `expand` actions,
then with the likeliest reward and value, and the best are kept by

    Σ_{k ≤ t} γᵏ r_k + γᵗ⁺¹ V_t,

where r_k and V_t are expectations under the model; then their next observations follow. All environments are searched
at once, a block of rows each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class BeamOptions:
    """How to search; see `options.TrajectoryTransformerConfig`."""

    horizon: int
    width: int
    expand: int
    discount: float
    k_obs: int | None
    k_act: int | None
    cdf_obs: float | None
    cdf_act: float | None


class Sequences(Protocol):
    """Token sequences that grow; dimensions of a step come in the order observation, action, reward, value."""

    observation_tokens: int
    action_tokens: int

    def logits(self) -> Tensor:
        """Return the logits of the next token: (rows, bins + 1), the last one that of the stop token."""
        ...

    def append(self, tokens: Tensor) -> None:
        """Continue each sequence with a token: (rows,) int64."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep these rows: (rows',) int64; one may be taken several times."""
        ...


def beam_search(
    sequences: Sequences, rewards: Tensor, values: Tensor, options: BeamOptions, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Search for the best plan of each environment.

    Args:
        sequences: one row per environment, each of which ends with the observation before the plan.
        rewards: (bins,) float32, what the bins of the reward stand for.
        values: (bins,) float32, what those of the value stand for.
        options: how to search.
        uniforms: (environments, horizon, observation and action tokens, width · expand) float64 in [0, 1), the random
            numbers of the draws.

    Returns:
        The best plans' tokens from the first action on, (environments, tokens) int64, and their values (environments,).
    """
    count, candidates = len(uniforms), options.width * options.expand
    block = torch.arange(count, device=uniforms.device)[:, None]
    kept = 1  # sequences per environment
    planned = torch.empty(count, 0, dtype=torch.int64, device=uniforms.device)
    paid = torch.zeros(count, 1, device=uniforms.device)
    for step in range(options.horizon):
        parents = torch.arange(candidates, device=uniforms.device) % kept
        rows, paid = (block * kept + parents).flatten(), paid[:, parents]
        logits, planned = sequences.logits()[rows], planned[rows]
        sequences.select(rows)
        for place in range(sequences.action_tokens):
            tokens = draw(logits, uniforms[:, step, place].flatten(), options.k_act, options.cdf_act)
            sequences.append(tokens)
            planned, logits = torch.cat((planned, tokens[:, None]), dim=1), sequences.logits()
        for middles in (rewards, values):
            expected = (logits.float().softmax(dim=-1)[:, :-1] @ middles).view(count, candidates)
            tokens = logits.argmax(dim=-1)
            sequences.append(tokens)
            planned = torch.cat((planned, tokens[:, None]), dim=1)
            if middles is rewards:
                paid, logits = paid + options.discount**step * expected, sequences.logits()
        total, order = (paid + options.discount ** (step + 1) * expected).sort(dim=1, descending=True, stable=True)
        kept = options.width
        order = order[:, :kept]
        rows, paid = (block * candidates + order).flatten(), paid.gather(1, order)
        planned = planned[rows]
        if step + 1 == options.horizon:
            break
        sequences.select(rows)
        for place in range(sequences.observation_tokens):
            numbers = uniforms[:, step, sequences.action_tokens + place, :kept].flatten()
            tokens = draw(sequences.logits(), numbers, options.k_obs, options.cdf_obs)
            sequences.append(tokens)
            planned = torch.cat((planned, tokens[:, None]), dim=1)
    return planned[::kept], total[:, 0]


def draw(logits: Tensor, uniforms: Tensor, most: int | None, cdf: float | None) -> Tensor:
    """Draw tokens from the likelier part of their distributions: (n, tokens) → (n,) int64.

    Args:
        logits: (n, tokens).
        uniforms: (n,) float64 in [0, 1): a token is where the summed probabilities pass it.
        most: only so many of the likeliest are drawn from.
        cdf: the least likely are left out, up to the one before their sum reaches this share, and all as unlikely as
            that one.
    """
    if most == 1 and cdf is None:
        return logits.argmax(dim=-1)
    probabilities = logits.double().softmax(dim=-1)
    if cdf is not None:
        probabilities = _without_tail(probabilities, cdf)
    if most is not None and most < probabilities.shape[-1]:
        least = probabilities.topk(most, dim=-1).values[:, -1:]
        probabilities = probabilities.where(probabilities >= least, 0.0)
    upto = probabilities.cumsum(dim=-1)
    return (upto <= uniforms[:, None] * upto[:, -1:]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)


def _without_tail(probabilities: Tensor, cdf: float) -> Tensor:
    """Set the tail's probabilities to 0; where nothing would be left, all are kept."""
    rising = probabilities.sort(dim=-1).values
    in_tail = (rising.cumsum(dim=-1) < cdf).sum(dim=-1, keepdim=True)
    bound = rising.gather(1, (in_tail - 1).clamp(min=0))
    kept = probabilities.where(probabilities > bound, 0.0)
    return kept.where(kept.sum(dim=-1, keepdim=True) > 0, probabilities)
