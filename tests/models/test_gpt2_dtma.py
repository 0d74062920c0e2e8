"""GPT2-DTMA: where the gate is, how it starts, and that gate and backbone are updated in turn."""

from __future__ import annotations

import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.models.backbone.common import reinit_heads
from dtbench.models.gpt2_dtma import Gpt2Dtma
from dtbench.models.parts.mixers import HeadGatedAttention
from dtbench.testing import DIMS, data_module, fit_steps, model_config, windows


def build(**model) -> Gpt2Dtma:
    return Gpt2Dtma(model_config("gpt2_dtma", **model), DIMS)


def test_only_layer_0_is_gated_and_the_gate_starts_near_zero():
    module = build(width=256, heads=8)
    assert [isinstance(block.mixer, HeadGatedAttention) for block in module.trunk.blocks] == [True, False]
    assert torch.equal(module.gate.bias, torch.zeros(8))
    # 2,048 draws of N(0, 0.02): the sample's standard deviation has a relative spread of 1/sqrt(2·2048) = 1.6 %.
    assert module.gate.weight.std().item() == pytest.approx(0.02, rel=0.07)


def test_gate_values_are_not_normalised():
    module = build()
    torch.nn.init.normal_(module.gate.weight, std=3.0)
    values = module.gate(torch.randn(2, 5, module.trunk.config.width))
    assert values.min() < 0
    assert values.max() > 1


@pytest.mark.parametrize(("steps", "gate_moved", "rest_moved"), [(4, False, True), (5, True, True)])
def test_every_nth_step_updates_the_gate_alone(tmp_path, steps, gate_moved, rest_moved):
    """With gate_every = 5, steps 0 to 3 leave the gate unchanged, and step 4 changes the gate only."""
    before, after = build(gate_every=5), build(gate_every=5)
    fit_steps(after, tmp_path, steps)
    moved = {
        name: not torch.equal(old, new)
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
    }
    assert moved["trunk.blocks.0.mixer.gate.weight"] is gate_moved
    assert moved["trunk.blocks.0.mixer.query.weight"] is rest_moved


def test_gate_step_moves_nothing_else(tmp_path):
    four, five = build(gate_every=5), build(gate_every=5)
    fit_steps(four, tmp_path / "four", 4)
    fit_steps(five, tmp_path / "five", 5)
    changed = {
        name
        for (name, old), new in zip(four.named_parameters(), five.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == {"trunk.blocks.0.mixer.gate.weight", "trunk.blocks.0.mixer.gate.bias"}


def test_the_base_asks_which_parameters_a_step_freezes():
    """Gradients are clipped together, as in the reference, and only then dropped."""
    module = build(gate_every=5)
    optimizer = module.configure_optimizers()["optimizer"]
    gate = {id(parameter) for parameter in module.gate.parameters()}
    for step in (3, 4):
        module.step = step
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        module.configure_gradient_clipping(optimizer)
        trained = {id(parameter) for parameter in module.parameters() if parameter.grad is not None}
        assert trained == (gate if step == 4 else {id(parameter) for parameter in module.parameters()} - gate)
        count = sum(parameter.numel() for parameter in module.parameters())
        clipped = module.optimizer_config.gradient_clip / count**0.5  # the norm of all gradients together
        assert all(torch.allclose(p.grad, torch.tensor(clipped)) for p in module.parameters() if p.grad is not None)
    module.options.gate_every = 0
    assert list(module.frozen_parameters(4)) == []


def test_both_groups_warm_up():
    module = build()
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    warmup, full = module.optimizer_config.warmup_steps, module.optimizer_config.learning_rate
    for step in range(warmup + 2):
        expected = full * min(1.0, (step + 1) / warmup)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected, expected])
        optimizer.step()
        schedule.step()


