"""Tokens without language: a one-step Markov chain (Wang et al., 2024, arXiv 2310.00771).

The control of every claim that language helps: a backbone pretrained on it has seen sequences, but no words.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dtbench.models.backbone.pretrain import BatchSource, PretrainSettings, Tokens


def transition_matrix(states: int, temperature: float, seed: int) -> NDArray[np.float64]:
    """Return P, (states, states) float64, P[i, j] of j after i: rows are softmax(z / temperature) with z ~ N(0, 1)."""
    logits = np.random.default_rng((seed, 0)).standard_normal((states, states)) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def markov_batches(settings: PretrainSettings, temperature: float = 1.0) -> BatchSource:
    """Draw sequences of a chain over `settings.vocabulary` states; the first state is uniform."""
    states = settings.vocabulary
    cumulative = transition_matrix(states, temperature, settings.seed).cumsum(axis=1)

    def batch(step: int) -> Tokens:
        random = np.random.default_rng((settings.seed, 1, step))
        draws = random.random((settings.context, settings.batch_size, 1))
        tokens = np.empty((settings.batch_size, settings.context), dtype=np.int64)
        tokens[:, 0] = random.integers(0, states, settings.batch_size)
        for place in range(1, settings.context):
            tokens[:, place] = (draws[place] > cumulative[tokens[:, place - 1]]).sum(axis=1).clip(max=states - 1)
        return tokens

    return batch


def entropy_perplexity(matrix: NDArray[np.float64]) -> float:
    """Return the least perplexity any model can reach: exp of the chain's entropy rate."""
    values, vectors = np.linalg.eig(matrix.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    return float(np.exp(-(stationary[:, None] * matrix * np.log(matrix)).sum()))
