"""Download a file: with progress, resumed where it stopped, checked, and visible under its name only when whole."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from dtbench.console import Progress
from dtbench.errors import SourceError
from dtbench.locks import lock
from dtbench.resources import home

TRIES = 3
#: Seconds before the second try; doubled before the third.
_PAUSE = 2.0
_PATIENCE = 30.0
_CHUNK = 1 << 20


def download(
    url: str, path: Path, *, sha256: str | None = None, progress: Progress | None = None, pause: float | None = None
) -> Path:
    """Download `url` as `path`; a second process that wants the same file waits and then finds it.

    What arrived is kept in a file beside `path` if the connection breaks, and the next try continues there.

    Args:
        url: the address.
        path: the file to write.
        sha256: the content's digest where one is published.
        progress: called with (bytes done, bytes in all).
        pause: seconds before the second try; doubled before the third.

    Raises:
        SourceError: three tries failed, or the content is not what was published.
        OSError: the folder of `path` cannot be made.
    """
    pause = _PAUSE if pause is None else pause
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    with lock(path):
        if path.is_file():
            return path
        for attempt in range(TRIES):
            try:
                _fetch(url, part, progress)
                break
            except (OSError, HTTPException) as error:
                if attempt + 1 == TRIES or _is_final(error):
                    raise SourceError(
                        f"{url} could not be downloaded ({_reason(error)}, {attempt + 1} tries); what arrived is kept "
                        f"in {part}, and the same command continues there. Or download it elsewhere and "
                        "`dtbench data import` it, or use another --source."
                    ) from error
                time.sleep(pause * 2**attempt)
        if sha256 is not None and _sha256(part) != sha256:
            part.unlink()
            raise SourceError(f"{url} is not the file that was published: its SHA-256 differs. Download it again.")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    return path


def _part_of(path: Path) -> Path:
    """Return the file of what has arrived, one for each `DTBENCH_HOME`, whose processes share their locks."""
    tag = hashlib.sha256(os.fsencode(home().resolve())).hexdigest()[:8]
    return path.with_name(f".{path.name}.{tag}.part")


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Download what is missing of `part`; raise OSError if the connection ends before the promised length."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to download, or the file on the server has changed: start again
            part.unlink(missing_ok=True)
        raise
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length", "")
        done = done if resumed else 0
        total = done + int(length) if length.isdecimal() else 0
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    if done < total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")


def _is_final(error: Exception) -> bool:
    """Report whether another try is useless: the server refuses, or this machine has no room or no permission."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (401, 403, 404, 410)
    return isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.ENOSPC


def _reason(error: Exception) -> str:
    return f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else str(error)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
