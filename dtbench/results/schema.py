"""The record of one run: its parts, what every field means, and what a record must hold to be read.

On disk a result is one JSON object with the fields of `Result` and `schema_version`. Non-finite floats have no place in
JSON: in a configuration, a loss and the diagnostics during training they are stored as the strings "nan", "inf" and
"-inf"; the scores of a run with status "ok" must be finite. Unknown fields are ignored when a result is read.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from dtbench._version import __version__
from dtbench.environments.make import canonical_id
from dtbench.errors import ResultError
from dtbench.results.provenance import Provenance, now, provenance, without_folders
from dtbench.results.records import (
    AnyFloat,
    Natural,
    NotNegative,
    Positive,
    WrongFieldError,
    is_number,
    read_value,
    shown,
    storable,
)
from dtbench.suites.scores import ReferenceScores

#: The version that is written; older ones are read through `upgrade`.
SCHEMA_VERSION = 2

DONE, FAILED, INTERRUPTED = "ok", "failed", "interrupted"
STATUSES = (DONE, FAILED, INTERRUPTED)


@dataclass(frozen=True)
class SuiteRecord:
    """The suite a run belongs to."""

    name: str
    version: int

    @property
    def id(self) -> str:
        """Return name and version as they appear in paths and titles, e.g. `d4rl-short@1`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class TaskRecord:
    """What was measured.

    Attributes:
        id: the task's id in its suite.
        source: where the data came from, e.g. `minari` or `local`.
        dataset_id: the dataset's id at its source.
        fingerprint: sha256 over the dataset's content; None if the run ended before the data were opened.
        env_id: the environment in which the model was evaluated.
        reference: the returns that score 0 and 1, and the name of their table.
        score_target: the return asked for when the model is scored, in units of the environment's return.
        return_scale: rewards and returns-to-go were divided by it; None if an early version did not record it.
        kept_trajectories: the trajectories trained on, by number in the dataset; None means all.
    """

    id: str
    source: str
    dataset_id: str
    fingerprint: str | None
    env_id: str
    reference: ReferenceScores
    score_target: float
    return_scale: float | None = None
    kept_trajectories: list[Natural] | None = None


@dataclass(frozen=True)
class ModelRecord:
    """What was trained.

    Attributes:
        name: the model's name, or `package.module:Class`.
        config_hash: hash over the part of the configuration that decides the result.
        is_preset_config: whether the configuration is the preset's, unchanged by the user.
        config: the whole configuration, section by section.
        initial_weights: description of the weights that training started from; None if the run ended before the
            model was built.
        changes: what the user changed in the preset's configuration, as `key=value` (`backbone=scratch`,
            `training.steps=2000`; the section `model.` is left out); empty for the preset's own configuration, None
            if it was not recorded.
    """

    name: str
    config_hash: str
    is_preset_config: bool
    config: dict[str, Any]
    initial_weights: str | None = None
    changes: list[str] | None = None

    @property
    def folder(self) -> str:
        """Return the name under which the model's results are stored; a changed configuration adds its hash."""
        return self.name if self.is_preset_config else f"{self.name}+{self.config_hash}"


@dataclass(frozen=True)
class EpisodeScores:
    """Evaluation episodes at one return target; the lists have one entry per episode.

    Attributes:
        returns: undiscounted sums of the environment's rewards.
        lengths: numbers of environment steps.
        normalized: normalised scores, 0–1 between the reference returns.
    """

    returns: list[float]
    lengths: list[Positive]
    normalized: list[float]

    @property
    def mean(self) -> float:
        """Return the mean normalised score (0–1)."""
        return float(np.mean(self.normalized))


@dataclass(frozen=True)
class Scores(EpisodeScores):
    """The episodes at the task's score target, which are the run's score, and diagnostics.

    Attributes:
        per_target: target → episodes, for the score target and the task's further targets.
        during_training: (step, mean normalised score) of evaluations during training; None if there were none.
    """

    per_target: dict[str, EpisodeScores]
    during_training: list[tuple[Natural, AnyFloat]] | None = None


