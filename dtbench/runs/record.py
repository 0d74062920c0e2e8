"""What is written about a run: its result, and the description beside its checkpoints."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dtbench import atomic
from dtbench.errors import ConfigError, ResultError
from dtbench.evaluation.rollout import EvaluationProtocol
from dtbench.registry import ModelEntry, model_entry
from dtbench.results.files import read_result, write_result
from dtbench.results.records import parse
from dtbench.results.schema import (
    DONE,
    FAILED,
    ErrorRecord,
    ModelRecord,
    Result,
    SuiteRecord,
    TaskRecord,
)
from dtbench.runs.folder import RunFolder
from dtbench.runs.plan import RunPlan


@dataclass(frozen=True)
class RunRecord:
    """What a run is, stored as `run.json` beside its checkpoints.

    It says which checkpoints may be resumed (those of equal data and configuration), and all that is needed to open the
    trained model again without its dataset.

    Attributes:
        spaces: of the data (`dtbench.spaces.Spaces.to_dict`).
        protocol: how the model is evaluated.
        model_address: by what the registry finds the model; it may hold a path and therefore stays out of the result.
    """

    suite: SuiteRecord
    task: TaskRecord
    model: ModelRecord
    preset: str
    seed: int
    spaces: dict[str, Any]
    protocol: dict[str, Any]
    model_address: str = ""

    @property
    def model_entry(self) -> ModelEntry:
        """The model in the registry; records of older versions know its name only."""
        return model_entry(self.model_address or self.model.name)

    def write(self, folder: RunFolder) -> None:
        """Write `run.json`."""
        atomic.write_text(folder.record, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: RunFolder) -> RunRecord:
        """Read `run.json`.

        Raises:
            ConfigError: it is missing, or damaged; the message names the field.
        """
        try:
            return cls.read_file(folder.record)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(
                f"{folder.path} is not the folder of a run (it has no {folder.record.name}): name …/seed-<n>."
            ) from error

    @classmethod
    def read_file(cls, file: Path) -> RunRecord:
        """Read what `write` wrote.

        Raises:
            ConfigError: it is damaged; the message names the field.
            FileNotFoundError, NotADirectoryError: it is not there.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if "dims" in content:  # as it was called when all observations were vectors
                content["spaces"] = content.pop("dims")
            record: RunRecord = parse(cls, content, str(file))
        except (FileNotFoundError, NotADirectoryError):
            raise
        except (OSError, ValueError, ResultError) as error:
            raise ConfigError(f"{file} is damaged ({error}); train the run again.") from error
        return record

    @property
    def evaluation_protocol(self) -> EvaluationProtocol:
        """How the model is evaluated."""
        return EvaluationProtocol.from_dict(self.protocol)

    def is_same_training(self, other: RunRecord) -> bool:
        """Say whether checkpoints of the other run may be resumed: data and configuration are equal."""
        return (self.task.fingerprint, self.model.config_hash) == (other.task.fingerprint, other.model.config_hash)


def begin(plan: RunPlan) -> Result:
    """Return the record of a run that starts now."""
    task, model = plan.task, plan.model
    return Result.begin(
        SuiteRecord(plan.suite.name, plan.suite.version),
        TaskRecord(
            id=task.id,
            source=plan.source,
            dataset_id=task.sources[plan.source],
            fingerprint=None,
            env_id=task.environment(plan.source),
            reference=task.reference,
            score_target=task.score_target,
            return_scale=task.return_scale,
        ),
        ModelRecord(
            name=model.name,
            config_hash=plan.config.hash(),
            is_preset_config=not plan.changes,
            config=plan.config.to_dict(),
            changes=list(plan.changes),
        ),
        plan.preset,
        plan.seed,
    )


def record_without_scores(plan: RunPlan, status: str, started: str, error: ErrorRecord | None = None) -> None:
    """Write the result of a run whose own process could not.

    Args:
        status: `failed` (with its error) or `interrupted`.
        started: when the process was started.
    """
    result = begin(plan)
    result = replace(result, provenance=replace(result.provenance, started=started))
    result = result.failed(error) if status == FAILED and error is not None else result.interrupted()
    write_result(plan.result_path, result)


def identify_result(plan: RunPlan) -> tuple[int, int] | None:
    """Return inode and time of the run's result, which change when it is written anew; None without a result."""
    try:
        status = plan.result_path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def has_finished(plan: RunPlan) -> bool:
    """Say whether the run's result exists and has a score of the planned configuration."""
    try:
        result = read_result(plan.result_path)
    except ResultError:
        return False
    return result.status == DONE and result.model.config_hash == plan.config.hash()


def describe_outcome(plan: RunPlan, number: str) -> str:
    """Describe in one line how a run ended: its score, or why it has none."""
    try:
        result = read_result(plan.result_path)
    except ResultError as error:
        return f"{number} {plan.label}: {error}"
    if result.status == DONE:
        scores = [100 * score for score in result.measured.scores.normalized]
        spread = statistics.pstdev(scores)
        return f"{number} {plan.label}: score {statistics.fmean(scores):.1f} ± {spread:.1f} ({len(scores)} episodes)"
    if result.error is None:
        return f"{number} {plan.label}: {result.status}"
    message = " ".join(result.error.message.split())
    return f"{number} {plan.label}: {result.status}: {result.error.type}: {message} (result: {plan.result_path})"
