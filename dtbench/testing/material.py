"""What the checks are made of: random data that can be learnt, trainings of a few steps, and windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from numpy.typing import NDArray
from torch import Tensor

from dtbench.data.datamodule import TrajectoryDataModule
from dtbench.data.episodes import Episode
from dtbench.data.store import TrajectoryStore, build_store
from dtbench.data.windows import WindowOptions
from dtbench.models.base import OfflineModule, Window
from dtbench.spaces import Discrete, Frames, Spaces
from dtbench.testing.subject import DIMS

BATCH = 8
#: Numbers that decide the action in the random data.
_FEATURES = 5


def episodes(count: int = 12, seed: int = 0, spaces: Spaces = DIMS) -> Iterator[Episode]:
    """Yield random episodes of 3 to 30 steps; the action is a function of the state, so there is something to learn.

    Observations are random numbers; frames show them as the brightness of stripes.
    """
    rng = np.random.default_rng(seed)
    policy = rng.normal(size=(_FEATURES, spaces.action.size))
    for _ in range(count):
        steps = int(rng.integers(3, spaces.max_timesteps + 1))
        features = rng.normal(size=(steps + 1, _FEATURES)).astype(np.float32)
        scores = features[:-1] @ policy
        discrete = isinstance(spaces.action, Discrete)
        ended = np.zeros(steps, dtype=bool)
        ended[-1] = True
        yield Episode(
            observations=_stripes(features, spaces.observation) if isinstance(spaces.observation, Frames) else features,
            actions=scores.argmax(axis=1) if discrete else np.tanh(scores).astype(np.float32),
            rewards=rng.normal(size=steps).astype(np.float32),
            terminations=ended,
            truncations=np.zeros(steps, dtype=bool),
        )


def _stripes(features: NDArray[np.float32], frames: Frames) -> NDArray[np.uint8]:
    """Draw numbers (T, n) as frames (T, height, width) of n stripes."""
    brightness = np.clip(128 + 60 * features, 0, 255).astype(np.uint8)
    stripe = np.arange(frames.height) * features.shape[1] // frames.height
    return np.repeat(brightness[:, stripe][:, :, None], frames.width, axis=2)


def small_store(folder: Path, spaces: Spaces = DIMS) -> TrajectoryStore:
    """Build the store of `episodes` in `folder`."""
    actions: dict[str, Any] = {}
    if isinstance(spaces.action, Discrete):
        actions["action_count"] = spaces.action.count
    else:
        actions |= {"action_low": np.array(spaces.action.low), "action_high": np.array(spaces.action.high)}
    if isinstance(spaces.observation, Frames):
        actions["frame_stack"] = spaces.observation.stack
    return build_store(
        folder / "store", episodes(spaces=spaces), source="test", dataset_id="contract", env_id="none", **actions
    )


def data_module(folder: Path, module: OfflineModule, steps: int, seed: int = 0) -> TrajectoryDataModule:
    """Return the data module that the model asks for, over the small store in `folder`."""
    path = folder / "store"
    if not path.exists():
        small_store(folder, module.spaces)
    wanted: dict[str, Any] = {"return_scale": 10.0}
    wanted["normalize_states"] = not isinstance(module.spaces.observation, Frames)
    return TrajectoryDataModule(
        path,
        WindowOptions(module.context_length, **{**wanted, **module.window_options}),
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

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.values.append(float(outputs["loss"]))


def fit_steps(
    module: OfflineModule,
    folder: Path,
    steps: int,
    *,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    checkpoint_every: int = 0,
    ckpt_path: Path | None = None,
    **trainer: Any,
) -> list[float]:
    """Train for `steps` batches on the small store and return the loss of each."""
    folder.mkdir(parents=True, exist_ok=True)
    losses = Losses()
    saving = [ModelCheckpoint(folder, "latest", every_n_train_steps=checkpoint_every)] if checkpoint_every else []
    data = data_module(folder, module, steps, seed)
    quiet_trainer([losses, *saving, *callbacks], enable_checkpointing=bool(saving), **trainer).fit(
        module, datamodule=data, ckpt_path=ckpt_path, weights_only=True
    )
    return losses.values


def quiet_trainer(callbacks: Sequence[Callback], **options: Any) -> lightning.Trainer:
    """Return a trainer of one process on the CPU that prints and saves nothing unless asked to."""
    usual = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "devices": 1}
    fixed = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "use_distributed_sampler": False}
    return lightning.Trainer(callbacks=list(callbacks), **fixed, **{**usual, **options})  # type: ignore[arg-type]


def windows(module: OfflineModule, batch: int = 6, seed: int = 0) -> Window:
    """Return random windows, half of them with left padding where K > 1; pads are zero, as everywhere."""
    steps, spaces = module.context_length, module.spaces
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, steps, dtype=torch.bool)
    for row in range(batch // 2):
        mask[row, : (row + 1) % steps] = False
    timesteps = (torch.arange(steps) - (~mask).sum(1, keepdim=True)).clamp(min=0, max=spaces.max_timesteps - 1)
    content = (batch, steps)
    window = {
        "observations": random_observations(spaces, content, generator),
        "actions": random_actions(spaces, content, generator),
        "next_observations": random_observations(spaces, content, generator),
        "rewards": torch.randn(content, generator=generator),
        "returns_to_go": torch.randn(content, generator=generator),
        "discounted_returns": torch.randn(content, generator=generator),
        "timesteps": timesteps,
    }
    for name, value in window.items():
        window[name] = value * mask.reshape(*mask.shape, *[1] * (value.dim() - mask.dim()))
    terminations = torch.zeros_like(mask)
    terminations[:, -1] = True
    draws = {"draws": torch.rand(batch, module.draws, generator=generator)} if module.draws else {}
    return {**window, **draws, "terminations": terminations, "padding_mask": mask}


def random_observations(spaces: Spaces, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw observations: (*shape, …) float32, or uint8 of frames."""
    seen = spaces.observation
    if isinstance(seen, Frames):
        return torch.randint(256, (*shape, *seen.shape), dtype=torch.uint8, generator=generator)
    return torch.randn(*shape, *seen.shape, generator=generator)


def random_actions(spaces: Spaces, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw actions: (*shape, size) float32 in [−1, 1], or (*shape) int64."""
    space = spaces.action
    if isinstance(space, Discrete):
        return torch.randint(space.count, shape, generator=generator)
    return torch.rand(*shape, space.size, generator=generator) * 2 - 1
