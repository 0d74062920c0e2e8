"""What an action costs as the context grows: `dt`, which acts on windows, and recurrent policies, which carry a state.

    python benchmarks/perf/contexts.py                      # contexts of 20 to 1,000 steps
    python benchmarks/perf/contexts.py --contexts 20 100 --repeats 5
    python benchmarks/perf/contexts.py --device cuda

Ten environments act together, on one thread, in float32. The context is the steps that an action depends on: those of
the window, or those of the episode so far. The memory is what the policy keeps of the ten episodes (the windows, or the
last two steps and the state) and the most that PyTorch has allocated at once while it acts; weights are left out. All
networks are as published but for `memory: episode`. The policies take their turn in every round; the ratios are those
of the medians to `dt` with the least context.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dtbench.config import compose, load_preset
from dtbench.models.base import OfflineModule
from dtbench.registry import model_entry
from dtbench.runs.timing import random_window
from dtbench.spaces import Spaces, Vector, unit_box
from dtbench.suites.suites import load_suite

MODELS = {"dt": (), **dict.fromkeys(("ds4", "dmamba", "dlstm"), ("model.memory=episode",))}
ENVIRONMENTS = 10
LAST_STEPS = 2


class Case(NamedTuple):
    """A policy at a context: what acts once, and the bytes that it keeps in order to do so."""

    model: str
    context: int
    act: Callable[[], object]
    kept: int
    device: torch.device


def main() -> None:
    """Print a table with a row per policy and context."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[20, 50, 100, 200, 500, 1000])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", type=torch.device, default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    contexts = sorted(asked.contexts)
    cases = [case(name, context, asked.device) for name in MODELS for context in contexts]
    sys.stdout.write(table(cases, measure(cases, asked.repeats)))


def build(name: str, context: int) -> OfflineModule:
    """Build a policy for Hopper that depends on the last `context` steps."""
    entry, suite = model_entry(name), load_suite("d4rl-short")
    overrides = (*MODELS[name], f"training.context_length={context}")
    config = compose(entry.settings, preset=load_preset("paper"), suite=suite, task=suite.tasks[0], overrides=overrides)
    return entry.load()(config, spaces(context)).eval()


def spaces(context: int) -> Spaces:
    """Return Hopper's, with episodes as long as the context or longer."""
    return Spaces(Vector(11), unit_box(3), max(1000, context))


def case(name: str, context: int, device: torch.device) -> Case:
    """Prepare a policy whose episodes have lasted `context` steps.

    The values of a state do not change what a step costs, so it is the initial one.
    """
    module = build(name, context).to(device)
    state = module.initial_state(ENVIRONMENTS)
    seen = random_window(ENVIRONMENTS, context if state is None else LAST_STEPS, spaces(context))
    seen = {name: value.to(device) for name, value in seen.items()}
    if state is None:
        return Case(name, context, lambda: module.act(seen), size(seen.values()), device)
    return Case(name, context, lambda: module.act_step(seen, state), size((*seen.values(), *state)), device)


def size(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of what tensors show."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def memory(each: Case) -> int:
    """Return the bytes that a policy keeps, and the most that is allocated at once while it acts."""
    if each.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(each.device)
        before = torch.cuda.memory_allocated(each.device)
        each.act()
        return each.kept + torch.cuda.max_memory_allocated(each.device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        each.act()
    allocated = most = 0
    for event in sorted(seen.events(), key=lambda event: event.time_range.end):
        allocated += event.self_cpu_memory_usage
        most = max(most, allocated)
    return each.kept + most


@torch.no_grad()
def measure(cases: list[Case], repeats: int) -> list[float]:
    """Return the median seconds of each case's call, all of them in turn."""
    taken: list[list[float]] = [[] for _ in cases]
    for round_ in range(repeats + 1):
        for each, seconds in zip(cases, taken, strict=True):
            began = time.perf_counter()
            each.act()
            if each.device.type == "cuda":
                torch.cuda.synchronize(each.device)
            if round_:  # the first warms up
                seconds.append(time.perf_counter() - began)
    return [statistics.median(seconds) for seconds in taken]


def table(cases: list[Case], seconds: list[float]) -> str:
    """Return a Markdown table; the first case is what all are compared with."""
    needed = [memory(each) for each in cases]
    lines = ["| policy | context | ms per ten actions | of `dt`'s first | memory | of `dt`'s first |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for each, taken, held in zip(cases, seconds, needed, strict=True):
        lines.append(
            f"| `{each.model}` | {each.context:,} | {1000 * taken:.2f} | {taken / seconds[0]:.2f} | "
            f"{held / 1e6:,.2f} MB | {held / needed[0]:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
