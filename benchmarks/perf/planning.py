"""Tokens per second and seconds per action of Trajectory Transformer's search for plans, with and without the cache.

    python benchmarks/perf/planning.py                                     # the settings of `quick`, 10 environments
    python benchmarks/perf/planning.py --preset paper --task halfcheetah-medium --device cuda
    python benchmarks/perf/planning.py --set model.beam_width=32 --environments 1 --uncached

The model is untrained and the windows are random and full: a search takes as many tokens whatever it finds. Counted are
the tokens that are drawn, those of sequences that are dropped later among them. Without the cache every token computes
all tokens before it again, as in the reference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dtbench.config import compose, load_preset
from dtbench.hardware import autocast
from dtbench.models.parts.cache import KeyValueCache
from dtbench.models.tt import CachedSequences, TrajectoryTransformer
from dtbench.registry import model_entry
from dtbench.runs.timing import random_window
from dtbench.spaces import Spaces, Vector, unit_box
from dtbench.suites.suites import load_suite

#: Sizes of observations and actions.
SIZES = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6)}


class UncachedSequences(CachedSequences):
    """The same sequences, which keep nothing."""

    def logits(self) -> Tensor:
        self._cache, self._computed = KeyValueCache(len(self.model.trunk.blocks), self._most), 0
        return super().logits()


class Uncached(TrajectoryTransformer):
    """The same model, whose searches keep nothing."""

    def sequences(self, tokens: Tensor, most: int) -> CachedSequences:
        return UncachedSequences(self, tokens, most)


def main() -> None:
    """Time searches and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--task", default="hopper-medium", help="a task of d4rl-short")
    parser.add_argument("--environments", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--uncached", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    kind = Uncached if asked.uncached else TrajectoryTransformer
    model, precision = build(kind, asked.preset, asked.task, asked.overrides)
    figures = measure(model, precision, asked.environments, asked.rounds, torch.device(asked.device))
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


def build(
    kind: type[TrajectoryTransformer], preset: str, task_id: str, overrides: list[str]
) -> tuple[TrajectoryTransformer, str]:
    """Return an untrained model as it would be configured for a task, and its precision."""
    suite = load_suite("d4rl-short")
    task = next(task for task in suite.tasks if task.id == task_id)
    settings = model_entry("tt").settings
    config = compose(settings, preset=load_preset(preset), suite=suite, task=task, overrides=overrides)
    observation, action = SIZES[task_id.partition("-")[0]]
    spaces = Spaces(Vector(observation), unit_box(action), task.max_episode_steps)
    return kind(config, spaces).eval(), config.hardware.precision


def measure(
    model: TrajectoryTransformer, precision: str, environments: int, rounds: int, device: torch.device
) -> dict[str, Any]:
    """Time whole searches of all environments at once."""
    window = random_window(environments, model.context_length, model.spaces, model.draws)
    window = {name: value.to(device) for name, value in window.items()}
    model.to(device)
    with torch.no_grad(), autocast(device, precision):
        _timed(lambda: model.act(window), device)  # warms up
        seconds = statistics.median(_timed(lambda: model.act(window), device) for _ in range(rounds))
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": precision,
        "cached": not isinstance(model, Uncached),
        "environments": environments,
        **{name: getattr(model.options, name) for name in ("horizon", "beam_width", "n_expand", "plan_context")},
        "tokens_per_s": round(environments * tokens_per_search(model) / seconds),
        "s_per_search": round(seconds, 4),
        "s_per_action": round(seconds / environments, 4),
    }


def tokens_per_search(model: TrajectoryTransformer) -> int:
    """Count the tokens that are drawn for one environment."""
    options, (observation, action) = model.options, model.sizes
    judged = options.horizon * options.beam_width * options.n_expand * (action + 2)
    return judged + (options.horizon - 1) * options.beam_width * observation


def _timed(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
