"""The contract of every model, for those who write one: `check_model("my_model:LinearPolicy", folder)`.

Each check builds the model at the preset `smoke` and tries one promise on small random data. A broken promise raises
`ContractError`, whose message tells the model's author what is wrong. `dtbench check-model` runs all checks.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os
import random
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from dtbench.config import ModelSettings, RunConfig, compose, load_preset
from dtbench.console import quieten_libraries
from dtbench.data.datamodule import TrajectoryDataModule
from dtbench.data.episodes import Episode
from dtbench.data.store import TrajectoryStore, build_store
from dtbench.data.windows import WindowOptions
from dtbench.errors import DtbenchError
from dtbench.models.base import OfflineModule, SequencePolicy, Window
from dtbench.registry import FILE_MODULES, model_entry
from dtbench.runs.stack import Stack, StackLoader
from dtbench.suites.suites import load_suite

#: Dimensions of the data that models are checked on.
DIMS = {"observation_dim": 5, "action_dim": 2, "max_timesteps": 30}
BATCH = 8
#: In exact arithmetic, changing what a model must not see changes nothing: masked terms are exact zeros. What remains
#: is the rounding of float32 sums in another order, relative to the size of the actions.
UNSEEN = 1e-6
#: A stack adds in another order than the lone runs. Measured on our models: 5e-7 of a loss after 50 steps at a rate of
#: 1e-3, and 8e-6 after five of an unstable training. Other dropout masks or windows change a loss by 1e-2 and more.
STACKED = 1e-3
#: Everything that a window tells, apart from time.
_CONTENT = ("observations", "actions", "rewards", "returns_to_go", "next_observations")
_TIMEOUT_S = 300


class ContractError(DtbenchError):
    """A model breaks its contract; the message says how."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(message)


@dataclass(frozen=True)
class Subject:
    """A model that is checked, with the configuration it is built from."""

    target: str
    model: type[OfflineModule]
    config: RunConfig

    @classmethod
    def find(cls, model: str | type[OfflineModule], overrides: Sequence[str] = ()) -> Subject:
        """Compose the configuration of a model at the preset `smoke`.

        Args:
            model: a name, `package.module:Class`, `FILE.py:Class`, or the class itself.
            overrides: `section.key=value`, as `--set`.

        Raises:
            UnknownNameError: there is no such model.
            ConfigError: the class is not a model, or its configuration is not valid.
        """
        if isinstance(model, str):
            entry = model_entry(model)
            target = entry.address
            subject = cls(target, entry.load(), _smoke_config(entry.settings, overrides))
        else:
            settings = ModelSettings(model.__name__, model.Config)
            subject = cls(_target(model), model, _smoke_config(settings, overrides))
        subject.model.prepare(subject.config.model)
        return subject

    def build(self, seed: int = 0) -> OfflineModule:
        """Build the model with new weights."""
        return self.model(self.config, DIMS, seed)


def _target(model: type[OfflineModule]) -> str:
    """Return how another process finds a class."""
    place = model.__module__
    if place.startswith(FILE_MODULES):
        place = inspect.getfile(model)
    return f"{place}:{model.__qualname__}"


def _smoke_config(settings: ModelSettings, overrides: Sequence[str]) -> RunConfig:
    suite = load_suite("d4rl-short")
    return compose(settings, preset=load_preset("smoke"), suite=suite, task=suite.tasks[0], overrides=overrides)


