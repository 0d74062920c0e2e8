"""Behaviour cloning: the loss of its definition, and the best tenth."""

from __future__ import annotations

import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.models.bc import BehaviourCloning
from dtbench.testing import DIMS, data_module, model_config, small_store, windows


def test_loss_is_the_mean_squared_error_over_real_steps():
    module = BehaviourCloning(model_config("bc"), DIMS).eval()
    batch = windows(module)
    errors = []
    for row, step in batch["padding_mask"].nonzero().tolist():
        predicted = module.network(batch["observations"][row, step])
        errors += ((predicted - batch["actions"][row, step]) ** 2).tolist()
    assert module.loss(batch)[0].item() == pytest.approx(sum(errors) / len(errors), abs=1e-6)


def test_bc10_trains_on_the_best_tenth(tmp_path):
    module = BehaviourCloning(model_config("bc10"), DIMS)
    store = small_store(tmp_path)
    kept = data_module(tmp_path, module, steps=1).windows.kept_episodes
    assert kept.tolist() == [int(store.episode_returns.argmax())]  # a tenth of twelve is one
    every = data_module(tmp_path, BehaviourCloning(model_config("bc"), DIMS), steps=1).windows.kept_episodes
    assert len(every) == store.num_episodes


def test_a_tasks_own_share_of_the_best_is_kept():
    """The wishes of a model replace the task's options, so plain cloning must not wish for anything."""
    task = {"top_fraction": 0.5}
    cloning, best_tenth = (BehaviourCloning(model_config(name), DIMS) for name in ("bc", "bc10"))
    assert {**task, **cloning.window_options} == {"top_fraction": 0.5}
    assert {**task, **best_tenth.window_options} == {"top_fraction": 0.1}


def test_act_is_the_last_steps_and_bounded_by_tanh():
    module = BehaviourCloning(model_config("bc"), DIMS).eval()
    window = windows(module)
    assert torch.equal(module.act(window), module.network(window["observations"][:, -1]))
    with pytest.raises(ConfigError, match="top_fraction"):
        BehaviourCloning(model_config("bc", top_fraction=0), DIMS)
