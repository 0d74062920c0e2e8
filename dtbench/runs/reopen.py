"""Finished runs: find one, open its weights, evaluate them again."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtbench.config import from_dict
from dtbench.errors import ConfigError
from dtbench.registry import model_entry
from dtbench.runs.folder import RUN_FILE
from dtbench.suites.scores import ReferenceScores

if TYPE_CHECKING:
    from dtbench.evaluation.rollout import Protocol
    from dtbench.models.base import OfflineModule


def evaluate_again(
    folder: str | Path, *, targets: Sequence[float] = (), episodes: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Evaluate a finished run's weights again, at other targets or with more episodes.

    Args:
        folder: the run's folder, `…/<task>/seed-<n>`.

    Returns:
        One dict per target: target, returns, lengths, normalized, and mean and standard deviation of both.

    Raises:
        ConfigError: the folder holds no finished run.
    """
    from dtbench.evaluation.rollout import evaluate

    run_file, module, protocol = open_run(folder)
    reference = ReferenceScores(**run_file["task"]["reference"])
    rows = []
    for target in targets or [run_file["task"]["score_target"]]:
        count = episodes or run_file["model"]["config"]["evaluation"]["episodes"]
        done = evaluate(module, protocol, target, count, seed)
        normalized = reference.normalize(done.returns).tolist()
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


def open_run(folder: str | Path) -> tuple[dict[str, Any], OfflineModule, Protocol]:
    """Return a finished run's description, its trained module in evaluation mode, and how to drive the environment.

    Raises:
        ConfigError: the folder holds no finished run.
    """
    import numpy as np

    from dtbench.evaluation.rollout import Protocol
    from dtbench.runs.folder import FINAL
    from dtbench.runs.training import load_weights

    folder = Path(folder)
    try:
        run_file = json.loads((folder / RUN_FILE).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is not the folder of a run (it has no {RUN_FILE}): name …/seed-<n>.") from error
    if not (folder / FINAL).is_file():
        raise ConfigError(f"The run in {folder} is not trained yet (it has no {FINAL}); run it first.")
    module = untrained(run_file)
    load_weights(module, folder / FINAL)
    settings = dict(run_file["protocol"])
    for name in ("state_mean", "state_std"):
        settings[name] = np.asarray(settings[name], dtype=np.float32)
    return run_file, module.eval(), Protocol(**settings)


def untrained(run_file: dict[str, Any]) -> OfflineModule:
    """Rebuild the module of a run as it was before its first step, in evaluation mode."""
    model = run_file["model"]
    model_class = model_entry(model["name"]).load()
    return model_class(from_dict(model["config"], model_class.Config), run_file["dims"], run_file["seed"]).eval()


def find_run(folder: str | Path, task: str | None = None) -> Path:
    """Return the folder of the one run at or below `folder`, of `task` where that is named.

    Raises:
        ConfigError: no finished run there, or several.
    """
    from dtbench.runs.folder import FINAL

    folder = Path(folder)
    found = [path.parent for path in sorted(folder.rglob(RUN_FILE)) if (path.parent / FINAL).is_file()]
    if task is not None:
        found = [path for path in found if json.loads((path / RUN_FILE).read_text())["task"]["id"] == task]
    if not found:
        raise ConfigError(f"{folder} holds no finished run{f' of {task}' if task else ''} (…/seed-<n>).")
    if len(found) > 1:
        raise ConfigError(f"{folder} holds {len(found)} runs; name one, e.g. {found[0]}.")
    return found[0]
