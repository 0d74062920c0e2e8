"""Descriptions of datasets, for `dtbench data info` and `dtbench data list`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtbench.data.store import TrajectoryStore
from dtbench.data.store_files import METADATA, read_metadata
from dtbench.errors import DataError
from dtbench.resources import datasets_home
from dtbench.spaces import Vector
from dtbench.suites.scores import ReferenceScores

_QUANTILES = {"min": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "max": 1.0}


def info(store: TrajectoryStore, reference: ReferenceScores | None = None) -> dict[str, Any]:
    """Describe a store in plain values: totals, quantiles of returns and lengths, fingerprint.

    Args:
        store: what to describe.
        reference: also give the normalised returns, × 100.
    """
    content: dict[str, Any] = {
        "dataset": store.metadata["dataset_id"],
        "environment": store.metadata["env_id"],
        "folder": os.fsencode(store.path).decode("utf-8", "replace"),  # as the user's terminal shows it
        "episodes": store.num_episodes,
        "steps": store.num_steps,
        **_spaces(store),
        "terminated": int(store.terminations.sum()),
        "truncated": int((store.truncations & ~store.terminations).sum()),
        "returns": _describe(store.episode_returns),
    }
    if reference is not None:
        content[f"returns_normalized ({reference.table}, × 100)"] = _describe(
            100 * reference.normalize(store.episode_returns)
        )
    content |= {"lengths": _describe(store.episode_lengths), "recipe": store.metadata["recipe"]}
    return {**content, "fingerprint": store.fingerprint}


def on_disk() -> list[dict[str, Any]]:
    """List the stores under `$DTBENCH_HOME`, of every source, in plain values; what cannot be read says so."""
    rows: list[dict[str, Any]] = []
    for file in sorted(datasets_home().rglob(METADATA)):
        if any(part.startswith(".") for part in file.relative_to(datasets_home()).parts):
            continue  # one that is being written
        try:
            metadata = read_metadata(file.parent)
        except DataError:
            rows.append(
                {"dataset": os.fsencode(file.parent).decode("utf-8", "replace"), "environment": "cannot be read"}
            )
            continue
        rows.append(
            {
                "dataset": metadata["dataset_id"],
                "environment": metadata["env_id"],
                "episodes": metadata["totals"]["episodes"],
                "steps": metadata["totals"]["steps"],
                "megabytes": round(sum(entry.stat().st_size for entry in file.parent.iterdir()) / 1e6, 2),
                "fingerprint": str(metadata["fingerprint"])[:12],
            }
        )
    return rows


def _spaces(store: TrajectoryStore) -> dict[str, Any]:
    """Describe what an agent sees and does: widths of vectors; of frames their size, and what all of them take."""
    if isinstance(store.observation_space, Vector):
        return {"observation_dim": store.observation_dim, "action_dim": store.action_dim}
    size = store.observations.nbytes + store.final_observations.nbytes
    return {
        "observations": str(store.observation_space),
        "frames_mb": round(size / 1e6, 1),
        "actions": str(store.action_space),
    }


def _describe(values: NDArray[Any]) -> dict[str, float]:
    quantiles = {name: round(float(np.quantile(values, share)), 2) for name, share in _QUANTILES.items()}
    return {"mean": round(float(values.mean()), 2), "std": round(float(values.std()), 2), **quantiles}
