"""Suites and tasks: what is measured, read from `benchmarks/suites/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dtbench.errors import ConfigError, UnknownNameError
from dtbench.resources import resource
from dtbench.suites.scores import ReferenceScores


@dataclass(frozen=True)
class Task:
    """One dataset, one environment, its return targets and its reference scores.

    `sources` maps a source's name to the dataset's id there, and `environments` those sources whose data come from
    another version of the environment to that one's id. `return_scale` divides rewards and returns-to-go, in
    training and in evaluation alike. `score_target` is the one return that is asked for when the model is scored;
    `targets` are further ones, shown as diagnostics. `trajectory_ratio` keeps a random share of the trajectories
    and `top_fraction` the best share by return. `config` and `models` are merged into a run's configuration (the
    second for the model named by the key).
    """

    id: str
    env_id: str
    sources: dict[str, str]
    reference: ReferenceScores
    return_scale: float
    score_target: float
    targets: tuple[float, ...] = ()
    environments: dict[str, str] = field(default_factory=dict)
    max_episode_steps: int = 1000
    delayed_reward: bool = False
    trajectory_ratio: float = 1.0
    top_fraction: float = 1.0
    config: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)

    def environment(self, source: str) -> str:
        """Return the id of the environment in which models trained on a source's data are evaluated."""
        return self.environments.get(source, self.env_id)


@dataclass(frozen=True)
class Expectation:
    """A known answer on a task, with its reason: who scores better than whom, or who gets what is asked for.

    Every model of `better` scores higher than every one of `worse`; for those of `tracks_target`, the rank correlation
    between the task's targets and the returns is at least `correlation`.
    """

    task: str
    reason: str
    better: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()
    tracks_target: tuple[str, ...] = ()
    correlation: float = 0.9


@dataclass(frozen=True)
class Suite:
    """A versioned list of tasks. `sources` is the order in which `--source auto` tries them.

    `expected` is stated where the right order of models is known; `dtbench run` checks it.
    """

    name: str
    version: int
    description: str
    sources: tuple[str, ...]
    tasks: tuple[Task, ...]
    config: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    expected: tuple[Expectation, ...] = ()
    file: str = ""

    @property
    def id(self) -> str:
        """Name and version as they stand in results, tables and paths, e.g. `d4rl-short@1`."""
        return f"{self.name}@{self.version}"

    @property
    def expected_models(self) -> list[str]:
        """Return the models that something is expected of, in the order of the file."""
        named = (name for e in self.expected for name in (*e.tracks_target, *e.better, *e.worse))
        return list(dict.fromkeys(named))

    def task(self, task_id: str) -> Task:
        """Return the task called `task_id`; raise `UnknownNameError` otherwise."""
        for task in self.tasks:
            if task.id == task_id:
                return task
        raise UnknownNameError("task", task_id, [task.id for task in self.tasks])

    def select(self, task_ids: list[str] | None) -> list[Task]:
        """Return the named tasks in the suite's order, or all of them."""
        if not task_ids:
            return list(self.tasks)
        wanted = {self.task(task_id).id for task_id in task_ids}
        return [task for task in self.tasks if task.id in wanted]

    def to_dict(self) -> dict[str, Any]:
        """Return the whole suite as plain values, for `--json`."""
        content = asdict(self)
        del content["file"]
        return content


def suite_names() -> list[str]:
    """Return the names of the shipped suites."""
    return sorted(path.stem for path in resource("benchmarks", "suites").glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """Load a shipped suite by name, or any suite by the path of its YAML file.

    Raises:
        UnknownNameError: no such suite.
        ConfigError: the file is not a suite; the message names the task and the field.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else resource("benchmarks", "suites", f"{name}.yaml")
    if not path.is_file():
        raise UnknownNameError("suite", name, suite_names())
    return _parse_suite({**read_mapping(path), "file": str(path.resolve())}, str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping.

    Raises:
        ConfigError: it is missing, is not YAML, or holds something else.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except (OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not readable YAML: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values.")
    return {str(key): value for key, value in content.items()}


def _parse_suite(raw: dict[str, Any], path: str) -> Suite:
    defaults = raw.pop("defaults", {})
    tasks = tuple(_parse_task({**defaults, **entry}, path) for entry in raw.pop("tasks", []))
    if not tasks:
        raise ConfigError(f"{path}: a suite needs at least one task.")
    raw["sources"] = tuple(raw.get("sources", ()))
    raw["expected"] = tuple(_parse_expectation(entry, path) for entry in raw.get("expected", ()))
    suite = _construct(Suite, {**raw, "tasks": tasks}, path)
    for task in suite.tasks:
        unlisted = set(task.sources) - set(suite.sources)
        if unlisted:
            raise ConfigError(f"{path}: task {task.id} names the source {unlisted.pop()!r}, the suite does not.")
    for expectation in suite.expected:
        suite.task(expectation.task)
    return suite


def _parse_task(raw: Mapping[str, Any], path: str) -> Task:
    where = f"{path}, task {raw.get('id', '?')}"
    fields = dict(raw)
    fields["reference"] = _construct(ReferenceScores, fields.get("reference", {}), f"{where}, reference")
    fields["targets"] = tuple(float(target) for target in fields.get("targets", ()))
    return _construct(Task, fields, where)


def _parse_expectation(raw: Mapping[str, Any], path: str) -> Expectation:
    lists = ("better", "worse", "tracks_target")
    fields = {key: tuple(value) if key in lists else value for key, value in raw.items()}
    expectation: Expectation = _construct(Expectation, fields, f"{path}, expected")
    if bool(expectation.better and expectation.worse) == bool(expectation.tracks_target):
        raise ConfigError(f"{path}, expected of {expectation.task}: give better and worse, or tracks_target.")
    return expectation


def _construct(cls: Any, fields: Mapping[str, Any], where: str) -> Any:
    known = cls.__dataclass_fields__
    unknown = [key for key in fields if key not in known]
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(known)}.")
    try:
        return cls(**fields)
    except TypeError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix(cls.__name__ + '.__init__() ')}.") from error