@dataclass(frozen=True)
class TrainingRecord:
    """How the training went.

    Attributes:
        steps: gradient steps.
        wall_s: wall time spent in training, in seconds; the parts of an interrupted run are added up.
        steps_per_s: gradient steps per second.
        device: name of the GPU, or `cpu`.
        precision: Lightning's precision, e.g. `32-true`.
        world_size: processes that trained together.
        final_loss: the last training loss; None if none was logged.
        checkpoint_sha256: checksum of the file with the trained weights; None if it was not recorded.
        effective_batch: windows per step over all processes; None if it was not recorded.
        stacked_seeds: the seeds that were trained as one with this run, its own among them; time and speed are then
            those of all together. None if it was trained alone.
        trackers: tracker → the run's id there; None if none was used.
    """

    steps: Positive
    wall_s: NotNegative
    steps_per_s: NotNegative
    device: str
    precision: str
    world_size: Positive
    final_loss: AnyFloat | None
    checkpoint_sha256: str | None = None
    effective_batch: Positive | None = None
    stacked_seeds: list[Natural] | None = None
    trackers: dict[str, str] | None = None


@dataclass(frozen=True)
class EvaluationRecord:
    """How the trained model was evaluated.

    Attributes:
        episodes: evaluation episodes per return target.
        env_seeds: the seed of each episode's environment.
        actions: how discrete actions were chosen, e.g. `sampled`, or `greedy, 0.001 of them at random`; None where
            actions are continuous.
        max_episode_steps: after how many steps an episode was cut, where that was earlier than the task does.
    """

    episodes: Positive
    env_seeds: list[Natural]
    actions: str | None = None
    max_episode_steps: Positive | None = None


@dataclass(frozen=True)
class ErrorRecord:
    """Why a run failed. Folders of the machine are removed from all text.

    Attributes:
        type: name of the exception's class.
        message: the exception's message.
        traceback: the traceback, may be empty.
        exit_code: exit status of the process that died; None if it did not die or was killed by a signal.
        signal: name of the signal that killed the process, e.g. `SIGKILL`; None if none did.
        log_tail: last lines of the process's log.
    """

    type: str
    message: str
    traceback: str = ""
    exit_code: int | None = None
    signal: str | None = None
    log_tail: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", without_folders(self.message))
        object.__setattr__(self, "traceback", without_folders(self.traceback))
        object.__setattr__(self, "log_tail", [without_folders(line) for line in self.log_tail])

    @classmethod
    def from_exception(cls, error: BaseException) -> ErrorRecord:
        """Describe an exception, with its traceback."""
        try:
            message = str(error)
        except Exception:  # noqa: BLE001 - an exception from outside may have a broken __str__
            message = "(its message cannot be read)"
        trace = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, message, trace)


class Measured(NamedTuple):
    """What a finished run has and an unfinished one lacks."""

    scores: Scores
    training: TrainingRecord
    evaluation: EvaluationRecord


@dataclass(frozen=True)
class Result:
    """One run's record.

    Attributes:
        dtbench_version: version of dtbench that ran it.
        suite, task, model: what was measured on whom.
        preset: name of the preset.
        seed: the run's seed.
        status: `ok`, `failed` or `interrupted`.
        scores, training, evaluation: what was measured; None unless the status is `ok`.
        provenance: how the result came about.
        error: why the run failed; None unless the status is `failed`.
    """

    dtbench_version: str
    suite: SuiteRecord
    task: TaskRecord
    model: ModelRecord
    preset: str
    seed: Natural
    status: str
    scores: Scores | None
    training: TrainingRecord | None
    evaluation: EvaluationRecord | None
    provenance: Provenance
    error: ErrorRecord | None = None

    @classmethod
    def begin(cls, suite: SuiteRecord, task: TaskRecord, model: ModelRecord, preset: str, seed: int) -> Result:
        """Return the record of a run that starts now; until it is `finished` or `failed`, it is an interrupted one."""
        return cls(
            dtbench_version=__version__,
            suite=suite,
            task=task,
            model=model,
            preset=preset,
            seed=seed,
            status=INTERRUPTED,
            scores=None,
            training=None,
            evaluation=None,
            provenance=provenance(now()),
        )

    def finished(
        self,
        *,
        task: TaskRecord,
        initial_weights: str,
        scores: Scores,
        training: TrainingRecord,
        evaluation: EvaluationRecord,
    ) -> Result:
        """Return the record with what was measured.

        Args:
            task: the run's task with what is known once the data are open: fingerprint, environment, reference.

        Raises:
            ResultError: a score is not finite, or a field cannot be stored.
        """
        done = replace(
            self._ended(DONE),
            task=task,
            model=replace(self.model, initial_weights=initial_weights),
            scores=scores,
            training=training,
            evaluation=evaluation,
        )
        return Result.from_dict(done.to_dict(), "The run's result")

    def failed(self, error: ErrorRecord) -> Result:
        """Return the record of a run that failed."""
        return replace(self._ended(FAILED), error=error)

    def interrupted(self) -> Result:
        """Return the record of a run that was stopped."""
        return self._ended(INTERRUPTED)

    def _ended(self, status: str) -> Result:
        return replace(self, status=status, provenance=replace(self.provenance, finished=now()))

    @property
    def measured(self) -> Measured:
        """Return scores, training and evaluation of a finished run.

        Raises:
            ResultError: the run is not finished.
        """
        if self.scores is None or self.training is None or self.evaluation is None:
            raise ResultError(f"{self.model.name} on {self.task.id}, seed {self.seed}, has no scores ({self.status}).")
        return Measured(self.scores, self.training, self.evaluation)

    @property
    def score(self) -> float:
        """Return a finished run's score: the mean over its episodes, each normalised first (0–1)."""
        return self.measured.scores.mean

    def to_dict(self) -> dict[str, Any]:
        """Return the record as it is stored: plain JSON values. It never fails: what JSON lacks is stored as text."""
        content: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **storable(self)}
        if self.error is None:
            del content["error"]
        if self.scores is not None and self.scores.during_training is None:
            del content["scores"]["during_training"]
        if self.training is not None and self.training.stacked_seeds is None:
            del content["training"]["stacked_seeds"]
        return content

    @classmethod
    def from_dict(cls, content: Any, where: str) -> Result:
        """Check a stored record and return it; older schemas are upgraded.

        Args:
            content: what the JSON file holds.
            where: the file, for messages.

        Raises:
            ResultError: naming file and field.
        """
        try:
            result: Result = read_value(cls, upgrade(content), "")
            _check(result)
        except WrongFieldError as error:
            raise ResultError(f"{where}: {error}.") from error
        return result