@dataclass(frozen=True)
class Check:
    """One promise of the contract.

    Attributes:
        name: short name for messages.
        promise: what holds for a model that passes.
        run: tries it in an empty folder; returns a remark or None, and raises `ContractError`.
        needs: names of checks without which this one says nothing.
    """

    name: str
    promise: str
    run: Callable[[Subject, Path], str | None]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a check found: `passed` is None where it was left out because another one failed."""

    check: Check
    passed: bool | None
    message: str


def check_model(model: str | type[OfflineModule], folder: Path, overrides: Sequence[str] = ()) -> None:
    """Run the whole contract over one model and stop at the first broken promise.

    Args:
        model: a name, `package.module:Class`, `FILE.py:Class`, or the class itself.
        folder: an empty folder for data and checkpoints.
        overrides: `section.key=value`, as `--set`.

    Raises:
        ContractError: the model breaks its contract.
        DtbenchError: there is no such model, or it cannot be configured.
    """
    for outcome in run_checks(Subject.find(model, overrides), folder):
        if outcome.passed is False:
            raise ContractError(f"{outcome.check.name}: {outcome.message}")


def run_checks(subject: Subject, folder: Path) -> Iterator[Outcome]:
    """Run all checks in order and yield what each found."""
    quieten_libraries()
    failed: set[str] = set()
    for check in CHECKS:
        missing = [name for name in check.needs if name in failed]
        outcome = (
            Outcome(check, None, f"not checked, because {missing[0]!r} failed")
            if missing
            else _run(check, subject, folder / check.name)
        )
        if outcome.passed is not True:
            failed.add(check.name)
        yield outcome


def _run(check: Check, subject: Subject, folder: Path) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        remark = check.run(subject, folder)
    except ContractError as error:
        return Outcome(check, False, str(error))
    except Exception as error:  # noqa: BLE001 - whatever the model raises is what its author needs to know
        return Outcome(check, False, _describe(error, subject.model))
    return Outcome(check, True, check.promise if remark is None else f"{check.promise} ({remark})")


def _describe(error: Exception, model: type[OfflineModule]) -> str:
    """Say in one sentence what was raised, and where in the model's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(model.__module__), "__file__", None)
    where = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return f"{Path(where.filename).name}, line {where.lineno} raised {type(error).__name__}: {reason}"


# --- what the checks are made of


def model_config(name: str, **model: Any) -> RunConfig:
    """Return the smoke configuration of a model, with changes to its section `model`."""
    return _smoke_config(model_entry(name).settings, [f"model.{key}={value}" for key, value in model.items()])


def build_model(name: str, seed: int = 0) -> OfflineModule:
    """Build a model at the preset `smoke`."""
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
    """Build the store of `episodes` in `folder`."""
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
    """Return the data module that the model asks for, over the small store in `folder`."""
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


class _Losses(Callback):
    """Keep every step's loss."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.values.append(float(outputs["loss"]))


class _StackLosses(Callback):
    """Keep every step's losses of a stack, one per seed."""

    def __init__(self) -> None:
        self.values: list[list[float]] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.values.append(outputs["losses"].tolist())


class _Interruption(Exception):
    """Raised in the middle of a training, as a user's Ctrl-C."""


