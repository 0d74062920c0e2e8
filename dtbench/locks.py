"""Locks between processes: a process that makes a file or folder holds its lock, so that no two make it at once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dtbench.console import err
from dtbench.errors import ConfigError
from dtbench.resources import home

_README = """\
Each empty file here belongs to a dataset, download or backbone that dtbench makes. A process locks it while it works
on that thing, so that two processes do not make it at once; the lock ends with the process at the latest. The files
stay, because a lock whose file is deleted can be taken twice. They may be deleted when no dtbench is running.
"""
_NAME_CHARACTERS = 60


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder; wait for a process that holds it, and say so.

    The lock is a file of its own in `$DTBENCH_HOME/locks`, whether or not `path` exists.

    Raises:
        ConfigError: the folder of locks cannot be written to.
    """
    waiting = _file_lock(path)
    try:
        _acquire(waiting, timeout=0)
    except Timeout:
        err.print(f"waiting for another process that works on {path}", markup=False)
        _acquire(waiting, timeout=-1)
    try:
        yield
    finally:
        waiting.release()


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock of a file or folder if nobody else does; yield whether it is held.

    Raises:
        ConfigError: the folder of locks cannot be written to.
    """
    trying = _file_lock(path)
    try:
        _acquire(trying, timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        trying.release()


def lock_file(path: Path) -> Path:
    """Return the file that is locked for `path`: a readable name, and a part of the hash of the whole path."""
    whole = str(path.resolve())
    name = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[:_NAME_CHARACTERS]
    return home() / "locks" / f"{name}-{hashlib.sha256(whole.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}.lock"


def _file_lock(path: Path) -> FileLock:
    file = lock_file(path)
    readme = file.with_name("README.txt")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not readme.exists():
            readme.write_text(_README, encoding="utf-8")
    except OSError as error:
        raise _not_writable(file.parent, error) from error
    return FileLock(file)


def _acquire(file_lock: FileLock, timeout: float) -> None:
    try:
        file_lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:  # filelock raises the latter where the system has no flock
        raise _not_writable(Path(file_lock.lock_file).parent, error) from error


def _not_writable(folder: Path, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigError(f"{folder} cannot be written ({reason}); set DTBENCH_HOME to another folder.")
