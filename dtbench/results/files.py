"""One run's record: a JSON file whose path is the run's identity, written whole or not at all.

`<root>/<suite>@<version>/<source>/<preset>/<model>/<task>/seed-<n>.json`; the folder of a model whose configuration the
user changed is `<model>+<config hash>`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dtbench import atomic
from dtbench.console import err
from dtbench.errors import ResultError
from dtbench.results.schema import DONE, Result

#: Folders between the root and a result.
_DEPTH = 5
_FILE_NAME = re.compile(r"seed-.*\.json")
#: No model is this many times as good as the expert, or as bad.
IMPLAUSIBLE_SCORE = 30.0
#: No result is larger: one with 100,000 episodes is about 20 MB.
_LARGEST_FILE = 256 * 2**20
#: What was read, by the SHA-256 of its bytes: a command reads a result to plan, to rank and to render.
_READ: dict[bytes, Result] = {}
_MOST_READ = 20_000


def result_path(root: Path, suite: str, source: str, preset: str, model: str, task: str, seed: int) -> Path:
    """Return where a run's result is stored; `suite` is `name@version`, `model` may be `package.module:Class`."""
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
        atomic.write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    except (OSError, ValueError) as error:
        raise ResultError(f"The result {path} could not be written: {error_reason(error)}.") from error


def read_result(path: Path) -> Result:
    """Read and check one result.

    Raises:
        ResultError: it is missing, not JSON, or not a result of a known schema; the message names the field.
    """
    return _read(path, str(path))


def _read(path: Path, name: str) -> Result:
    """Read a result that messages call `name`."""
    try:
        if path.exists() and not path.is_file():  # a folder, or a pipe that would be waited for
            raise ResultError(f"{name} is not a file.")
        if path.stat().st_size > _LARGEST_FILE:
            raise ResultError(f"{name} is too large to be a result.")
        content = path.read_bytes()
        known = hashlib.sha256(content).digest()
        if known not in _READ:
            if len(_READ) > _MOST_READ:
                _READ.clear()
            _READ[known] = Result.from_dict(json.loads(content.decode("utf-8"), parse_constant=_refuse_constant), name)
        return _READ[known]
    except RecursionError as error:
        raise ResultError(f"{name} cannot be read: it is nested too deeply.") from error
    except (OSError, ValueError) as error:
        raise ResultError(f"{name} cannot be read: {error_reason(error)}.") from error


def error_reason(error: OSError | ValueError) -> str:
    """Return an error's reason, without the path that a message around it names already."""
    if isinstance(error, FileExistsError):  # from mkdir
        return "a file has the name of its folder"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON ({error})" if error.doc.strip() else "it is empty"
    if "integer string conversion" in str(error):  # Python's limit of 4,300 digits
        return "a number in it has too many digits"
    return str(error).rstrip(".")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is not JSON")


def read_or_set_aside(path: Path) -> Result | None:
    """Read a result; one that cannot be read is renamed to `*.unreadable` and named, so that its run is done again.

    Raises:
        ResultError: it cannot be renamed.
    """
    if not os.path.lexists(path):
        return None
    try:
        return read_result(path)
    except ResultError as error:
        aside = path.with_suffix(".json.unreadable")
        try:
            path.replace(aside)
        except OSError as failure:
            raise ResultError(
                f"{error} It could not be set aside as {aside.name}: {error_reason(failure)}."
            ) from failure
        err.print(f"{error} It was set aside as {aside.name}.", markup=False)
        return None


def read_folder(root: Path) -> tuple[list[Result], list[str]]:
    """Read all results under a folder that must hold some; see `scan`.

    Raises:
        ResultError: there is no such folder, or no result in it that can be read.
    """
    results, left_out = scan(root)
    if left_out and not results:
        raise ResultError(f"{root} holds no result that can be read; the first of {len(left_out)}: {left_out[0]}")
    if not results:
        raise ResultError(f"{root} holds no results; `dtbench run --output {root}` writes some.")
    return results, left_out


def scan(root: Path) -> tuple[list[Result], list[str]]:
    """Read all results under a folder, in the order of their paths; also return a sentence for each file left out.

    A file whose content belongs to another path is left out: a copied file would count as one more seed. The sentences
    name paths relative to `root`, so that a published leaderboard does not tell where the folder was.

    Raises:
        ResultError: there is no such folder.
    """
    if not os.path.isdir(root):
        raise ResultError(f"There is no folder {root}.")
    results: list[Result] = []
    left_out: list[str] = []
    for path in _result_files(root, root, _DEPTH, left_out):
        name = path.relative_to(root)
        try:
            result = _read(path, name.as_posix())
            _check_path(name, result)
            _check_score(name, result)
            results.append(result)
        except ResultError as error:
            left_out.append(str(error))
    return results, left_out


def result_files(root: Path) -> Iterator[Path]:
    """Yield the files with a result's place and name under a folder; folders that cannot be listed are left out."""
    yield from _result_files(root, root, _DEPTH, [])


def read_content(path: Path) -> dict[str, Any]:
    """Read a result as plain values, unchecked: for a look at many.

    Raises:
        ResultError: it cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} cannot be read.") from error
    if not isinstance(content, dict):
        raise ResultError(f"{path} is not a result.")
    return content


def _result_files(root: Path, folder: Path, depth: int, left_out: list[str]) -> Iterator[Path]:
    """Yield the files with a result's name `depth` folders down; note folders that cannot be listed."""
    try:
        entries = sorted(os.listdir(folder))
    except OSError as error:
        left_out.append(f"The folder {folder.relative_to(root).as_posix()} cannot be read: {error_reason(error)}.")
        return
    for entry in entries:
        path = folder / entry
        if depth == 0:
            if _FILE_NAME.fullmatch(entry):
                yield path
        elif ("@" in entry or depth < _DEPTH) and os.path.isdir(path):
            yield from _result_files(root, path, depth - 1, left_out)


def _check_score(path: Path, result: Result) -> None:
    """Name a score that cannot be on the 0–1 scale, before it stops the statistics of all models."""
    if result.status == DONE and abs(result.score) > IMPLAUSIBLE_SCORE:
        raise ResultError(
            f"{path.as_posix()}: its score is {result.score:g} times the expert's; its returns or reference scores are "
            "wrong."
        )


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
        raise ResultError(f"{path.as_posix()} holds the result of {own.as_posix()}; move it there or delete it.")
