"""Finished runs: find one, open its weights, evaluate them again."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtbench.config import RunConfig, from_dict
from dtbench.errors import ConfigError, ResultError
from dtbench.results.files import read_result
from dtbench.runs.folder import RunFolder
from dtbench.runs.record import RunRecord
from dtbench.spaces import Spaces

if TYPE_CHECKING:
    import torch

    from dtbench.evaluation.rollout import EvaluationProtocol
    from dtbench.models.base import OfflineModule
    from dtbench.results.schema import TrainingRecord

#: What results call devices on which no run is evaluated, beside the names of GPUs: those of Apple train, too.
_NO_GPU = ("cpu", "mps")


@dataclass(frozen=True)
class OpenedRun:
    """A finished run: what it is, its trained module in evaluation mode, and how to drive the environment."""

    record: RunRecord
    config: RunConfig
    module: OfflineModule
    protocol: EvaluationProtocol

    def untrained(self) -> OfflineModule:
        """Build the module again as it was before its first step, in evaluation mode."""
        return _build(self.record, self.config).eval()


def evaluate_again(
    folder: str | Path, *, targets: Sequence[float] = (), episodes: int | None = None, seed: int | None = None
) -> list[dict[str, Any]]:
    """Evaluate a finished run's weights again, at other targets or with more episodes, on the device of the run.

    Args:
        folder: the run's folder, `…/<task>/seed-<n>`.
        targets: returns to ask for; empty takes the score target.
        episodes: per target; None takes as many as in the run.
        seed: of the environments; None takes the run's, which repeats the episodes of its result.

    Returns:
        One dict per target: target, returns, lengths, normalized, and mean and standard deviation of both.

    Raises:
        ConfigError: the folder holds no finished run, or one that cannot be read.
    """
    from dtbench.evaluation.rollout import evaluate

    if not all(math.isfinite(target) for target in targets):
        raise ConfigError("A return target must be a finite number.")
    run, device = open_run(folder), evaluation_device(RunFolder(Path(folder)))
    run.module.to(device)
    rows = []
    for target in targets or [run.record.task.score_target]:
        count = episodes or run.config.evaluation.episodes
        start = run.record.seed if seed is None else seed
        done = evaluate(run.module, run.protocol, target, count, start, device, precision=run.config.hardware.precision)
        normalized = run.record.task.reference.normalize(done.returns).tolist()
        rows.append(
            {
                "target": target,
                "returns": done.returns,
                "lengths": done.lengths,
                "normalized": normalized,
                "return_mean": statistics.fmean(done.returns),
                "return_std": statistics.pstdev(done.returns),
                "normalized_mean": statistics.fmean(normalized),
                "normalized_std": statistics.pstdev(normalized),
            }
        )
    return rows


def evaluation_device(folder: RunFolder) -> torch.device:
    """Return where a run's evaluation is repeated: a GPU, if it was trained on one and this machine has one.

    Elsewhere sums are added in another order, and an episode magnifies their rounding.
    """
    import torch

    training = _recorded_training(folder)
    on_gpu = training is not None and training.device not in _NO_GPU and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def open_run(path: str | Path) -> OpenedRun:
    """Open a finished run.

    Raises:
        ConfigError: the folder holds no finished run; its files are damaged; or its weights are not those that the
            result was measured with.
    """
    from dtbench.runs.training import load_weights

    folder = RunFolder(Path(path))
    record = RunRecord.read(folder)
    if not folder.final.is_file():
        raise ConfigError(f"The run in {path} is not trained yet (it has no {folder.final.name}); run it first.")
    check_weights(folder)
    entry = record.model_entry
    config = from_dict(record.model.config, entry.options)
    module = _build(record, config)
    load_weights(module, folder.final)
    return OpenedRun(record, config, module.eval(), record.evaluation_protocol)


def find_run(path: str | Path, task: str | None = None) -> Path:
    """Return the folder of the one run at or below `path`, of `task` where that is named.

    Raises:
        ConfigError: no finished run there, or several.
    """
    root = Path(path)
    found = [file.parent for file in sorted(root.rglob(RunFolder(root).record.name)) if _is_of(file.parent, task)]
    if not found:
        raise ConfigError(f"{path} holds no finished run{f' of {task}' if task else ''} (…/seed-<n>).")
    if len(found) > 1:
        raise ConfigError(f"{path} holds {len(found)} runs; name one, e.g. {found[0]}.")
    return found[0]


def _is_of(path: Path, task: str | None) -> bool:
    folder = RunFolder(path)
    if not folder.final.is_file():
        return False
    return task is None or RunRecord.read(folder).task.id == task


def _build(record: RunRecord, config: RunConfig) -> OfflineModule:
    return record.model_entry.load()(config, Spaces.of(record.spaces), record.seed)


def check_weights(folder: RunFolder) -> None:
    """Compare the weights with the checksum in the run's result, where there is one.

    Weights from the model hub are another file of the same tensors: they are compared with what `pull` wrote.

    Raises:
        ConfigError: they are others.
    """
    from dtbench.runs.training import sha256

    training = _recorded_training(folder)
    if training is None or training.checkpoint_sha256 is None:
        return
    origin = folder.read_origin()
    is_fetched = origin.get("recorded") == training.checkpoint_sha256
    expected = origin.get("checkpoint_sha256") if is_fetched else training.checkpoint_sha256
    if expected != sha256(folder.final):
        raise ConfigError(
            f"{folder.final} is not the file that the result was measured with (its SHA-256 differs); "
            "restore it, or run again with --existing rerun."
        )


def _recorded_training(folder: RunFolder) -> TrainingRecord | None:
    """Return what the run's result says of its training; None without a result, or with an older one."""
    try:
        return read_result(folder.path.with_name(f"{folder.path.name}.json")).training
    except ResultError:
        return None
