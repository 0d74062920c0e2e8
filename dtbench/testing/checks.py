"""The checks: each builds a model at the preset `smoke` and tries one promise on small random data."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from dtbench.models.base import OfflineModule, SequencePolicy, Window
from dtbench.runs.stack import Stack, StackLoader
from dtbench.testing.material import (
    data_module,
    fit_steps,
    quiet_trainer,
    random_actions,
    random_observations,
    small_store,
    windows,
)
from dtbench.testing.subject import ContractError, Subject
from dtbench.testing.subject import require as _require

#: In exact arithmetic, changing what a model must not see changes nothing: masked terms are exact zeros. What remains
#: is the rounding of float32 sums in another order, relative to the size of the actions.
UNSEEN = 1e-6
#: A stack adds in another order than the lone runs. Measured on our models: 5e-7 of a loss after 50 steps at a rate of
#: 1e-3, and 8e-6 after five of an unstable training. Other dropout masks or windows change a loss by 1e-2 and more.
STACKED = 1e-3
#: A recurrence adds in another order than its parallel form. Measured on our models, relative to the actions' size:
#: 2e-7 in windows of 20 steps.
RECURRENT = 1e-5
#: Everything that a window tells, apart from time.
_CONTENT = ("observations", "actions", "rewards", "returns_to_go", "discounted_returns", "next_observations")
_TIMEOUT_S = 300


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


def _copy(window: Window) -> Window:
    return {name: value.clone() for name, value in window.items()}


@torch.no_grad()
def _act(module: OfflineModule, window: Window) -> Tensor:
    return module.act(_copy(window))


@torch.no_grad()
def _predict(module: SequencePolicy, window: Window) -> Tensor:
    predicted: Tensor = module(_copy(window))
    return predicted


def _seen_at(window: Window, step: int, length: int) -> Window:
    """Return the last `length` steps of an episode that a full window shows, as one acts in its step `step`."""
    seen = {}
    for name, value in window.items():
        before = value.new_zeros(len(value), length, *value.shape[2:])
        seen[name] = torch.cat((before, value[:, : step + 1]), dim=1)[:, -length:].clone()
    seen["actions"][:, -1] = 0  # not taken yet
    return seen


def _loss(module: OfflineModule, window: Window) -> Tensor:
    """Return the loss as the first step would see it."""
    torch.manual_seed(0)
    return copy.deepcopy(module).loss(_copy(window))[0].detach()


def _others(subject: Subject, name: str, values: Tensor, generator: torch.Generator) -> Tensor:
    """Draw other values of an entry of a window, in its shape."""
    if values.is_floating_point():
        return 3 * torch.randn(values.shape, generator=generator)
    draw = random_actions if name == "actions" else random_observations
    return draw(subject.spaces, (values.shape[0], values.shape[1]), generator)


def _differ(first: Tensor, second: Tensor, tolerance: float = UNSEEN) -> bool:
    """Say whether two tensors differ by more than rounding."""
    if first.numel() == 0:
        return False
    size = max(1.0, float(first.abs().max()))
    return not bool((first - second).abs().max() <= tolerance * size)  # NaN differs


def check_act(subject: Subject, folder: Path) -> None:
    """Require actions of the right shape and type, the same for the same window."""
    module = subject.build().eval()
    window = windows(module)
    actions, again = _act(module, window), _act(module, window)
    needed = (len(window["padding_mask"]), subject.spaces.action.size)
    found = f"shape {tuple(actions.shape)}" if isinstance(actions, Tensor) else f"a {type(actions).__name__}"
    has_shape = isinstance(actions, Tensor) and actions.shape == needed
    _require(has_shape, f"act must return shape (B, action size) = {needed}, not {found}.")
    _require(actions.dtype == torch.float32, f"act must return float32, not {actions.dtype}: end it with .float().")
    _require(bool(torch.isfinite(actions).all()), "act returns NaN or infinity with untrained weights.")
    same = torch.equal(actions, again)
    _require(same, "act gives other actions for the same window: it must not draw random numbers in evaluation mode.")


def check_reaction(subject: Subject, folder: Path) -> None:
    """Require another action in another state: a constant would pass every check of what must not matter."""
    module = subject.build().eval()
    window = windows(module)
    seen = window["observations"]
    changed = {**window, "observations": seen + 1.0 if seen.is_floating_point() else 255 - seen}
    moved = float((_act(module, window) - _act(module, changed)).abs().max())
    _require(moved > 1e-4, "The action does not depend on the observation: act returns the same in every state.")


def check_causality(subject: Subject, folder: Path) -> str | None:
    """Require that no action depends on what comes later, nor on the empty slot of the action that is being chosen."""
    module = subject.build().eval()
    window = windows(module)
    changed = _copy(window)
    changed["actions"][:, -1] = 0.5 if changed["actions"].is_floating_point() else 1
    depends = _differ(_act(module, window), _act(module, changed))
    _require(not depends, "act reads the last step's own action, which is not taken yet when the model acts (it is 0).")
    if not isinstance(module, SequencePolicy):
        return "predictions of single steps are checked in subclasses of SequencePolicy only"
    random_numbers = torch.Generator().manual_seed(1)
    for cut in range(1, module.context_length):
        changed = _copy(window)
        for name in _CONTENT:
            later = changed[name][:, cut:]
            changed[name][:, cut:] = _others(subject, name, later, random_numbers)
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
            changed[name][~mask] = filling if changed[name].is_floating_point() else 1
        changed["timesteps"][~mask] = subject.spaces.max_timesteps - 1
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


@torch.no_grad()
def check_state(subject: Subject, folder: Path) -> str | None:
    """Require of a model that carries a state that it acts as on windows, for any of the episodes that are left."""
    module = subject.build().eval()
    window = windows(module)
    window = {name: value[window["padding_mask"].all(dim=1)] for name, value in window.items()}
    count, steps = len(window["padding_mask"]), module.context_length
    state = module.initial_state(count)
    if state is None:
        return "left out: this model acts on windows"
    rows = all(isinstance(part, Tensor) and part.shape[:1] == (count,) for part in state)
    _require(isinstance(state, tuple) and rows, "initial_state must return a tuple of tensors with a row per episode.")
    for step in range(steps):
        if step == steps - 1:  # the first episode has ended
            window = {name: value[1:] for name, value in window.items()}
            state = tuple(part[1:] for part in state)
        expected = _act(module, _seen_at(window, step, steps))
        found, state = module.act_step(_seen_at(window, step, 2), state)
        _require(
            found.shape == expected.shape and found.dtype == expected.dtype,
            f"act_step must return what act does, {expected.dtype} of shape {tuple(expected.shape)}, not {found.dtype} "
            f"of shape {tuple(found.shape)}.",
        )
        _require(
            not _differ(expected, found, RECURRENT),
            f"In step {step} of an episode act_step chooses other actions than act with all its steps in the window.",
        )
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
        quiet_trainer([losses]).fit(stack, train_dataloaders=StackLoader(loaders))
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
    train_in_two_processes({folder: subject})
    require_equal_weights(folder)
    return None


def train_in_two_processes(subjects: Mapping[Path, Subject]) -> None:
    """Train each subject for three steps in its folder, one after the other, in the same two processes."""
    for folder, subject in subjects.items():
        small_store(folder, subject.spaces)
        content = {
            "target": subject.target,
            "config": subject.config.to_dict(),
            "spaces": subject.spaces.to_dict(),
        }
        (folder / "subject.json").write_text(json.dumps(content), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for variable in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(variable, None)
    command = [sys.executable, "-m", "dtbench.testing", *map(str, subjects)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise ContractError(f"Two processes do not finish three steps in {_TIMEOUT_S} s: do they wait?") from error
    lines = done.stderr.strip().splitlines()
    _require(done.returncode == 0, f"Training in two processes fails: {lines[-1] if lines else 'without a message'}")


def require_equal_weights(folder: Path) -> None:
    """Require that two processes saw different windows and ended with equal weights, other than the initial ones."""
    first, second = (json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    differ = all(a != b for a, b in zip(first["windows"], second["windows"], strict=True))
    _require(differ and len(first["windows"]) == 3, "Two processes see the same windows.")
    _require(first["weights"] == second["weights"], "The weights of two processes drift apart.")
    _require(first["weights"] != first["initial_weights"], "Training in two processes does not change the weights.")


CHECKS = (
    Check("act", "act returns (B, action size) float32, the same for the same window", check_act),
    Check("reaction", "the action depends on the current observation", check_reaction, ("act",)),
    Check("causality", "no action depends on what comes later", check_causality, ("act",)),
    Check("padding", "padding changes neither actions nor loss", check_padding, ("act",)),
    Check(
        "state", "a state that is carried along gives the actions of the whole episode's window", check_state, ("act",)
    ),
    Check("learning", "the loss falls", check_learning),
    Check("saving", "a checkpoint loads as plain values and acts alike", check_saving, ("act",)),
    Check("seeding", "a training is a function of its seed", check_seeding),
    Check("resuming", "an interrupted training ends where an uninterrupted one does", check_resuming, ("seeding",)),
    Check("stacking", "seeds that are trained as one equal their lone runs", check_stacking, ("seeding",)),
    Check("two-processes", "two processes share the work and keep equal weights", check_two_processes),
)
