"""Training steps as they are, compiled, with CUDA graphs, and of several seeds as one; and how near each is to a floor.

    python benchmarks/perf/stacked.py [MODEL ...] [--seeds 8] [--batch 64] [--precision 32-true] [--device cpu]
        [--peak FLOPS --bandwidth BYTES] [--rounds 10] [--threads 1]

MODEL is dt, dc, bc (as published) or gpt2_dtma (the size of GPT-2 small, from random weights); by default all but the
last on a CPU, and all on a GPU. In each round every kind takes its turn, in one process; the median over the rounds is
printed.

A step takes at least as long as the larger of two numbers, its floor: FLOPs / peak and bytes / bandwidth. The FLOPs are
those of all matrix products, forward and backward, counted by PyTorch. Of the bytes those are counted that no order of
computing avoids: a trained float32 weight is read in the forward and in the backward pass, its gradient is written, and
AdamW reads weight, gradient and two moments and writes back three of them, 10 × 4 bytes; a frozen one is read twice.
Activations are left out, so that the true floor is higher. Give peak (in the precision that is used) and bandwidth as
the device's maker states them; without them no share is printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from against import say
from stepper import ACTION_DIM, LENGTH, OBSERVATION_DIM, make_windows
from torch.utils.flop_counter import FlopCounterMode

from dtbench.config import COMPILE_MODES, compose, load_preset
from dtbench.data.datamodule import WindowLoader
from dtbench.determinism import seed_torch
from dtbench.hardware import FLOAT32, autocast, keep_freed_memory
from dtbench.models.base import OfflineModule
from dtbench.registry import model_entry
from dtbench.runs.stack import Stack, StackLoader
from dtbench.runs.work import MOST_PARAMETERS
from dtbench.suites.suites import load_suite

MODELS = {
    "dt": (),
    "dc": (),
    "bc": (),
    "gpt2_dtma": ("model.backbone=scratch", "model.layers=12", "model.heads=12", "model.width=768"),
}
BYTES_TRAINED, BYTES_FROZEN = 40, 8


class Bench:
    """One model's kinds of steps on one device."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        self.device = torch.device(options.device)
        self.windows = make_windows(folder, self.build(0)).to(self.device)

    def build(self, seed: int) -> OfflineModule:
        entry, suite = model_entry(self.name), load_suite("d4rl-short")
        preset, task = load_preset("paper"), suite.tasks[0]
        config = compose(entry.settings, preset=preset, suite=suite, task=task, overrides=MODELS[self.name])
        dims = {"observation_dim": OBSERVATION_DIM, "action_dim": ACTION_DIM, "max_timesteps": LENGTH}
        return entry.load()(config, dims, seed).train()

    def loader(self, seed: int) -> WindowLoader:
        return WindowLoader(self.windows, self.options.batch, 10**9, seed)

    def lone(self, compile_: str = "off", seed: int = 0) -> Callable[[], None] | None:
        """Return a step as the Trainer takes it: batch, seed, loss, backward, clip, update, schedule.

        None if the model has nothing to compile.
        """
        module = self.build(seed).to(self.device)
        if compile_ != "off" and not module.compile_training(mode=COMPILE_MODES[compile_]):
            return None
        loader = self.loader(seed)

        def loss(step: int) -> torch.Tensor:
            module.step = step
            seed_torch(seed, step)
            return module.loss(loader.batch(step))[0]

        return self.stepper(module, loss)

    def stack(self) -> Callable[[], None]:
        stack = Stack([self.build(seed) for seed in range(self.options.seeds)]).to(self.device)
        loader = StackLoader([self.loader(seed) for seed in range(self.options.seeds)])
        return self.stepper(stack, lambda step: stack.losses(loader.batch(step), step)[0].sum())

    def stepper(self, module: Any, loss: Callable[[int], torch.Tensor]) -> Callable[[], None]:
        wanted = module.configure_optimizers()
        optimizer, schedule, steps = wanted["optimizer"], wanted["lr_scheduler"]["scheduler"], count()

        def step() -> None:
            with autocast(self.device, self.options.precision):
                value = loss(next(steps))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            module.configure_gradient_clipping(optimizer)
            optimizer.step()
            schedule.step()

        return step

    def in_turn(self) -> Callable[[], None]:
        """Return a step of each seed, one after the other."""
        steps = [step for seed in range(self.options.seeds) if (step := self.lone(seed=seed))]

        def all_steps() -> None:
            for step in steps:
                step()

        return all_steps

    def kinds(self) -> Iterator[tuple[str, int, Callable[[], None] | None]]:
        """Yield each kind's name, how many seeds take a step in it, and the step."""
        seeds = self.options.seeds
        yield "as it is", 1, self.lone()
        yield "compiled", 1, self.lone("default")
        if self.device.type == "cuda":
            yield "CUDA graphs", 1, self.lone("graphs")
        if sum(weight.numel() for weight in self.build(0).parameters()) < MOST_PARAMETERS:
            yield f"{seeds} seeds in turn", seeds, self.in_turn()
            yield f"{seeds} seeds stacked", seeds, self.stack()

    def floor(self) -> float | None:
        """Return the least seconds of one seed's step; None without the device's peak and bandwidth."""
        if not (self.options.peak and self.options.bandwidth):
            return None
        module, batch = self.build(0).to(self.device), self.loader(0).batch(0)
        with FlopCounterMode(display=False) as counter:
            module.loss(batch)[0].backward()
        sizes = ((weight.numel(), weight.requires_grad) for weight in module.parameters())
        moved = sum(number * (BYTES_TRAINED if trained else BYTES_FROZEN) for number, trained in sizes)
        return max(counter.get_total_flops() / self.options.peak, moved / self.options.bandwidth)

    def seconds(self, step: Callable[[], None]) -> float:
        began = time.perf_counter()
        step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], metavar="MODEL")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default=FLOAT32)
    parser.add_argument("--device", default=device)
    parser.add_argument("--peak", type=float, help="FLOPs per second")
    parser.add_argument("--bandwidth", type=float, help="bytes per second")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    names = options.models or list(MODELS)[: None if options.device == "cuda" else -1]
    where = f"{options.device}, {options.threads} threads, torch {torch.__version__}"
    say(f"{where}: {options.precision}, batch {options.batch}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            measure(Bench(name, Path(folder), options))


def measure(bench: Bench) -> None:
    kinds, floor = [(kind, seeds, step) for kind, seeds, step in bench.kinds() if step], bench.floor()
    for _, _, step in kinds:  # compile, record, warm up
        for _ in range(4):
            bench.seconds(step)
    taken: dict[str, list[float]] = {kind: [] for kind, _, _ in kinds}
    for _ in range(bench.options.rounds):
        for kind, _, step in kinds:
            taken[kind].append(bench.seconds(step))
    before = statistics.median(taken["as it is"])
    for kind, seeds, _ in kinds:
        median = statistics.median(taken[kind])
        share = "" if floor is None else f", {100 * seeds * floor / median:.1f} % of the floor's speed"
        say(
            f"{bench.name:10} {kind:16} {1000 * median:8.2f} ms (least {1000 * min(taken[kind]):.2f}), "
            f"{seeds / median:7.1f} steps of a seed per second, {seeds * before / median:.2f} times{share}"
        )


if __name__ == "__main__":
    main()
