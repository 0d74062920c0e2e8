"""What is to be done: every run of model × task × seed, fully decided before the first begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtbench.config import RunConfig, compose, load_preset, task_layers
from dtbench.console import err
from dtbench.errors import ConfigError, SourceError
from dtbench.registry import ModelEntry, model_entry
from dtbench.suites.suites import Suite, Task


@dataclass(frozen=True)
class RunPlan:
    """One run, fully decided: nothing about it is looked up later."""

    model: ModelEntry
    suite: Suite
    task: Task
    source: str
    preset: str
    config: RunConfig
    is_preset_config: bool
    seed: int
    output: Path

    @property
    def label(self) -> str:
        return f"{self.model.name} · {self.task.id} · seed {self.seed}"

    @property
    def result_path(self) -> Path:
        """Where the result is written: the path is the run's identity."""
        from dtbench.results.files import result_path

        model = self.model.name if self.is_preset_config else f"{self.model.name}+{self.config.hash()}"
        return result_path(self.output, self.suite.id, self.source, self.preset, model, self.task.id, self.seed)

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs are kept, beside the result."""
        return self.result_path.with_suffix("")


def default_preset() -> tuple[str, str]:
    """Return the preset for this machine and the reason: `paper` with a CUDA GPU, else `quick`."""
    import torch

    if torch.cuda.is_available():
        return "paper", f"CUDA is present ({torch.cuda.get_device_name(0)})"
    return "quick", "no CUDA GPU is present"


def plan_runs(
    suite: Suite,
    models: Sequence[str],
    *,
    output: Path,
    preset: str,
    seeds: Sequence[int] = (0,),
    tasks: Sequence[str] | None = None,
    source: str = "auto",
    file: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[RunPlan]:
    """Decide every run of model × task × seed, in an order that finishes one model's tasks before the next.

    Raises:
        UnknownNameError: a model, task, preset or source that does not exist.
        ConfigError: a key or a value of the configuration.
        SourceError: no source of a task can be had.
    """
    from dtbench.data.sources import resolve_sources, why_not

    if not models:
        raise ConfigError("Name at least one model with --model, e.g. --model dt.")
    if len(set(seeds)) != len(seeds) or any(seed < 0 for seed in seeds):
        raise ConfigError(f"Seeds must be distinct and not negative, not {list(seeds)}.")
    entries = [model_entry(name) for name in dict.fromkeys(models)]
    layer = load_preset(preset)
    selected = suite.select(list(tasks or []))
    sources = resolve_sources(selected, suite.sources, source)
    without = [task for task in selected if task.id not in sources]
    if without and (tasks or len(without) == len(selected)):
        raise SourceError(why_not(without[0], source))
    if without:  # nobody asked for these in particular
        names = ", ".join(task.id for task in without)
        err.print(f"Left out, for want of data: {names}. {why_not(without[0], source)}", markup=False)
    plans = []
    for entry in entries:
        composed: dict[str, tuple[RunConfig, bool]] = {}  # most tasks of a suite are configured alike
        for task in selected:
            if task.id not in sources:
                continue
            chosen = sources[task.id]
            layers = task_layers(task, entry.name)
            if layers not in composed:
                composed[layers] = _configure(entry, layer, suite, task, file, overrides)
            config, same = composed[layers]
            plans += [RunPlan(entry, suite, task, chosen, preset, config, same, seed, Path(output)) for seed in seeds]
    return plans


def _configure(
    entry: ModelEntry, preset: dict[str, Any], suite: Suite, task: Task, file: Path | None, overrides: Sequence[str]
) -> tuple[RunConfig, bool]:
    """Return a run's configuration, and whether the user's file and overrides left it as the preset has it."""
    typed = entry.load().Config
    config = compose(entry.name, typed, entry.defaults, preset, suite, task, file, overrides)
    if file is None and not overrides:
        return config, True
    return config, config.hash() == compose(entry.name, typed, entry.defaults, preset, suite, task).hash()