class _InterruptBefore(Callback):
    """Interrupt the training before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.step:
            raise _Interruption


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
    losses = _Losses()
    saving = [ModelCheckpoint(folder, "latest", every_n_train_steps=checkpoint_every)] if checkpoint_every else []
    data = data_module(folder, module, steps, seed)
    _quiet_trainer([losses, *saving, *callbacks], enable_checkpointing=bool(saving), **trainer).fit(
        module, datamodule=data, ckpt_path=ckpt_path, weights_only=True
    )
    return losses.values


def _quiet_trainer(callbacks: Sequence[Callback], **options: Any) -> lightning.Trainer:
    usual = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "devices": 1}
    fixed = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "use_distributed_sampler": False}
    return lightning.Trainer(callbacks=list(callbacks), **fixed, **{**usual, **options})  # type: ignore[arg-type]


def windows(module: OfflineModule, batch: int = 6, seed: int = 0) -> Window:
    """Return random windows, half of them with left padding where K > 1; pads are zero, as everywhere."""
    steps = module.context_length
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, steps, dtype=torch.bool)
    for row in range(batch // 2):
        mask[row, : (row + 1) % steps] = False
    timesteps = (torch.arange(steps) - (~mask).sum(1, keepdim=True)).clamp(min=0, max=DIMS["max_timesteps"] - 1)
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


def _copy(window: Window) -> Window:
    return {name: value.clone() for name, value in window.items()}


@torch.no_grad()
def _act(module: OfflineModule, window: Window) -> Tensor:
    return module.act(_copy(window))


@torch.no_grad()
def _predict(module: SequencePolicy, window: Window) -> Tensor:
    predicted: Tensor = module(_copy(window))
    return predicted


def _loss(module: OfflineModule, window: Window) -> Tensor:
    """Return the loss as the first step would see it."""
    torch.manual_seed(0)
    return copy.deepcopy(module).loss(_copy(window))[0].detach()


def _differ(first: Tensor, second: Tensor) -> bool:
    """Say whether two tensors differ by more than rounding."""
    if first.numel() == 0:
        return False
    size = max(1.0, float(first.abs().max()))
    return not bool((first - second).abs().max() <= UNSEEN * size)  # NaN differs


# --- the checks


def check_act(subject: Subject, folder: Path) -> None:
    """Require actions of the right shape and type, the same for the same window."""
    module = subject.build().eval()
    window = windows(module)
    actions, again = _act(module, window), _act(module, window)
    needed = (len(window["padding_mask"]), DIMS["action_dim"])
    found = f"shape {tuple(actions.shape)}" if isinstance(actions, Tensor) else f"a {type(actions).__name__}"
    has_shape = isinstance(actions, Tensor) and actions.shape == needed
    _require(has_shape, f"act must return shape (B, action_dim) = {needed}, not {found}.")
    _require(actions.dtype == torch.float32, f"act must return float32, not {actions.dtype}: end it with .float().")
    _require(bool(torch.isfinite(actions).all()), "act returns NaN or infinity with untrained weights.")
    same = torch.equal(actions, again)
    _require(same, "act gives other actions for the same window: it must not draw random numbers in evaluation mode.")


def check_reaction(subject: Subject, folder: Path) -> None:
    """Require another action in another state: a constant would pass every check of what must not matter."""
    module = subject.build().eval()
    window = windows(module)
    changed = {**window, "observations": window["observations"] + 1.0}
    moved = float((_act(module, window) - _act(module, changed)).abs().max())
    _require(moved > 1e-4, "The action does not depend on the observation: act returns the same in every state.")


def check_causality(subject: Subject, folder: Path) -> str | None:
    """Require that no action depends on what comes later, nor on the empty slot of the action that is being chosen."""
    module = subject.build().eval()
    window = windows(module)
    changed = _copy(window)
    changed["actions"][:, -1] = 0.5
    depends = _differ(_act(module, window), _act(module, changed))
    _require(not depends, "act reads the last step's own action, which is not taken yet when the model acts (it is 0).")
    if not isinstance(module, SequencePolicy):
        return "predictions of single steps are checked in subclasses of SequencePolicy only"
    random_numbers = torch.Generator().manual_seed(1)
    for cut in range(1, module.context_length):
        changed = _copy(window)
        for name in _CONTENT:
            later = changed[name][:, cut:]
            changed[name][:, cut:] = 3 * torch.randn(later.shape, generator=random_numbers)
        real = window["padding_mask"][:, :cut]
        before, after = (_predict(module, part)[:, :cut][real] for part in (window, changed))
        _require(
            not _differ(before, after),
            f"The predicted actions of the first {cut} steps change with the steps after them: the model looks ahead.",
        )
    return None


def check_padding(subject: Subject, folder: Path) -> str | None:
    """Require that nothing in padded positions matters, neither for actions nor for the loss."""
    module = subject.build().eval()
    window = windows(module)
    mask = window["padding_mask"]
    if mask.all():
        return "windows of one step have no padding"
    for filling in (-10.0, 1e3):
        changed = _copy(window)
        for name in _CONTENT:
            changed[name][~mask] = filling
        changed["timesteps"][~mask] = DIMS["max_timesteps"] - 1
        changed["terminations"][~mask] = True
        what = f"padded steps (here {filling:g}), where padding_mask is False"
        _require(not _differ(_act(module, window), _act(module, changed)), f"act reads {what}.")
        if isinstance(module, SequencePolicy):
            before, after = (_predict(module, part)[mask] for part in (window, changed))
            _require(not _differ(before, after), f"The predicted actions depend on {what}.")
        before, again, after = (_loss(module, part) for part in (window, window, changed))
        if _differ(before, again):
            return "the loss draws unseeded random numbers, so that only actions could be compared"
        _require(not _differ(before, after), f"The loss depends on {what}: average over real steps only.")
    return None


def check_learning(subject: Subject, folder: Path) -> None:
    """Require a loss that falls on data in which the action is a function of the state."""
    losses = fit_steps(subject.build(), folder, 120)
    _require(bool(np.isfinite(losses).all()), "The loss becomes NaN or infinite within 120 steps.")
    # 120 steps at 1e-3 bring every model well below its start; 0.9 leaves room for the slowest (dropout, tiny width).
    first, last = float(np.mean(losses[:20])), float(np.mean(losses[-20:]))
    falls = last < first - 0.1 * abs(first)
    _require(falls, f"The loss hardly falls in 120 steps, from {first:.4g} to {last:.4g}: the model does not learn.")


def check_saving(subject: Subject, folder: Path) -> None:
    """Require a checkpoint that loads without running code and gives the same actions."""
    module = subject.build()
    fit_steps(module, folder, 4, checkpoint_every=4)
    module.eval()
    path = folder / "latest.ckpt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:
        raise ContractError(
            "The checkpoint does not load with weights_only=True: save tensors and plain values only, no objects."
        ) from error
    _require(state.keys() == module.state_dict().keys(), "The checkpoint holds other tensors than the model.")
    window = windows(module)
    loaded = type(module).from_checkpoint(path).eval()
    same = torch.equal(_act(loaded, window), _act(module, window))
    _require(same, "A model loaded from its checkpoint acts differently: keep everything act needs in its state_dict.")


def check_seeding(subject: Subject, folder: Path) -> None:
    """Require that a training is a function of the seed and of no other random state."""
    runs = {}
    for number, (label, seed) in enumerate((("a", 0), ("b", 0), ("c", 1))):
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        runs[label] = fit_steps(subject.build(seed), folder / label, 3, seed=seed)
    _require(
        runs["a"] == runs["b"],
        "Two trainings of the same seed differ: draw every random number from PyTorch's global generator, which is "
        "seeded at the start and before each step.",
    )
    _require(runs["a"] != runs["c"], "Trainings of different seeds are equal: the seed is not used.")


def check_resuming(subject: Subject, folder: Path) -> None:
    """Require that an interrupted and resumed training ends exactly where an uninterrupted one does."""
    whole, stopped, resumed = subject.build(), subject.build(), subject.build()
    initial = copy.deepcopy(whole.state_dict())
    expected = fit_steps(whole, folder / "whole", 12)
    stopped.load_state_dict(initial)
    with suppress(_Interruption):
        fit_steps(stopped, folder / "parts", 12, checkpoint_every=5, callbacks=[_InterruptBefore(7)])
    torch.manual_seed(999)  # what the process drew before must not matter
    latest = folder / "parts" / "latest.ckpt"
    losses = fit_steps(resumed, folder / "parts", 12, checkpoint_every=5, ckpt_path=latest)
    message = "A training resumed from its checkpoint {}: what changes during training must be in the state_dict."
    _require(losses == expected[5:], message.format("has other losses than an uninterrupted one"))
    ended = resumed.state_dict()
    for name, value in whole.state_dict().items():
        same = torch.equal(value.nan_to_num(), ended[name].nan_to_num())
        _require(same, message.format(f"ends with another {name} than an uninterrupted one"))


def check_stacking(subject: Subject, folder: Path) -> str | None:
    """Require of a model that is `stackable` that seeds which are trained as one have the losses of their lone runs."""
    steps, seeds = 5, (0, 1)
    modules = [subject.build(seed) for seed in seeds]
    if not modules[0].stackable:
        return "left out: this model's seeds are always trained one by one (`stackable` is False)"
    alone = [fit_steps(subject.build(seed), folder, steps, seed=seed) for seed in seeds]
    loaders = [data_module(folder, modules[seed], steps, seed).train_dataloader() for seed in seeds]
    stack, losses = Stack(modules), _StackLosses()
    try:
        _quiet_trainer([losses]).fit(stack, train_dataloaders=StackLoader(loaders))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ContractError(f"`stackable` is True, but torch.vmap cannot take `loss`: {reason}") from error
    for seed, expected in zip(seeds, alone, strict=True):
        differ = [abs(values[seed] - loss) / abs(loss) for values, loss in zip(losses.values, expected, strict=True)]
        _require(
            max(differ) <= STACKED,
            f"`stackable` is True, but a seed that is trained beside another has other losses than alone: they differ "
            f"by up to {max(differ):.1g} of their size within {steps} steps.",
        )
    return None


def check_two_processes(subject: Subject, folder: Path) -> str | None:
    """Require that two processes train on different windows and keep equal weights."""
    if "<locals>" in subject.target or subject.target.startswith("__main__:"):
        return "left out: another process cannot import this class"
    small_store(folder)
    config = folder / "config.json"
    config.write_text(json.dumps(subject.config.to_dict()), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for variable in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(variable, None)
    command = [sys.executable, "-m", "dtbench.testing", subject.target, str(folder)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise ContractError(f"Two processes do not finish three steps in {_TIMEOUT_S} s: do they wait?") from error
    lines = done.stderr.strip().splitlines()
    _require(done.returncode == 0, f"Training in two processes fails: {lines[-1] if lines else 'without a message'}")
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    differ = all(a != b for a, b in zip(first["windows"], second["windows"], strict=True))
    _require(differ and len(first["windows"]) == 3, "Two processes see the same windows.")
    _require(first["weights"] == second["weights"], "The weights of two processes drift apart.")
    _require(first["weights"] != first["initial_weights"], "Training in two processes does not change the weights.")
    return None


CHECKS = (
    Check("act", "act returns (B, action_dim) float32, the same for the same window", check_act),
    Check("reaction", "the action depends on the current observation", check_reaction, ("act",)),
    Check("causality", "no action depends on what comes later", check_causality, ("act",)),
    Check("padding", "padding changes neither actions nor loss", check_padding, ("act",)),
    Check("learning", "the loss falls", check_learning),
    Check("saving", "a checkpoint loads as plain values and acts alike", check_saving, ("act",)),
    Check("seeding", "a training is a function of its seed", check_seeding),
    Check("resuming", "an interrupted training ends where an uninterrupted one does", check_resuming, ("seeding",)),
    Check("stacking", "seeds that are trained as one equal their lone runs", check_stacking, ("seeding",)),
    Check("two-processes", "two processes share the work and keep equal weights", check_two_processes),
)


# --- the second process of `check_two_processes`


class _Digests(Callback):
    """Keep a digest of every batch that this rank sees."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(hashlib.sha256(batch["observations"].numpy().tobytes()).hexdigest())


def _digest(module: torch.nn.Module) -> str:
    values = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def main() -> None:
    """Train a model for three steps in two processes: `python -m dtbench.testing MODEL FOLDER`.

    Lightning starts this command again for the second process.
    """
    from dtbench.config import from_dict

    target, folder = sys.argv[1], Path(sys.argv[2])
    quieten_libraries()
    model = model_entry(target).load()
    config = from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")), model.Config)
    module, digests = model(config, DIMS), _Digests()
    initial = _digest(module)
    fit_steps(module, folder, 3, callbacks=[digests], devices=2, strategy="ddp")
    content = {"windows": digests.seen, "initial_weights": initial, "weights": _digest(module)}
    (folder / f"rank-{module.global_rank}.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
