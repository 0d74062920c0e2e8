"""Suites and tasks: what is measured, read from `benchmarks/suites/*.yaml`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dtbench.errors import ConfigError, UnknownNameError
from dtbench.resources import resource
from dtbench.suites import fields
from dtbench.suites.scores import ReferenceScores

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """One dataset, one environment, its return targets and its reference scores.

    `sources` maps a source's name to the dataset's id there, and `environments` maps those sources whose data come from
    another version of the environment to the id of that version. `env_kwargs` are arguments of the environment's
    constructor in evaluation, e.g. `{repeat_action_probability: 0.25}` for sticky actions. `return_scale` divides
    rewards and returns-to-go in training and in evaluation. The model is scored at the return `score_target`; `targets`
    are further returns, shown as diagnostics. `trajectory_ratio` keeps a random share of the trajectories and
    `top_fraction` the best share by return. `config` and `models` are merged into a run's configuration (`models` holds
    one part per model).

    Raises:
        ConfigError: a field of the wrong type or out of its range.
    """

    id: str
    env_id: str
    sources: dict[str, str]
    reference: ReferenceScores
    return_scale: float
    score_target: float
    targets: tuple[float, ...] = ()
    environments: dict[str, str] = field(default_factory=dict)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    max_episode_steps: int = 1000
    delayed_reward: bool = False
    trajectory_ratio: float = 1.0
    top_fraction: float = 1.0
    config: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field and bring it into its normal form: lists become tuples, numbers floats."""
        with fields.located(f"task {fields.shown(self.id)}"):
            _set(
                self,
                id=fields.name(self.id, "id"),
                env_id=fields.non_empty_text(self.env_id, "env_id"),
                sources=fields.mapping_of(self.sources, "sources", fields.path_of_names),
                return_scale=fields.positive_number(self.return_scale, "return_scale"),
                score_target=fields.number(self.score_target, "score_target"),
                targets=fields.distinct(fields.listed(self.targets, "targets", fields.number), "targets"),
                environments=fields.mapping_of(self.environments, "environments", fields.non_empty_text),
                env_kwargs=fields.plain_mapping(self.env_kwargs, "env_kwargs"),
                max_episode_steps=fields.positive_integer(self.max_episode_steps, "max_episode_steps"),
                delayed_reward=fields.boolean(self.delayed_reward, "delayed_reward"),
                trajectory_ratio=fields.ratio(self.trajectory_ratio, "trajectory_ratio"),
                top_fraction=fields.ratio(self.top_fraction, "top_fraction"),
                config=fields.plain_mapping(self.config, "config"),
                models=fields.mapping_of(self.models, "models", fields.plain_mapping),
            )
            if not isinstance(self.reference, ReferenceScores):
                raise ConfigError(f"reference must be ReferenceScores, not {fields.shown(self.reference)}.")
            if not self.sources:
                raise ConfigError("sources must name at least one dataset.")
            if self.score_target in self.targets:
                raise ConfigError(f"targets repeats the score_target {self.score_target:g}.")

    def environment(self, source: str) -> str:
        """Return the id of the environment in which models trained on a source's data are evaluated."""
        return self.environments.get(source, self.env_id)


@dataclass(frozen=True)
class Expectation:
    """A known answer on a task, with its reason: who scores better than whom, or who reaches the return asked for.

    Every model of `better` scores higher than every one of `worse`; for those of `tracks_target`, the rank correlation
    between the task's targets and the returns is at least `correlation`.

    Raises:
        ConfigError: a field of the wrong type, or neither or both kinds of expectation.
    """

    task: str
    reason: str
    better: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()
    tracks_target: tuple[str, ...] = ()
    correlation: float = 0.9

    def __post_init__(self) -> None:
        """Check every field and bring it into its normal form: lists become tuples."""
        with fields.located(f"expected of {fields.shown(self.task)}"):
            _set(
                self,
                task=fields.name(self.task, "task"),
                reason=fields.non_empty_text(self.reason, "reason"),
                better=fields.distinct(fields.listed(self.better, "better", fields.non_empty_text), "better"),
                worse=fields.distinct(fields.listed(self.worse, "worse", fields.non_empty_text), "worse"),
                tracks_target=fields.listed(self.tracks_target, "tracks_target", fields.non_empty_text),
                correlation=fields.correlation(self.correlation, "correlation"),
            )
            if bool(self.better and self.worse) == bool(self.tracks_target):
                raise ConfigError("give better and worse, or tracks_target.")


