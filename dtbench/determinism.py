"""What makes a run repeatable: every draw is a function of (seed, step, rank), and sums round in one way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, step: int, rank: int = 0, *stream: int) -> np.random.Generator:
    """Return the random numbers of one step on one rank.

    A resumed run draws what the uninterrupted one would have drawn, and no two ranks draw alike.

    Args:
        seed: seed of the run.
        step: 0-based training step.
        rank: rank of the process in distributed training.
        stream: further numbers, for draws that must be independent of the others of the same step.
    """
    return np.random.Generator(np.random.Philox(_entropy(seed, step, rank, *stream)))


def seed_torch(seed: int, step: int, rank: int = 0) -> None:
    """Seed PyTorch's global generators, and with them dropout, for one step on one rank.

    `torch.manual_seed` would take milliseconds on a machine without a GPU: it notes the call, with a traceback, for
    every kind of device that may be used later.
    """
    word = torch_seed(seed, step, rank)
    torch.default_generator.manual_seed(word)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(word)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(word)


def torch_seed(seed: int, step: int, rank: int = 0) -> int:
    """Return what PyTorch's global generators are seeded with for one step on one rank."""
    word = _entropy(seed, step, rank).generate_state(1, np.uint64)[0]
    return int(word >> np.uint64(1))  # PyTorch takes 63 bits without a sign


def _entropy(*numbers: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(numbers)


@contextmanager
def fixed_order() -> Iterator[None]:
    """Let cuDNN take only kernels that add in a fixed order inside the block.

    Without it the gradients of convolutions differ from one training to the next: on an H100 each model that sees
    frames ended 12 steps of a seed at other weights, and at the same ones with it. Nothing else differed there.
    """
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one CPU thread inside the block: a sum that is split over threads rounds differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
