"""Fetch a file: with progress, resumed where it stopped, checked, and visible under its name only when whole."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from dtbench.console import Progress
from dtbench.errors import SourceError

TRIES = 3
_PAUSE = 2.0
_PATIENCE = 30.0
_CHUNK = 1 << 20


def download(
    url: str, path: Path, *, sha256: str | None = None, progress: Progress | None = None, pause: float = _PAUSE
) -> Path:
    """Fetch `url` as `path`; a second process that wants the same waits and then finds it.

    What arrived stays in `path`.part if the connection breaks, and the next try goes on from there.

    Args:
        sha256: the content's digest where one is published.
        progress: called with (bytes done, bytes in all).
        pause: seconds before the second try; doubled before the third.

    Raises:
        SourceError: three tries failed, or the content is not what was promised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.is_file():
            return path
        for attempt in range(TRIES):
            try:
                _fetch(url, part, progress)
                break
            except (OSError, urllib.error.URLError) as error:
                if attempt + 1 == TRIES or _is_final(error):
                    raise SourceError(
                        f"{url} could not be fetched ({_reason(error)}, {attempt + 1} tries); what arrived is kept in "
                        f"{part}, and the same command goes on from there. Or fetch it elsewhere and "
                        "`dtbench data import` it; or take another --source."
                    ) from error
                time.sleep(pause * 2**attempt)
        if sha256 is not None and _sha256(part) != sha256:
            part.unlink()
            raise SourceError(f"{url} is not the file that was published: its SHA-256 differs. Fetch it again.")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    return path


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Fetch what is missing of `part`; raise OSError if the connection ends before the promised length."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch, or the file on the server changed: begin again
            part.unlink()
        raise
    with response:
        resumed = response.status == 206
        total = int(response.headers.get("Content-Length", 0)) + (done if resumed else 0)
        done = done if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    if total and done < total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")


def _is_final(error: Exception) -> bool:
    """Say whether trying again is no use: the server says no, or this machine has no room or no permission."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (401, 403, 404, 410)
    return isinstance(error, PermissionError) or getattr(error, "errno", None) == 28


def _reason(error: Exception) -> str:
    return f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else str(error)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
