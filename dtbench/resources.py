"""Where the files that are shipped with the code are, and where built data are cached."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """Return the path of a shipped file or folder, e.g. `resource("benchmarks", "suites")`.

    In a wheel the folders are in `dtbench/_resources`; in a checkout or an editable install beside `dtbench`.
    """
    inside_wheel = _PACKAGE / "_resources"
    root = inside_wheel if inside_wheel.is_dir() else _PACKAGE.parent
    return root.joinpath(*parts)


def home() -> Path:
    """Return the folder of built datasets: `$DTBENCH_HOME`, else the user's cache folder."""
    chosen = os.environ.get("DTBENCH_HOME")
    if chosen:
        return Path(os.path.expanduser(chosen))  # unlike Path.expanduser, it leaves an unknown `~user` as it is
    return Path(platformdirs.user_cache_dir("dtbench"))


def datasets_home() -> Path:
    """Return the folder in which trajectory stores are built."""
    return home() / "datasets"
