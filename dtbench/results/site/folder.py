"""The folder of a site: written whole, renewed in place, and never over files of others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dtbench import atomic
from dtbench.errors import ConfigError, ResultError
from dtbench.results.files import error_reason

#: Lists what `dtbench site` wrote into a folder, so that it can renew this and leave the rest.
MANIFEST = ".dtbench-site.json"


def check(out: Path) -> list[str]:
    """Return the files that an earlier site left in a folder; empty for a new or an empty one.

    Raises:
        ConfigError: it is a file, or holds what no site of dtbench's wrote.
    """
    if not out.exists() and not out.is_symlink():
        return []
    if not out.is_dir():
        raise ConfigError(f"--out {out} is not a folder; name a new or an empty one.")
    try:
        held = sorted(entry.name for entry in out.iterdir())
    except OSError as error:
        raise ConfigError(f"The folder {out} cannot be read: {error_reason(error)}.") from error
    if not held:
        return []
    if MANIFEST not in held:
        raise ConfigError(
            f"--out {out} holds files that `dtbench site` did not write (e.g. {held[0]}); name a new or empty folder."
        )
    return _listed(out / MANIFEST)


def _listed(manifest: Path) -> list[str]:
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{manifest} cannot be read; name a new folder for the site.") from error
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise ConfigError(f"{manifest} lists no files; name a new folder for the site.")
    return files


def write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a site, and remove what an earlier one wrote and this one lacks; other files are left alone.

    Args:
        out: the folder, made if it is missing.
        files: path below the folder → content.

    Raises:
        ConfigError: as `check`.
        ResultError: a file cannot be written.
    """
    before = check(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _list(
            out, sorted({*before, *files})
        )  # before the first file: an interruption leaves nothing that is not listed
        for name, content in files.items():
            file = out / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        for name in before:
            if name not in files:
                _remove(out, name)
        _list(out, sorted(files))
    except OSError as error:
        raise ResultError(f"The site {out} cannot be written: {error_reason(error)}.") from error


def _list(out: Path, files: list[str]) -> None:
    atomic.write_text(out / MANIFEST, json.dumps({"made by": "dtbench site", "files": files}, indent=1) + "\n")


def _remove(out: Path, name: str) -> None:
    """Remove a file of an earlier site and the folders that it leaves empty; never one outside the site."""
    file = out / name
    if not file.resolve().is_relative_to(out.resolve()):
        return
    file.unlink(missing_ok=True)
    for folder in file.parents:
        if folder == out or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()
