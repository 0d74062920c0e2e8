"""Random numbers are a function of (seed, step, rank), and stay the same numbers."""

from __future__ import annotations

import numpy as np
import torch

from dtbench.determinism import fixed_order, generator, one_thread, seed_torch


def test_the_streams_keep_their_values():
    """Results that were published with them could not be repeated otherwise."""
    expected = np.random.Generator(np.random.Philox(np.random.SeedSequence((7, 3, 1))))
    assert generator(7, 3, 1).integers(1000, size=5).tolist() == expected.integers(1000, size=5).tolist()
    assert generator(0, 0).integers(1000, size=3).tolist() == [135, 14, 937]
    seed_torch(0, 0)
    assert torch.initial_seed() == 7896617691693857887


def test_seed_step_rank_and_stream_all_count():
    numbers = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 1), (1, 1, 0)]
    drawn = {tuple(generator(*which).integers(2**62, size=2)) for which in numbers}
    assert len(drawn) == len(numbers)
    seeds = set()
    for which in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        seed_torch(*which)
        seeds.add(torch.initial_seed())
    assert len(seeds) == 4


def test_cudnn_is_left_as_it_was_even_after_an_error():
    assert not torch.backends.cudnn.deterministic
    try:
        with fixed_order():
            assert torch.backends.cudnn.deterministic
            raise KeyError
    except KeyError:
        pass
    assert not torch.backends.cudnn.deterministic


def test_one_thread_is_given_back_even_after_an_error():
    before = torch.get_num_threads()
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
    except KeyError:
        pass
    assert torch.get_num_threads() == before
