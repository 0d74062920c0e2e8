"""Hand-made results for tests of records, statistics and tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from dtbench.results.files import result_path, write_result
from dtbench.results.schema import (
    EpisodeScores,
    ErrorRecord,
    EvaluationRecord,
    ModelRecord,
    Provenance,
    Result,
    Scores,
    SuiteRecord,
    TaskRecord,
    TrainingRecord,
)
from dtbench.suites.suites import load_suite

#: Results that the first versions of dtbench wrote, with their schema and their environments' ids.
RECORDED = Path(__file__).parent / "recorded"

PROVENANCE = Provenance(
    git="0" * 40,
    packages={"torch": "2.0"},
    python="3.11",
    platform="Linux x86_64",
    command="dtbench run",
    started="2026-01-01T00:00:00+00:00",
    finished="2026-01-01T00:01:00+00:00",
)


def result(model: str = "dt", task: str = "hopper-medium", seed: int = 0, score: float = 0.5, **parts: Any) -> Result:
    """Return a result of two episodes whose mean normalised score is `score`.

    Args:
        parts: fields of `Result` to replace; `task_*` and `model_*` replace fields of those records.
    """
    chosen = load_suite("d4rl-short").task(task)
    scores = [score - 0.1, score + 0.1]
    reference = chosen.reference
    returns = [reference.random + value * (reference.expert - reference.random) for value in scores]
    made = Result(
        dtbench_version="0.1.0",
        suite=SuiteRecord("d4rl-short", 1),
        task=TaskRecord(
            id=task,
            source="local",
            dataset_id=f"local/{task}",
            fingerprint="f" * 64,
            env_id=chosen.env_id,
            reference=reference,
            score_target=chosen.score_target,
        ),
        model=ModelRecord(model, "abc", True, {}, initial_weights="random", changes=[]),
        preset="quick",
        seed=seed,
        status="ok",
        scores=Scores(
            returns, [10, 20], scores, {str(chosen.score_target): EpisodeScores(returns, [10, 20], scores)}
        ),
        training=TrainingRecord(10, 1.0, 10.0, "cpu", "32-true", 1, 0.1),
        evaluation=EvaluationRecord(2, [1, 2]),
        provenance=PROVENANCE,
    )  # fmt: skip
    for record in ("task", "model"):
        changed = {
            key.removeprefix(f"{record}_"): parts.pop(key) for key in list(parts) if key.startswith(f"{record}_")
        }
        made = replace(made, **{record: replace(getattr(made, record), **changed)})
    return replace(made, **parts)


def changed(*changes: str, config_hash: str = "xyz", **parts: Any) -> Result:
    """Return a result whose configuration the user changed; without `changes` it was not recorded how."""
    return result(
        model_is_preset_config=False,
        model_config_hash=config_hash,
        model_changes=list(changes) or None,
        **parts,
    )


def failed(model: str = "dt", message: str = "loss is\nNaN", **parts: Any) -> Result:
    """Return a failed run's result."""
    return unfinished(result(model, status="failed", error=ErrorRecord("ValueError", message), **parts))


def unfinished(content: Result) -> Result:
    return replace(content, scores=None, training=None, evaluation=None)


def save(root: Path, content: Result) -> Path:
    """Write a result to its place under `root`."""
    path = place(root, content)
    write_result(path, content)
    return path


def place(root: Path, content: Result) -> Path:
    """Return where a result belongs under `root`."""
    task = content.task
    return result_path(root, content.suite.id, task.source, content.preset, content.model.folder, task.id, content.seed)


def save_raw(root: Path, content: dict[str, Any], like: Result) -> Path:
    """Write whatever `content` is to the place of the result `like`."""
    path = place(root, like)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def save_suite(root: Path, model: str = "dt", seeds: tuple[int, ...] = (0, 1), base: float = 0.4) -> None:
    """Save a complete model: every task of d4rl-short, every seed, scores base + 0.05·task + 0.02·seed."""
    for index, task in enumerate(load_suite("d4rl-short").tasks):
        for seed in seeds:
            save(root, result(model, task.id, seed, base + 0.05 * index + 0.02 * seed))
