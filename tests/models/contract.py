"""The one tester that every model must pass; `test_contract.py` runs it over the registry.

A model from outside can be tested the same way:

    from tests.contract import check_model
    check_model("my_model", tmp_path)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from dtbench.config import RunConfig, compose, load_preset
from dtbench.data.datamodule import TrajectoryDataModule
from dtbench.data.episodes import Episode
from dtbench.data.store import TrajectoryStore, build_store
from dtbench.data.windows import WindowOptions
from dtbench.models.base import OfflineModule
from dtbench.registry import model_entry
from dtbench.suites.suites import load_suite

DIMS = {"observation_dim": 5, "action_dim": 2, "max_timesteps": 30}
BATCH = 8
# Changing what a model must not see changes nothing at all in exact arithmetic; masked softmax terms are exact zeros,
# so what remains is the rounding of differently blocked sums in fp32.
UNSEEN = 1e-6


def model_config(name: str, **model: Any) -> RunConfig:
    """Return the smoke configuration of a model, with changes to its section `model`."""
    suite = load_suite("d4rl-short")
    overrides = [f"model.{key}={value}" for key, value in model.items()]
    settings = model_entry(name).settings
    return compose(settings, preset=load_preset("smoke"), suite=suite, task=suite.tasks[0], overrides=overrides)


def build_model(name: str, seed: int = 0) -> OfflineModule:
    return model_entry(name).load()(model_config(name), DIMS, seed)


def episodes(count: int = 12, seed: int = 0) -> Iterator[Episode]:
    """Yield random episodes of 3 to 30 steps; the action is a function of the state, so there is something to learn."""
    rng = np.random.default_rng(seed)
    policy = rng.normal(size=(DIMS["observation_dim"], DIMS["action_dim"]))
    for _ in range(count):
        steps = int(rng.integers(3, DIMS["max_timesteps"] + 1))
        observations = rng.normal(size=(steps + 1, DIMS["observation_dim"])).astype(np.float32)
        ended = np.zeros(steps, dtype=bool)
        ended[-1] = True
        yield Episode(
            observations=observations,
            actions=np.tanh(observations[:-1] @ policy).astype(np.float32),
            rewards=rng.normal(size=steps).astype(np.float32),
            terminations=ended,
            truncations=np.zeros(steps, dtype=bool),
        )


def small_store(folder: Path) -> TrajectoryStore:
    low, high = -np.ones(DIMS["action_dim"], np.float32), np.ones(DIMS["action_dim"], np.float32)
    return build_store(
        folder / "store",
        episodes(),
        source="test",
        dataset_id="contract",
        env_id="none",
        action_low=low,
        action_high=high,
    )


def data_module(folder: Path, module: OfflineModule, steps: int, seed: int = 0) -> TrajectoryDataModule:
    path = folder / "store"
    if not path.exists():
        small_store(folder)
    return TrajectoryDataModule(
        path,
        WindowOptions(module.context_length, **{"return_scale": 10.0, **module.window_options}),
        batch_size=BATCH,
        steps=steps,
        seed=seed,
        held_out_share=module.held_out_share,
        is_held_out_step=module.is_held_out_step,
    )


class Losses(Callback):
    """Keep every step's loss."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(float(outputs["loss"]))


class StopBefore(Callback):
    """Interrupt the training in the middle, as a user would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.step:
            raise RuntimeError("stopped by the test")


def fit_steps(
    module: OfflineModule,
    folder: Path,
    steps: int,
    *,
    seed: int = 0,
    callbacks: tuple[Callback, ...] = (),
    checkpoint_every: int = 0,
    ckpt_path: Path | None = None,
    **trainer: Any,
) -> list[float]:
    """Train for `steps` batches and return the loss of each."""
    folder.mkdir(parents=True, exist_ok=True)
    losses = Losses()
    saving = [ModelCheckpoint(folder, "latest", every_n_train_steps=checkpoint_every)] if checkpoint_every else []
    lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=bool(saving),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[losses, *saving, *callbacks],
        **{"devices": 1, **trainer},
    ).fit(module, datamodule=data_module(folder, module, steps, seed), ckpt_path=ckpt_path, weights_only=True)
    return losses.values


def windows(module: OfflineModule, batch: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random windows, half of them with left padding; pads are zero, as everywhere."""
    steps = module.context_length
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, steps, dtype=torch.bool)
    for row in range(batch // 2):
        mask[row, : (row + 1) % steps] = False
    timesteps = (torch.arange(steps) - (~mask).sum(1, keepdim=True)).clamp(min=0)
    window = {
        "observations": torch.randn(batch, steps, DIMS["observation_dim"], generator=generator),
        "actions": torch.rand(batch, steps, DIMS["action_dim"], generator=generator) * 2 - 1,
        "next_observations": torch.randn(batch, steps, DIMS["observation_dim"], generator=generator),
        "rewards": torch.randn(batch, steps, generator=generator),
        "returns_to_go": torch.randn(batch, steps, generator=generator),
        "timesteps": timesteps,
    }
    for name, value in window.items():
        shape = mask if value.dim() == 2 else mask[..., None]
        window[name] = value * shape
    terminations = torch.zeros_like(mask)
    terminations[:, -1] = True
    return {**window, "terminations": terminations, "padding_mask": mask}


def check_fit(name: str, folder: Path) -> None:
    """The loss goes down on data in which the action is a function of the state."""
    module = build_model(name)
    losses = fit_steps(module, folder, 120)
    assert np.isfinite(losses).all()
    # 120 steps at 1e-3 bring every model well under its start; 0.9 leaves room for the slowest (dropout, tiny width).
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])


