"""One run's record: a JSON file whose path is the run's identity, written whole or not at all.

`<root>/<suite>@<version>/<source>/<preset>/<model>/<task>/seed-<n>.json`; a model whose configuration was changed by
the user stands in `<model>+<config hash>`.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dtbench import __version__
from dtbench.console import err
from dtbench.errors import ResultError
from dtbench.provenance import provenance, without_folders

SCHEMA_VERSION = 1
STATUSES = ("ok", "failed", "interrupted")
_PATTERN = "*@*/*/*/*/*/seed-*.json"
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


def result_path(root: Path, suite: str, source: str, preset: str, model: str, task: str, seed: int) -> Path:
    """Return where a run's result lies; `suite` is `name@version`, `model` may be `package.module:Class`."""
    return root / suite / source / preset / model.replace(":", ".") / task / f"seed-{seed}.json"


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


def write_result(path: Path, result: Result) -> None:
    """Write a result atomically: temporary file, fsync, rename.

    Raises:
        ResultError: it is not a valid result, or cannot be written. A lost result is an error, never a warning.
    """
    validate(result, str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(result, file, indent=2, allow_nan=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        raise ResultError(f"The result {path} could not be written: {error}.") from error


def read_result(path: Path) -> Result:
    """Read and check one result.

    Raises:
        ResultError: it is missing, not JSON, or not a result of this schema; the message names the field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} cannot be read: {error}.") from error
    validate(content, str(path))
    return dict(content)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is not JSON")


def read_or_set_aside(path: Path) -> Result | None:
    """Read a result; one that cannot be read is renamed to `*.unreadable` and named, so that its run is done again."""
    if not path.is_file():
        return None
    try:
        return read_result(path)
    except ResultError as error:
        aside = path.with_suffix(".json.unreadable")
        path.replace(aside)
        err.print(f"{error} It was set aside as {aside.name}.", markup=False)
        return None


def scan(root: Path) -> tuple[list[Result], list[str]]:
    """Read all results under a folder, in the order of their paths; also return what could not be read, in words.

    A file whose content belongs to another path is not a result of this folder: a copied file would count as one more
    seed. Paths in the words are relative to `root`, so that what is written about a folder does not say where it lies.

    Raises:
        ResultError: there is no such folder.
    """
    if not root.is_dir():
        raise ResultError(f"There is no folder {root}.")
    results, unreadable = [], []
    for path in sorted(root.glob(_PATTERN)):
        try:
            result = read_result(path)
            _check_path(path.relative_to(root), result)
            results.append(result)
        except ResultError as error:
            unreadable.append(str(error).replace(str(path), path.relative_to(root).as_posix()))
    return results, unreadable


def _check_path(path: Path, result: Result) -> None:
    suite, task, model = result["suite"], result["task"], result["model"]
    name = model["name"] if model.get("is_preset_config", True) else f"{model['name']}+{model['config_hash']}"
    suite_id = f"{suite['name']}@{suite['version']}"
    own = result_path(Path(), suite_id, task["source"], result["preset"], name, task["id"], result["seed"])
    if path != own:
        raise ResultError(f"{path} holds the result of {own}; move it there or delete it.")


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
