"""What a result is: its parts, and what they must hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dtbench._version import __version__
from dtbench.errors import ResultError
from dtbench.results.provenance import provenance, without_folders

SCHEMA_VERSION = 1


STATUSES = ("ok", "failed", "interrupted")


_REQUIRED: dict[str, tuple[str, ...]] = {
    "suite": ("name", "version"),
    "task": ("id", "source", "dataset_id", "fingerprint", "env_id", "reference", "score_target"),
    "model": ("name", "config_hash", "config", "weights"),
    "provenance": ("git", "packages", "python", "platform", "command", "started", "finished"),
}


_REQUIRED_IF_OK: dict[str, tuple[str, ...]] = {
    "scores": ("returns", "lengths", "normalized", "per_target"),
    "training": ("steps", "wall_s", "steps_per_s", "device", "precision", "world_size", "final_loss"),
    "evaluation": ("episodes", "env_seeds"),
}


Result = dict[str, Any]


def new_result(
    identity: Mapping[str, Any],
    status: str,
    started: str,
    *,
    dataset_id: str | None = None,
    fingerprint: str | None = None,
    environment: Mapping[str, Any] | None = None,
    weights: str | None = None,
    scores: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    error: Mapping[str, str] | None = None,
) -> Result:
    """Put a result together from what was known before the run and what was measured."""
    result: Result = {"schema_version": SCHEMA_VERSION, "dtbench_version": __version__, **identity, "status": status}
    result["task"] = {**result["task"], **(environment or {}), "fingerprint": fingerprint}
    if dataset_id is not None:
        result["task"]["dataset_id"] = dataset_id
    result["model"] = {**result["model"], "weights": weights}
    result |= {"scores": scores, "training": training, "evaluation": evaluation, "provenance": provenance(started)}
    if error is not None:
        result["error"] = {key: without_folders(text) for key, text in error.items()}
    return result


def validate(result: Any, where: str) -> None:
    """Check the schema.

    Raises:
        ResultError: naming the field that is missing or wrong.
    """
    if not isinstance(result, dict):
        raise ResultError(f"{where} is not a result: it must be a JSON object.")
    if result.get("schema_version") != SCHEMA_VERSION:
        raise ResultError(f"{where} has schema {result.get('schema_version')!r}; this version reads {SCHEMA_VERSION}.")
    if result.get("status") not in STATUSES:
        raise ResultError(f"{where}: status must be one of {', '.join(STATUSES)}, not {result.get('status')!r}.")
    if not isinstance(result.get("preset"), str):
        raise ResultError(f"{where}: preset is missing.")
    if type(result.get("seed")) is not int:
        raise ResultError(f"{where}: seed must be a whole number, not {result.get('seed')!r}.")
    required = _REQUIRED | (_REQUIRED_IF_OK if result["status"] == "ok" else {})
    for section, fields in required.items():
        part = result.get(section)
        for field in fields:
            if not isinstance(part, dict) or field not in part:
                raise ResultError(f"{where}: {section}.{field} is missing.")
    if result["status"] == "ok":
        _validate_measured(result, where)


def _validate_measured(result: Result, where: str) -> None:
    """Check what tables and statistics are computed from: a value of another kind must not reach them."""
    reference, scores = result["task"]["reference"], result["scores"]
    if not isinstance(reference, dict) or not {"table", "random", "expert"} <= set(reference):
        raise ResultError(f"{where}: task.reference must hold table, random and expert.")
    for section, field in (("task", "fingerprint"), ("model", "weights"), ("model", "config_hash")):
        if not isinstance(result[section][field], str):
            raise ResultError(f"{where}: {section}.{field} must be text, not {result[section][field]!r}.")
    _validate_episodes(scores, "scores", where)
    if not isinstance(scores["per_target"], dict):
        raise ResultError(f"{where}: scores.per_target must map targets to episodes.")
    for target, entry in scores["per_target"].items():
        _validate_episodes(entry, f"scores.per_target[{target}]", where)


def _validate_episodes(entry: Any, name: str, where: str) -> None:
    fields = ("returns", "lengths", "normalized")
    lists: list[Any] = [entry.get(field) for field in fields] if isinstance(entry, dict) else []
    counts = {len(values) if isinstance(values, list) else 0 for values in lists}
    if len(counts) != 1 or counts == {0}:
        raise ResultError(f"{where}: {name} must hold {', '.join(fields)}, one entry per episode.")
    for field, values in zip(fields, lists, strict=True):
        if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
            raise ResultError(f"{where}: {name}.{field} holds a value that is not a number.")