def upgrade(content: Any) -> Any:
    """Return a stored record as the current schema has it; the only place that knows the older ones.

    Version 1 called `model.initial_weights` `model.weights`, had no `model.changes`, wrote the module in front of the
    ids of our own environments, and early records lack `task.return_scale` and `task.kept_trajectories`.
    """
    if not isinstance(content, dict):
        raise WrongFieldError("it is not a result; it must hold a JSON object")
    version = content.get("schema_version")
    if version == SCHEMA_VERSION and type(version) is int:
        return content
    if version != 1 or type(version) is not int:
        raise WrongFieldError(f"schema_version is {shown(version)}; this version of dtbench reads 1 and 2")
    content = {**content, "schema_version": SCHEMA_VERSION}
    task, model = content.get("task"), content.get("model")
    if isinstance(task, dict):
        env_id = task.get("env_id")
        content["task"] = {**task, "env_id": canonical_id(env_id)} if isinstance(env_id, str) else task
    if isinstance(model, dict):
        own = model.get("is_preset_config", True)
        content["model"] = {"changes": [] if own is True else None, "is_preset_config": own, **model}
        if "weights" in model:
            content["model"]["initial_weights"] = content["model"].pop("weights")
    return content


def _check(result: Result) -> None:
    """Check what concerns several fields."""
    if result.status not in STATUSES:
        raise WrongFieldError(f"status must be one of {', '.join(STATUSES)}, not {shown(result.status)}")
    if result.status != DONE:
        return
    missing = {
        "task.fingerprint": result.task.fingerprint,
        "model.initial_weights": result.model.initial_weights,
        "scores": result.scores,
        "training": result.training,
        "evaluation": result.evaluation,
    }
    for name, value in missing.items():
        if value is None:
            raise WrongFieldError(f"{name} is missing although the status is {DONE}")
    scores, _, evaluation = result.measured
    _check_episodes(scores, "scores", evaluation.episodes)
    for target, entry in scores.per_target.items():
        name = f"scores.per_target[{target}]"
        if not is_number(target):
            raise WrongFieldError(f"{name} must be named by a return target")
        _check_episodes(entry, name, evaluation.episodes)
    if len(evaluation.env_seeds) != evaluation.episodes:
        raise WrongFieldError(
            f"evaluation.env_seeds must have one entry per episode ({evaluation.episodes}), "
            f"not {len(evaluation.env_seeds)}"
        )


def _check_episodes(entry: EpisodeScores, name: str, episodes: int) -> None:
    for key in ("returns", "lengths", "normalized"):
        count = len(getattr(entry, key))
        if count != episodes:
            raise WrongFieldError(f"{name}.{key} must have one entry per episode ({episodes}), not {count}")
