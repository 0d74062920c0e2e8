"""Reinformer: its losses and its way of acting against plain loops written from the paper's equations."""

from __future__ import annotations

import math

import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.models.reinformer import Reinformer
from dtbench.testing import DIMS, KINDS, fit_steps, model_config, windows


def build(spaces=DIMS, **model) -> Reinformer:
    return Reinformer(model_config("reinformer", **model), spaces).eval()


def test_the_loss_is_the_papers():
    """−log N(a; μ, σ) − λ H, the temperature's λ (H + |A|), and eq. 5 in units of the mean |return|."""
    module = build(expectile=0.9)
    with torch.no_grad():
        module.log_std.copy_(torch.tensor([-0.3, 0.2]))
    batch = windows(module)
    returns, mean = (found.detach() for found in module.outputs(batch))
    real = [(row, step) for row in range(6) for step in range(5) if batch["padding_mask"][row, step]]
    deviations = module.log_std.detach().exp().tolist()
    unit = sum(abs(float(batch["returns_to_go"][at])) for at in real) / len(real)
    expectile = likelihood = 0.0
    for at in real:
        error = float(batch["returns_to_go"][at] - returns[at]) / unit
        expectile += abs(0.9 - (error < 0)) * error**2 / len(real)
        for place, deviation in enumerate(deviations):
            score = float(batch["actions"][at][place] - mean[at][place]) / deviation
            likelihood -= (score**2 / 2 + math.log(deviation * math.sqrt(2 * math.pi))) / len(real)
    entropy = sum(0.5 * math.log(2 * math.pi * math.e * deviation**2) for deviation in deviations)
    expected = expectile - likelihood - 0.1 * entropy + 0.1 * (entropy + 2)
    loss, metrics = module.loss(batch)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["return_loss"]) == pytest.approx(expectile, rel=1e-5)


def test_the_temperature_follows_the_entropy_alone():
    """Above −|A| it falls; neither the likelihood nor the return moves it, and it moves nothing else."""
    module = build()
    loss, _ = module.loss(windows(module))
    loss.backward()
    entropy = 2 * 0.5 * math.log(2 * math.pi * math.e)
    assert float(module.log_temperature.grad) == pytest.approx(0.1 * (entropy + 2), rel=1e-5)


def test_the_temperature_is_not_clipped_and_has_a_rate_of_its_own():
    module = build(temperature_learning_rate=3e-4)
    loss, _ = module.loss(windows(module))
    (1e3 * loss).backward()
    before = float(module.log_temperature.grad)
    module.configure_gradient_clipping(None)
    others = [parameter.grad for name, parameter in module.named_parameters() if name != "log_temperature"]
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in others))
    assert norm == pytest.approx(module.optimizer_config.gradient_clip, rel=1e-3)
    assert float(module.log_temperature.grad) == before
    groups = module.parameter_groups()
    assert groups[-1]["lr"] == 3e-4
    assert groups[-1]["params"] == [module.log_temperature]
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


def test_a_batch_without_rewards_is_finite():
    module = build()
    batch = windows(module)
    loss, _ = module.loss({**batch, "returns_to_go": torch.zeros_like(batch["returns_to_go"])})
    assert torch.isfinite(loss)


def test_acting_is_the_loop_of_the_paper():
    """Step by step: predict the return from s, put it in its place; with the last one predict the action."""
    module = build()
    window = windows(module)
    found = module.act(dict(window))
    for row in range(6):
        length = int(window["padding_mask"][row].sum())
        own = {name: value[row : row + 1, -length:] for name, value in window.items()}
        returns = torch.zeros(1, length)
        for step in range(length):
            part = {name: value[:, : step + 1] for name, value in {**own, "returns_to_go": returns}.items()}
            returns[0, step] = module.outputs(part)[0][0, step]
        action = module.outputs({**own, "returns_to_go": returns})[1][0, -1]
        assert torch.allclose(found[row], action, atol=1e-6)


def test_a_return_is_predicted_from_what_comes_before_it():
    module = build()
    window = windows(module)
    returns = window["returns_to_go"].requires_grad_()
    actions = window["actions"].requires_grad_()
    module.outputs(window)[0][5, 3].backward()
    assert [step for step in range(5) if returns.grad[5, step] != 0] == [0, 1, 2]
    assert [step for step in range(5) if actions.grad[5, step].abs().sum() > 0] == [0, 1, 2]


def test_the_largest_return_is_asked_for(tmp_path):
    """In one state with returns 0 and 1 (and noise in the others), the regression tends to 1 with τ."""
    found = {}
    for expectile in (0.5, 0.99):
        module = build(expectile=expectile, dropout=0.0)
        batch = windows(module, batch=64)
        batch["observations"], batch["actions"] = 0 * batch["observations"], 0 * batch["actions"]
        batch["returns_to_go"] = (torch.arange(64) % 2)[:, None].expand(64, 5).float() * batch["padding_mask"]
        optimizer = torch.optim.Adam(module.parameters(), 3e-3)
        for _ in range(200):
            optimizer.zero_grad()
            module.loss(batch)[0].backward()
            optimizer.step()
        found[expectile] = float(module.outputs(batch)[0][40, 0])
    # Of targets 0 and 1 in equal parts the expectile is τ itself.
    assert found[0.5] == pytest.approx(0.5, abs=0.1)
    assert found[0.99] == pytest.approx(0.99, abs=0.1)


def test_discrete_actions_are_cloned_by_cross_entropy(tmp_path):
    module = build(KINDS["vector/discrete"])
    assert "log_std" not in dict(module.named_parameters())
    assert len(fit_steps(module, tmp_path, 3)) == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"expectile": 1.0}, r"model.expectile must lie in \(0, 1\), not 1.0."),
        ({"return_weight": -1.0}, "model.return_weight must not be negative"),
        ({"temperature": 0.0}, "model.temperature must be positive"),
    ],
)
def test_impossible_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        build(**option)
