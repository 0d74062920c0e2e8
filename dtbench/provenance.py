"""How a result came about: commit, versions, platform, command, time; never a host's, a user's or a folder's name."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "lightning", "transformers", "gymnasium", "mujoco", "numpy", "rliable")


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(started: str) -> dict[str, Any]:
    """Describe the running program; `started` is when the run began."""
    return {
        "git": git_commit(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "command": command(),
        "started": started,
        "finished": now(),
    }


@cache
def git_commit() -> str | None:
    """Return the commit of the checkout that this code runs from, with `+dirty` for changed code; None if installed."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "dtbench", "benchmarks", "baselines", "pyproject.toml")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+dirty" if changed else "")


def command() -> str:
    """Return the command line; paths outside the working directory are reduced to their last part."""
    return " ".join(["dtbench", *(_without_folder(word) for word in sys.argv[1:])])


def _without_folder(word: str) -> str:
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{Path(value).name}" if Path(value).is_absolute() else word


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
