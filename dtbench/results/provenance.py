"""How a result came about: commit, versions, platform, command, time; never a host's, a user's or a folder's name."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: An absolute path's folders, up to and with the last slash; neither a URL's nor those of a relative path.
_FOLDERS = re.compile(r"(?<![\w:/.~-])~?/(?:[^\s/\"'`]+/)+")
#: Environment variables by which a launcher tells its processes, maybe on other machines, what only it knows.
COMMAND, COMMIT = "DTBENCH_COMMAND", "DTBENCH_COMMIT"
_PACKAGES = ("torch", "lightning", "transformers", "gymnasium", "mujoco", "numpy", "rliable")


@dataclass(frozen=True)
class Provenance:
    """How a result came about.

    Attributes:
        git: commit of the checkout, with `+dirty` if its code was changed; None if dtbench was installed.
        packages: name → version of the packages that matter; None for one that is not installed.
        python: version of Python.
        platform: operating system and processor, e.g. `Linux x86_64`.
        command: the command line, without folders.
        started, finished: when the run began and ended, in UTC as ISO 8601.
    """

    git: str | None
    packages: dict[str, str | None]
    python: str
    platform: str
    command: str
    started: str
    finished: str


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(started: str) -> Provenance:
    """Describe the running program; `started` is when the run began."""
    return Provenance(
        git=git_commit(),
        packages={name: _version(name) for name in _PACKAGES},
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        command=command(),
        started=started,
        finished=now(),
    )


@cache
def git_commit() -> str | None:
    """Return the commit of the checkout that this code comes from, with `+dirty` for changed code; None if installed.

    A launcher that sent its code to another machine says there which commit it was.
    """
    if COMMIT in os.environ:
        return os.environ[COMMIT] or None
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "dtbench", "benchmarks", "baselines", "pyproject.toml")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+dirty" if changed else "")


def command() -> str:
    """Return the user's command line; paths outside the working directory are reduced to their last part."""
    if COMMAND in os.environ:
        return os.environ[COMMAND]
    return " ".join(["dtbench", *(_without_folder(word) for word in sys.argv[1:])])


def without_folders(text: str) -> str:
    """Return `text`, e.g. a traceback, with absolute paths reduced to the part that is the same on every machine.

    That is the part from the package on for code, and the file's name for anything else.

    >>> without_folders('File "/home/me/venv/lib/python3.11/site-packages/torch/nn/linear.py", line 1')
    'File "torch/nn/linear.py", line 1'
    """
    return _FOLDERS.sub(_package_part, text)


def _package_part(match: re.Match[str]) -> str:
    folders = match.group()
    if "/site-packages/" in folders:
        return folders.rpartition("/site-packages/")[2]
    root = f"{Path(__file__).resolve().parents[2]}/"
    return folders.removeprefix(root) if folders.startswith(root) else ""


def _without_folder(word: str) -> str:
    key, equals, value = word.rpartition("=")
    outside = Path(value).is_absolute() or ".." in Path(value).parts
    return f"{key}{equals}{Path(value).name}" if outside else word


def _git(root: Path, *arguments: str) -> str:
    words = ["git", "-C", str(root), *arguments]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=True, timeout=10)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