def test_rates_fall_linearly_to_zero_after_the_warm_up():
    module = build()
    module.optimizer_config.decay, module.optimizer_config.warmup_steps, module.steps = "linear", 4, 10
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(11):
        found.append([group["lr"] / module.optimizer_config.learning_rate for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    expected = [0.25, 0.45, 0.6, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    assert found == [pytest.approx([share, share]) for share in expected]


def test_gates_are_logged_per_head():
    module = build()
    _, metrics = module.loss(windows(module))
    assert {name for name in metrics if name.startswith("gate_")} == {"gate_0", "gate_1"}
    torch.nn.init.zeros_(module.gate.weight)
    with torch.no_grad():
        module.gate.bias.copy_(torch.tensor([0.5, -2.0]))
    _, metrics = module.loss(windows(module))
    assert (metrics["gate_0"].item(), metrics["gate_1"].item()) == pytest.approx((0.5, 2.0))


def test_gate_averages_are_over_real_tokens_only():
    module = build(layers=2).eval()
    batch = windows(module)
    real = batch["padding_mask"].repeat_interleave(3, dim=1)
    tokens, _ = module.embedding(batch)
    first = module.trunk.blocks[0]
    expected = first.mixer.gate(first.mixer_norm(tokens))[real].abs().mean(dim=0)
    _, metrics = module.loss(batch)
    assert [metrics["gate_0"].item(), metrics["gate_1"].item()] == pytest.approx(expected.tolist(), abs=1e-6)


def test_held_out_gate_trains_on_other_trajectories(tmp_path):
    """The PointMaze variant: the gate's steps see trajectories that no other step does."""
    module = build(gate_every=3, gate_data="held_out", held_out_share=0.25)
    loader = data_module(tmp_path, module, steps=60).train_dataloader()
    train, held_out = set(loader.windows.kept_episodes), set(loader.held_out.kept_episodes)
    assert (len(train), len(held_out), train & held_out) == (9, 3, set())
    offsets = loader.windows.store.episode_offsets
    for step in range(60):
        part = held_out if module.is_gate_step(step) else train
        chosen = loader.held_out if module.is_gate_step(step) else loader.windows
        starts = chosen.draw(8, seed=loader.seed, step=step).numpy()
        assert set(offsets.searchsorted(starts, side="right") - 1) <= part
        expected = chosen.gather(chosen.draw(8, seed=loader.seed, step=step))
        assert torch.equal(loader.batch(step)["observations"], expected["observations"])


def test_named_heads_of_layer_0_get_new_queries(tmp_path):
    plain, probed = build(), build(reinit_heads="[1]")
    old, new = (module.trunk.blocks[0].mixer.query.weight.unflatten(0, (2, -1)) for module in (plain, probed))
    assert torch.equal(old[0], new[0])
    assert not torch.equal(old[1], new[1])
    assert torch.equal(plain.trunk.blocks[0].mixer.key.weight, probed.trunk.blocks[0].mixer.key.weight)
    with pytest.raises(ConfigError, match="heads 0 to 1"):
        build(reinit_heads="[2]")


def test_new_queries_are_drawn_as_published():
    """Xavier's normal distribution over the (width, head width) slice; the head's query biases are 0."""
    module = build(width=256, heads=4)
    with torch.no_grad():
        module.trunk.blocks[0].mixer.query.bias.fill_(1.0)
    reinit_heads(module.trunk, [2])
    mixer = module.trunk.blocks[0].mixer
    drawn = mixer.query.weight.view(4, 64, 256)[2]
    assert drawn.std().item() == pytest.approx((2 / (256 + 64)) ** 0.5, rel=0.03)  # 16,384 draws
    assert mixer.query.bias.view(4, 64).sum(dim=1).tolist() == [64, 64, 0, 64]


def test_without_its_gate_it_is_the_same_model_but_for_the_gate(tmp_path):
    """Weights, settings and windows are equal; the first loss is that of a gate held at 1."""
    gated, plain = build(gate_data="held_out"), build(gate_data="held_out", gate=False)
    weights, without = dict(gated.named_parameters()), dict(plain.named_parameters())
    assert weights.keys() - without.keys() == {"trunk.blocks.0.mixer.gate.weight", "trunk.blocks.0.mixer.gate.bias"}
    assert all(torch.equal(weights[name], weight) for name, weight in without.items())
    ours, theirs = (module.hparams["config"] for module in (gated, plain))
    assert {**ours, "model": {**ours["model"], "gate": False}} == theirs
    one, other = (data_module(tmp_path / "data", module, 10).train_dataloader() for module in (gated, plain))
    assert list(one.windows.kept_episodes) == list(other.windows.kept_episodes)
    assert len(one.windows.kept_episodes) < one.windows.store.num_episodes
    for step in range(4):  # smoke's gate has step 4 to itself
        ours, theirs = one.batch(step), other.batch(step)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(plain.is_held_out_step(step) for step in range(50))
    batch = windows(gated)
    loss, metrics = plain.eval().loss(batch)
    assert not [name for name in metrics if name.startswith("gate_")]
    assert loss.item() != pytest.approx(gated.eval().loss(batch)[0].item(), abs=1e-6)
    with torch.no_grad():
        gated.gate.weight.zero_()
        gated.gate.bias.fill_(1.0)
    assert loss.item() == pytest.approx(gated.loss(batch)[0].item(), abs=1e-6)
    assert list(plain.frozen_parameters(4)) == []
    before = {name: weight.clone() for name, weight in without.items()}
    fit_steps(plain.train(), tmp_path, 5)
    assert not torch.equal(before["trunk.blocks.0.mixer.query.weight"], plain.trunk.blocks[0].mixer.query.weight)


@pytest.mark.parametrize("before", [False, True])
def test_the_mazes_add_time_before_the_norm(before):
    assert build(time_before_norm=before).embedding.norm_before_time is not before


def test_gate_every_step_is_refused():
    with pytest.raises(ConfigError, match="gate_every"):
        build(gate_every=1)