def check_act(name: str, folder: Path) -> None:
    """Actions have the shape and type the environments take, lie within the box, and are the same twice."""
    module = build_model(name).eval()
    window = windows(module)
    with torch.no_grad():
        actions, again = module.act(window), module.act(window)
    assert actions.shape == (6, DIMS["action_dim"])
    assert actions.dtype == torch.float32
    assert torch.equal(actions, again)
    assert actions.abs().max() <= 1


def check_act_follows_the_window(name: str, folder: Path) -> None:
    """The action depends on the current state; a constant would pass every invariance test."""
    module = build_model(name).eval()
    window = windows(module)
    changed = {**window, "observations": window["observations"] + 1.0}
    with torch.no_grad():
        assert (module.act(window) - module.act(changed)).abs().max() > 1e-4


def check_causality(name: str, folder: Path) -> None:
    """Footgun 2: changing a later step never changes an earlier action. Models that look at one step pass trivially."""
    module = build_model(name).eval()
    steps = module.context_length
    window = windows(module)
    for cut in range(1, steps):
        changed = {key: value.clone() for key, value in window.items()}
        for key in ("observations", "actions", "rewards", "returns_to_go"):
            changed[key][:, cut:] = torch.randn_like(changed[key][:, cut:]) * 3
        with torch.no_grad():
            difference = predictions(module, window)[:, :cut] - predictions(module, changed)[:, :cut]
        assert difference[window["padding_mask"][:, :cut]].abs().max() < UNSEEN
    # … nor does the action of the same step, which is not taken yet when the model acts.
    changed = {**window, "actions": window["actions"].clone()}
    changed["actions"][:, -1] = 0.5
    with torch.no_grad():
        assert (module.act(window) - module.act(changed)).abs().max() < UNSEEN


def check_padding(name: str, folder: Path) -> None:
    """Footguns 3 and 8: what stands in padded positions changes nothing, not even −10 or 1e3."""
    module = build_model(name).eval()
    window = windows(module)
    mask = window["padding_mask"]
    assert not mask.all()
    for filling in (-10.0, 1e3):
        changed = {key: value.clone() for key, value in window.items()}
        for key in ("observations", "actions", "rewards", "returns_to_go"):
            changed[key][~mask] = filling
        changed["timesteps"][~mask] = DIMS["max_timesteps"] - 1
        with torch.no_grad():
            assert (predictions(module, window) - predictions(module, changed))[mask].abs().max() < UNSEEN
            assert (module.act(window) - module.act(changed)).abs().max() < UNSEEN
        torch.manual_seed(0)
        expected = module.loss(window)[0]
        torch.manual_seed(0)
        assert torch.allclose(module.loss(changed)[0], expected, atol=UNSEEN)


def predictions(module: OfflineModule, window: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the model's action at every step (B, K, action_dim): sequence models at once, others step by step."""
    if hasattr(module, "trunk"):
        return module(window)
    steps = [{key: value[:, : step + 1] for key, value in window.items()} for step in range(module.context_length)]
    return torch.stack([module.act(part) for part in steps], dim=1)


def check_save_and_load(name: str, folder: Path) -> None:
    """Footgun 19: the checkpoint loads with `weights_only=True` and gives equal actions."""
    module = build_model(name)
    fit_steps(module, folder, 4, checkpoint_every=4)
    module.eval()
    path = folder / "latest.ckpt"
    assert torch.load(path, weights_only=True)["state_dict"].keys() == module.state_dict().keys()
    loaded = type(module).from_checkpoint(path).eval()
    window = windows(module)
    with torch.no_grad():
        assert torch.equal(loaded.act(window), module.act(window))


def check_resume(name: str, folder: Path) -> None:
    """Interrupted at step 7 and resumed from step 5's checkpoint: same losses, same weights as without interruption."""
    whole = build_model(name)
    expected = fit_steps(whole, folder / "whole", 12)
    stopped = build_model(name)
    try:
        fit_steps(stopped, folder / "parts", 12, checkpoint_every=5, callbacks=(StopBefore(7),))
    except RuntimeError as error:
        assert "stopped by the test" in str(error)  # noqa: PT017 - anything else is a real failure
    resumed = build_model(name, seed=0)
    torch.manual_seed(999)  # what the process drew before must not matter
    losses = fit_steps(resumed, folder / "parts", 12, ckpt_path=folder / "parts" / "latest.ckpt")
    assert losses == expected[5:]
    for (key, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True, msg=key)


def check_seeds(name: str, folder: Path) -> None:
    """The same seed gives the same run, another seed another; seed 0 is a seed (footgun 11)."""
    runs = {}
    for label, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(runs))  # the caller's random state must not matter
        runs[label] = fit_steps(build_model(name, seed), folder / label, 3, seed=seed)
    assert runs["a"] == runs["b"]
    assert runs["a"] != runs["c"]


def check_two_processes(name: str, folder: Path) -> None:
    """Footgun 20: under DDP each rank sees its own windows, and the weights stay synchronised."""
    small_store(folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    for variable in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(variable, None)
    command = [sys.executable, "-m", "tests.models.ddp_worker", name, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert len(first["windows"]) == len(second["windows"]) == 3
    assert all(a != b for a, b in zip(first["windows"], second["windows"], strict=True))
    assert first["weights"] == second["weights"]
    assert first["weights"] != first["initial_weights"]


CHECKS = (
    check_fit,
    check_act,
    check_act_follows_the_window,
    check_causality,
    check_padding,
    check_save_and_load,
    check_resume,
    check_seeds,
    check_two_processes,
)


def check_model(name: str, folder: Path) -> None:
    """Run the whole contract on one model."""
    for check in CHECKS:
        check(name, folder / check.__name__)
