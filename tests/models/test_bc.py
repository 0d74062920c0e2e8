"""Behaviour cloning: the loss of its definition, the best tenth, and both published settings of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dtbench.config import RunConfig, compose, load_preset
from dtbench.errors import ConfigError
from dtbench.models.bc import BehaviourCloning
from dtbench.registry import model_entry
from dtbench.suites.suites import load_suite
from dtbench.testing import DIMS, data_module, model_config, small_store, windows

#: The Decision Transformer's own cloning of the best tenth, small.
WINDOW = {"states": "window", "dropout": 0.1, "layers": 3}


def published(model: str, file: Path | None = None) -> RunConfig:
    entry, suite = model_entry(model), load_suite("d4rl-short")
    return compose(entry.settings, preset=load_preset("paper"), suite=suite, task=suite.tasks[0], file=file)


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
    assert {**task, **cloning.window_options}["top_fraction"] == 0.5
    assert {**task, **best_tenth.window_options}["top_fraction"] == 0.1


def test_act_is_the_last_steps_and_bounded_by_tanh():
    module = BehaviourCloning(model_config("bc"), DIMS).eval()
    window = windows(module)
    assert torch.equal(module.act(window), module.network(window["observations"][:, -1]))
    with pytest.raises(ConfigError, match="top_fraction"):
        BehaviourCloning(model_config("bc", top_fraction=0), DIMS)


def test_an_mlp_over_a_window_predicts_its_last_action():
    """gym/decision_transformer/models/mlp_bc.py and training/act_trainer.py, as a loop."""
    module = BehaviourCloning(model_config("bc10", **WINDOW), DIMS).eval()
    batch = windows(module)
    errors = []
    for row in range(len(batch["observations"])):
        x = batch["observations"][row].flatten()
        for layer in module.network:
            x = layer(x)
        errors += ((x - batch["actions"][row, -1]) ** 2).tolist()
    assert module.loss(batch)[0].item() == pytest.approx(np.mean(errors), abs=1e-6)
    kinds = [type(layer).__name__ for layer in module.network]
    assert kinds == ["Linear", "ReLU", "Dropout"] * 3 + ["Float32Linear", "Tanh"]
    assert module.network[0].in_features == module.context_length * DIMS["observation_dim"]
    acting = {**batch, "actions": torch.zeros_like(batch["actions"])}
    assert torch.equal(module.act(acting), module.network(batch["observations"].flatten(1)))


def test_bc_and_bc10_are_corls():
    """corl-team/CORL: algorithms/offline/any_percent_bc.py, configs/offline/bc and bc_10."""
    for name, share in (("bc", 1.0), ("bc10", 0.1)):
        config = published(name)
        model, optimizer, training = config.model, config.optimizer, config.training
        assert (model.layers, model.width, model.dropout, model.tanh, model.states) == (2, 256, 0.0, True, "step")
        assert (model.top_fraction, model.top_by) == (share, "trajectories")
        assert (model.state_std_floor, model.drop_timeouts) == (1e-3, True)
        assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.warmup_steps) == (3e-4, 0.0, 0)
        assert (optimizer.betas, optimizer.eps, optimizer.gradient_clip) == ((0.9, 0.999), 1e-8, 0.0)
        assert (training.steps, training.batch_size, training.context_length) == (1_000_000, 256, 1)


def test_the_decision_transformers_own_cloning_is_a_file_beside_it():
    """kzl/decision-transformer: gym/experiment.py with --model_type bc --pct_traj 0.1."""
    config = published("bc10", model_entry("bc10").defaults.with_name("kzl.yaml"))
    model, optimizer, training = config.model, config.optimizer, config.training
    assert (model.layers, model.width, model.dropout, model.tanh, model.states) == (3, 128, 0.1, True, "window")
    assert (model.top_fraction, model.top_by) == (0.1, "steps")
    assert (model.state_std_floor, model.drop_timeouts) == (1e-6, False)
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.warmup_steps) == (1e-4, 1e-4, 10_000)
    assert (optimizer.betas, optimizer.eps, optimizer.gradient_clip) == ((0.9, 0.999), 1e-8, 0.0)
    assert (training.steps, training.batch_size, training.context_length) == (100_000, 64, 20)


def test_impossible_options_are_refused():
    for bad in ({"states": "all"}, {"top_by": "length"}, {"dropout": 1.0}, {"state_std_floor": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            BehaviourCloning(model_config("bc", **bad), DIMS)
