"""One run's record: a JSON file whose path is the run's identity, written whole or not at all.

`<root>/<suite>@<version>/<source>/<preset>/<model>/<task>/seed-<n>.json`; a model whose configuration was changed by
the user stands in `<model>+<config hash>`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from dtbench.console import err
from dtbench.errors import ResultError
from dtbench.results.schema import DONE, Result

_PATTERN = "*@*/*/*/*/*/seed-*.json"


def result_path(root: Path, suite: str, source: str, preset: str, model: str, task: str, seed: int) -> Path:
    """Return where a run's result lies; `suite` is `name@version`, `model` may be `package.module:Class`."""
    return root / suite / source / preset / model.replace(":", ".") / task / f"seed-{seed}.json"


def write_result(path: Path, result: Result) -> None:
    """Write a result atomically: temporary file, fsync, rename.

    Raises:
        ResultError: a finished run's result is not valid, or the file cannot be written. A lost result is an error,
            never a warning.
    """
    content = result.to_dict()
    if result.status == DONE:  # a failed or interrupted run's record is written whatever it holds
        Result.from_dict(content, str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2, allow_nan=False)
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
    return Result.from_dict(content, str(path))


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
    own = result_path(
        Path(),
        result.suite.id,
        result.task.source,
        result.preset,
        result.model.folder,
        result.task.id,
        result.seed,
    )
    if path != own:
        raise ResultError(f"{path} holds the result of {own}; move it there or delete it.")