@dataclass(frozen=True)
class Suite:
    """A versioned list of tasks. `sources` is the order in which `--source auto` tries them.

    `domain` names what its tasks have in common, if models have settings of their own there: the published ones in
    `baselines/<model>/<domain>.yaml` are merged over a model's others, and a preset's own come from its `domains`.
    `expected` is stated where the right order of models is known; `dtbench run` checks it. `file` is the file that the
    suite was read from, empty for one built in Python.

    Raises:
        ConfigError: a field of the wrong type, tasks of the same id, or a source that the suite does not list.
    """

    name: str
    version: int
    description: str
    sources: tuple[str, ...]
    tasks: tuple[Task, ...]
    config: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    domain: str = ""
    expected: tuple[Expectation, ...] = ()
    file: str = ""

    def __post_init__(self) -> None:
        """Check every field and bring it into its normal form: lists become tuples."""
        with fields.located(f"suite {fields.shown(self.name)}"):
            _set(
                self,
                name=fields.name(self.name, "name"),
                version=fields.positive_integer(self.version, "version"),
                description=fields.text(self.description, "description"),
                sources=fields.distinct(fields.listed(self.sources, "sources", fields.name), "sources"),
                tasks=fields.listed(self.tasks, "tasks", _instance_of(Task)),
                config=fields.plain_mapping(self.config, "config"),
                models=fields.mapping_of(self.models, "models", fields.plain_mapping),
                domain=fields.name(self.domain, "domain") if self.domain != "" else "",
                expected=fields.listed(self.expected, "expected", _instance_of(Expectation)),
                file=fields.text(self.file, "file"),
            )
            for name in ("sources", "tasks"):
                if not getattr(self, name):
                    raise ConfigError(f"{name} must name at least one.")
            self._check_tasks()

    def _check_tasks(self) -> None:
        ids = [task.id for task in self.tasks]
        for task in self.tasks:
            if ids.count(task.id) > 1:
                raise ConfigError(f"two tasks are called {task.id!r}.")
            for what, named in (("sources", task.sources), ("environments", task.environments)):
                unlisted = [source for source in named if source not in self.sources]
                if unlisted:
                    raise ConfigError(f"task {task.id!r}: {what} names the source {unlisted[0]!r}, the suite does not.")
        for expectation in self.expected:
            if expectation.task not in ids:
                raise ConfigError(f"expected: {UnknownNameError('task', expectation.task, ids)}")

    @property
    def id(self) -> str:
        """Name and version as written in results, tables and paths, e.g. `d4rl-short@1`."""
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
        ConfigError: the file is not a suite; the message names the file, the task and the field.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif name in suite_names():
        path = resource("benchmarks", "suites", f"{name}.yaml")
    else:
        raise UnknownNameError("suite", name, suite_names())
    return replace(suite_from_dict(read_mapping(path), str(path)), file=str(path.resolve()))


def check_is_own_name(suite: Suite) -> None:
    """Refuse a suite that has a shipped one's name and version but other tasks or settings: their results would mix.

    Raises:
        ConfigError: naming what differs.
    """
    if suite.name not in suite_names():
        return
    shipped = load_suite(suite.name)
    if suite.version != shipped.version:
        return
    ours = {task.id: task for task in shipped.tasks}
    changed = [f"task {task.id!r}" for task in suite.tasks if task != ours.get(task.id)]
    changed += [name for name in ("config", "models", "domain") if getattr(suite, name) != getattr(shipped, name)]
    if changed:
        raise ConfigError(f"{suite.id} is the name of a shipped suite, whose {changed[0]} differs; rename yours.")


def suite_from_dict(content: Mapping[str, Any], where: str) -> Suite:
    """Build a suite from plain values, as a suite's file holds them or `Suite.to_dict` returns them.

    Args:
        content: the fields of `Suite` except `file`; `defaults` may give fields that all tasks share.
        where: the place that messages name, e.g. the file.

    Raises:
        ConfigError: anything that is not a suite; the message names the place, the task and the field.
    """
    with fields.located(where):
        given = fields.mapping(content, "a suite")
        defaults = fields.mapping(given.pop("defaults", {}), "defaults")
        if "file" in given:
            raise ConfigError("unknown field 'file'.")
        known = fields.known_fields(Suite, given, "a suite")
        entries = fields.listed(known["tasks"], "tasks", lambda entry, _: entry)
        tasks = [_task(entry, defaults, number) for number, entry in enumerate(entries, start=1)]
        expected = fields.listed(known.pop("expected", ()), "expected", _expectation)
    with fields.located(where):
        return Suite(**{**known, "tasks": tuple(tasks), "expected": expected})


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping.

    Raises:
        ConfigError: it is missing, is not YAML, or holds something else.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True, throw_on_missing=True)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except (OmegaConfBaseException, YAMLError, ValueError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not readable YAML: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values.")
    return {str(key): value for key, value in content.items()}


def _task(entry: object, defaults: dict[str, Any], number: int) -> Task:
    content = {**defaults, **fields.mapping(entry, f"task number {number}")}
    task_id = content.get("id")
    with fields.located(f"task {task_id!r}" if isinstance(task_id, str) else f"task number {number}"):
        known = fields.known_fields(Task, content, "a task")
        reference = fields.mapping(known["reference"], "reference")
        with fields.located("reference"):
            known["reference"] = ReferenceScores(**fields.known_fields(ReferenceScores, reference, "reference"))
    return Task(**known)


def _expectation(entry: object, field: str) -> Expectation:
    content = fields.mapping(entry, field)
    with fields.located(field):
        known = fields.known_fields(Expectation, content, "an expectation")
    return Expectation(**known)


def _instance_of(cls: type[T]) -> Callable[[object, str], T]:
    def check(value: object, field: str) -> T:
        if not isinstance(value, cls):
            raise ConfigError(f"{field} must be of the class {cls.__name__}, not {fields.shown(value)}.")
        return value

    return check


def _set(frozen: object, **values: object) -> None:
    """Set fields of a frozen dataclass while it is being made."""
    for key, value in values.items():
        object.__setattr__(frozen, key, value)
