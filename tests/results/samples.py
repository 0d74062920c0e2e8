"""Hand-made results for tests of records, statistics and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dtbench.results.files import result_path, write_result
from dtbench.suites.suites import load_suite

PROVENANCE = {
    "git": "0" * 40, "packages": {"torch": "2.0"}, "python": "3.11", "platform": "Linux x86_64",
    "command": "dtbench run", "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:00+00:00",
}  # fmt: skip


def result(model: str = "dt", task: str = "hopper-medium", seed: int = 0, score: float = 0.5, **changes: Any) -> dict:
    """Return a result of two episodes whose mean normalised score is `score`."""
    chosen = load_suite("d4rl-short").task(task)
    scores = [score - 0.1, score + 0.1]
    reference = chosen.reference
    returns = [reference.random + value * (reference.expert - reference.random) for value in scores]
    entry = {"returns": returns, "lengths": [10, 20], "normalized": scores}
    content = {
        "schema_version": 1,
        "dtbench_version": "0.1.0",
        "suite": {"name": "d4rl-short", "version": 1},
        "task": {
            "id": task, "source": "local", "dataset_id": f"local/{task}", "fingerprint": "f" * 64,
            "env_id": chosen.env_id, "score_target": chosen.score_target,
            "reference": {"table": "d4rl", "random": reference.random, "expert": reference.expert},
        },
        "model": {
            "name": model, "config_hash": "abc", "is_preset_config": True, "config": {}, "weights": "random",
        },
        "preset": "quick",
        "seed": seed,
        "status": "ok",
        "scores": {**entry, "per_target": {str(chosen.score_target): entry}},
        "training": {
            "steps": 10, "wall_s": 1.0, "steps_per_s": 10.0, "device": "cpu", "precision": "32-true",
            "world_size": 1, "final_loss": 0.1,
        },
        "evaluation": {"episodes": 2, "env_seeds": [1, 2]},
        "provenance": PROVENANCE,
    }  # fmt: skip
    return {**content, **changes}


def save(root: Path, content: dict) -> Path:
    task, model = content["task"], content["model"]
    name = model["name"] if model["is_preset_config"] else f"{model['name']}+{model['config_hash']}"
    suite = f"{content['suite']['name']}@{content['suite']['version']}"
    path = result_path(root, suite, task["source"], content["preset"], name, task["id"], content["seed"])
    write_result(path, content)
    return path


def save_suite(root: Path, model: str = "dt", seeds: tuple[int, ...] = (0, 1), base: float = 0.4) -> None:
    """Save a complete model: every task of d4rl-short, every seed, scores base + 0.05·task + 0.02·seed."""
    for index, task in enumerate(load_suite("d4rl-short").tasks):
        for seed in seeds:
            save(root, result(model, task.id, seed, base + 0.05 * index + 0.02 * seed))
