"""One run's record: a JSON file whose path is the run's identity, written whole or not at all.

`<root>/<suite>@<version>/<source>/<preset>/<model>/<task>/seed-<n>.json`; a model whose configuration was changed by
the user stands in `<model>+<config hash>`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dtbench import __version__
from dtbench.console import err
from dtbench.errors import ResultError
from dtbench.provenance import provenance

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
    """Return where a run's result lies; `suite` is `name@version`."""
    return root / suite / source / preset / model / task / f"seed-{seed}.json"


def new_result(
    identity: Mapping[str, Any],
    status: str,
    started: str,
    *,
    dataset_id: str | None = None,
    fingerprint: str | None = None,
    weights: str | None = None,
    scores: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    error: Mapping[str, str] | None = None,
) -> Result:
    """Put a result together from what was known before the run and what was measured."""
    result: Result = {"schema_version": SCHEMA_VERSION, "dtbench_version": __version__, **identity, "status": status}
    result["task"] = {**result["task"], "fingerprint": fingerprint}
    if dataset_id is not None:
        result["task"]["dataset_id"] = dataset_id
    result["model"] = {**result["model"], "weights": weights}
    result |= {"scores": scores, "training": training, "evaluation": evaluation, "provenance": provenance(started)}
    if error is not None:
        result["error"] = dict(error)
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
            with os.fdopen(handle, "w") as file:
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
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} cannot be read: {error}.") from error
    validate(content, str(path))
    return dict(content)


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

    Raises:
        ResultError: there is no such folder.
    """
    if not root.is_dir():
        raise ResultError(f"There is no folder {root}.")
    results, unreadable = [], []
    for path in sorted(root.glob(_PATTERN)):
        try:
            results.append(read_result(path))
        except ResultError as error:
            unreadable.append(str(error))
    return results, unreadable


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
    for field in ("preset", "seed"):
        if field not in result:
            raise ResultError(f"{where}: {field} is missing.")
    required = _REQUIRED | (_REQUIRED_IF_OK if result["status"] == "ok" else {})
    for section, fields in required.items():
        part = result.get(section)
        for field in fields:
            if not isinstance(part, dict) or field not in part:
                raise ResultError(f"{where}: {section}.{field} is missing.")
    if result["status"] == "ok":
        _validate_scores(result["scores"], where)


def _validate_scores(scores: Mapping[str, Any], where: str) -> None:
    counts = {len(scores[name]) for name in ("returns", "lengths", "normalized")}
    if counts == {0} or len(counts) != 1:
        raise ResultError(f"{where}: scores.returns, lengths and normalized must have one entry per episode.")
    if not all(isinstance(score, (int, float)) and score == score for score in scores["normalized"]):
        raise ResultError(f"{where}: scores.normalized holds a value that is not a number.")
