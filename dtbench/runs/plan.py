"""What is to be done: every run of model × task × seed, fully decided before the first begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtbench.config import RunConfig, compose, from_dict, load_preset, task_layers
from dtbench.console import err
from dtbench.data.sources import resolve_sources, unavailable_message
from dtbench.errors import ConfigError, SourceError, UnknownNameError
from dtbench.registry import ModelEntry, model_entry
from dtbench.results.changes import changes_between
from dtbench.results.files import result_path
from dtbench.runs.folder import RunFolder
from dtbench.suites.suites import Suite, Task, check_is_own_name, load_suite, suite_from_dict

EXISTING = ("skip", "rerun", "fail")


@dataclass(frozen=True)
class RunRequest:
    """What a user asks for, on the command line or from Python; both have the defaults that are written here.

    Attributes:
        suite: a suite's name, the path of its YAML file, or a `Suite`.
        models: names, `package.module:Class` or `file.py:Class`; empty takes the models that the suite has
            expectations of.
        output: folder of results; finished runs found there are skipped, interrupted ones are resumed.
        preset: `smoke`, `quick`, `learn` or `paper`; None chooses by the hardware.
        tasks: ids of the suite's tasks; empty takes all whose data can be had.
        source: where the data come from; `auto` takes the suite's order.
        file: a YAML file merged over preset, suite and task.
        overrides: `section.key=value`, as `--set`.
        existing: what to do with a finished run: `skip`, `rerun` or `fail`.
        jobs: runs side by side, each in a process of its own; None chooses by the hardware.
        launcher: `local` for this machine, `ray` for a Ray cluster.
        address: the cluster's; None takes `RAY_ADDRESS`, or starts a cluster of this machine alone.
        retries: how many times a run on a cluster is resumed after its process or node has died.
        fetch_checkpoints: whether checkpoints come back from nodes that do not see the output folder.
        stack_seeds: whether the seeds of a small model are trained as one (`runs/stack.py`).
    """

    suite: str | Suite = "d4rl-short"
    models: Sequence[str] = ()
    output: Path = Path("results")
    preset: str | None = None
    seeds: Sequence[int] = (0,)
    tasks: Sequence[str] = ()
    source: str = "auto"
    file: Path | None = None
    overrides: Sequence[str] = ()
    existing: str = "skip"
    jobs: int | None = None
    launcher: str = "local"
    address: str | None = None
    retries: int = 2
    fetch_checkpoints: bool = False
    stack_seeds: bool = False

    def __post_init__(self) -> None:
        if self.existing not in EXISTING:
            raise ConfigError(
                f"--existing must be {', '.join(EXISTING[:-1])} or {EXISTING[-1]}, not {self.existing!r}."
            )
        if self.launcher not in LAUNCHERS:
            raise UnknownNameError("launcher", self.launcher, LAUNCHERS)
        if self.launcher != "ray" and (self.address is not None or self.fetch_checkpoints):
            option = "--address" if self.address is not None else "--fetch-checkpoints"
            raise ConfigError(f"{option} is for runs on a Ray cluster; add --launcher ray.")
        if self.retries < 0:
            raise ConfigError(f"--retries must be at least 0, not {self.retries}.")
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"--jobs must be at least 1, not {self.jobs}.")
        if not self.seeds:
            raise ConfigError("No seed is named; use e.g. --seeds 0 or --seeds 0-4.")
        whole = all(type(seed) is int and 0 <= seed < MOST_SEED for seed in self.seeds)
        if not whole or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"Seeds must be distinct whole numbers from 0 to 2³² − 1, not {list(self.seeds)}.")
        if self.output.exists() and not self.output.is_dir():
            raise ConfigError(f"--output {self.output} is a file; results need a folder.")


#: The modules of `dtbench.runs.launchers` that do runs.
LAUNCHERS = ("local", "ray")
#: Seeds are below this: NumPy's and gymnasium's generators take 32 bits.
MOST_SEED = 2**32


@dataclass(frozen=True)
class RunPlan:
    """One run, fully decided: nothing about it is looked up later.

    Attributes:
        changes: what the user's file and overrides changed against the preset's configuration, `key=value` with the
            section `model` left out; empty for the preset's own.
    """

    model: ModelEntry
    suite: Suite
    task: Task
    source: str
    preset: str
    config: RunConfig
    changes: tuple[str, ...]
    seed: int
    output: Path

    @property
    def label(self) -> str:
        """Name the run in messages."""
        return f"{self.model.name} · {self.task.id} · seed {self.seed}"

    @property
    def result_path(self) -> Path:
        """Where the result is written: the path is the run's identity."""
        model = f"{self.model.name}+{self.config.hash()}" if self.changes else self.model.name
        return result_path(self.output, self.suite.id, self.source, self.preset, model, self.task.id, self.seed)

    @property
    def folder(self) -> RunFolder:
        """Where checkpoints and logs are kept, beside the result."""
        return RunFolder(self.result_path.with_suffix(""))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON values, for a process of its own."""
        return {
            "model": self.model.address,
            "suite": self.suite.to_dict(),
            "task": self.task.id,
            "source": self.source,
            "preset": self.preset,
            "config": self.config.to_dict(),
            "changes": list(self.changes),
            "seed": self.seed,
            "output": str(self.output.resolve()),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunPlan:
        """Rebuild the plan that `to_dict` described."""
        entry, suite = model_entry(content["model"]), suite_from_dict(content["suite"], "plan.json")
        return cls(
            model=entry,
            suite=suite,
            task=suite.task(content["task"]),
            source=content["source"],
            preset=content["preset"],
            config=from_dict(content["config"], entry.options),
            changes=tuple(content["changes"]),
            seed=content["seed"],
            output=Path(content["output"]),
        )


def default_preset() -> tuple[str, str]:
    """Return the preset for this machine and the reason: `paper` with a CUDA GPU, else `quick`."""
    import torch

    if torch.cuda.is_available():
        return "paper", f"CUDA is present ({torch.cuda.get_device_name(0)})"
    return "quick", "no CUDA GPU is present"


def plan_runs(request: RunRequest) -> list[RunPlan]:
    """Decide every run of model × task × seed, in an order that finishes one model's tasks before the next.

    Raises:
        UnknownNameError: a model, task, preset or source that does not exist.
        ConfigError: a key or a value of the configuration.
        SourceError: no source of a task can be had.
    """
    suite = load_suite(request.suite) if isinstance(request.suite, str) else request.suite
    models = list(dict.fromkeys(request.models)) or suite.expected_models
    if not models:
        raise ConfigError("Name at least one model with --model, e.g. --model dt.")
    check_is_own_name(suite)
    entries = [model_entry(name) for name in models]
    preset = default_preset()[0] if request.preset is None else request.preset
    layer = load_preset(preset)
    sources = _choose_sources(suite, request)
    plans = []
    for entry in entries:
        settings = entry.settings
        composed: dict[str, tuple[RunConfig, tuple[str, ...]]] = {}  # most tasks of a suite are configured alike
        for task, source in sources:
            layers = task_layers(task, settings)
            if layers not in composed:
                composed[layers] = _configure(entry, layer, suite, task, request)
            config, changes = composed[layers]
            plans += [
                RunPlan(entry, suite, task, source, preset, config, changes, seed, request.output)
                for seed in request.seeds
            ]
    return plans


def _choose_sources(suite: Suite, request: RunRequest) -> list[tuple[Task, str]]:
    """Return the selected tasks with the source of each; tasks without data are left out unless they were asked for.

    Raises:
        SourceError: a task that was asked for has no data, or none has.
    """
    selected = suite.select(list(request.tasks))
    sources = resolve_sources(selected, suite.sources, request.source)
    missing = [task for task in selected if task.id not in sources]
    if missing and (request.tasks or len(missing) == len(selected)):
        raise SourceError(unavailable_message(missing[0], request.source))
    if missing:
        names = ", ".join(task.id for task in missing)
        reason = unavailable_message(missing[0], request.source)
        err.print(f"Left out because their data are not available: {names}. {reason}", markup=False)
    return [(task, sources[task.id]) for task in selected if task.id in sources]


def _configure(
    entry: ModelEntry, preset: Mapping[str, Any], suite: Suite, task: Task, request: RunRequest
) -> tuple[RunConfig, tuple[str, ...]]:
    """Return a run's configuration, and what the user's file and overrides changed in the preset's."""
    own = compose(entry.settings, preset=preset, suite=suite, task=task)
    if request.file is None and not request.overrides:
        return own, ()
    changed = compose(
        entry.settings, preset=preset, suite=suite, task=task, file=request.file, overrides=request.overrides
    )
    return changed, tuple(changes_between(own.to_dict(), changed.to_dict()))
