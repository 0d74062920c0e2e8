"""Evaluations during training: a diagnostic that leaves the training as it was."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dtbench.evaluation import callback as callbacks
from dtbench.evaluation.rollout import Episodes
from dtbench.suites.scores import ReferenceScores
from tests.evaluation.test_rollout import HOPPER, policy


@pytest.fixture
def module(monkeypatch):
    """A DT in training whose evaluations return 100, 300 and 200, and which keeps what it logs."""
    model = policy().train()
    model.logged = []
    returns = iter([100.0, 300.0, 200.0])
    modes = model.modes = []

    def evaluate(pl_module, *_):
        modes.append(pl_module.training)
        return Episodes([next(returns)] * 2, [1, 1], [0, 1])

    monkeypatch.setattr(callbacks, "evaluate_together", evaluate)
    monkeypatch.setattr(model, "log", lambda name, value, **_: model.logged.append((name, value)))
    return model


def train(callback, module, steps: int) -> None:
    for batch in range(steps):
        callback.on_train_batch_end(SimpleNamespace(), module, None, None, batch)


def new(every: int = 4) -> callbacks.EvaluationCallback:
    return callbacks.EvaluationCallback(HOPPER, ReferenceScores("x", 0, 1000), 3600, every=every, episodes=2, seed=0)


def test_best_is_kept_beside_the_course_and_never_replaces_it(module):
    callback = new()
    assert callback.best is None
    train(callback, module, 13)
    assert callback.history == [(4, 0.1), (8, 0.3), (12, 0.2)]
    assert callback.best == (8, 0.3)
    assert module.logged == [("evaluation/normalized", pytest.approx(value)) for value in (10, 30, 20)]


def test_the_policy_is_evaluated_in_evaluation_mode_and_goes_on_in_training_mode(module):
    train(new(), module, 4)
    assert module.modes == [False]
    assert all(part.training for part in module.modules())


def test_the_course_travels_in_the_checkpoint(module, tmp_path):
    callback, resumed = new(), new()
    train(callback, module, 12)
    torch.save(callback.state_dict(), tmp_path / "state")
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert resumed.history == callback.history


def test_an_evaluation_leaves_the_random_states_and_threads_alone():
    """Or a run with diagnostics would see other windows and dropout than one without."""
    model = policy().train()
    torch.manual_seed(1)
    np.random.seed(1)
    before = (torch.random.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads())
    model.log = lambda *_, **__: None
    train(new(every=1), model, 1)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.get_num_threads() == before[2]
