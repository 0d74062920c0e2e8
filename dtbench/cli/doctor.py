"""What this machine has of what dtbench needs: `dtbench doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from dtbench.resources import datasets_home, home

OK, NOTE, BAD = "ok", "note", "bad"
#: Extras that users install; the others are for people who work on dtbench.
_EXTRAS = ("atari", "ray", "text", "video")
#: Less than this is not enough for the local datasets of a suite.
_LEAST_FREE_GB = 2.0
_ENVIRONMENTS = (
    "Hopper-v5",
    "Hopper-v4",
    "dtbench/PointMaze-umaze-v0",
    "dtbench/Reacher2d-v0",
    "AntMaze_UMaze-v4",
    "FrankaKitchen-v1",
    "AdroitHandPen-v1",
    "ALE/Breakout-v5",
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `state` is ok, note (something optional is missing) or bad (runs will fail)."""

    subject: str
    state: str
    said: str


def examine() -> list[Finding]:
    """Look at Python, packages, GPU, network, folders and environments, in this order."""
    return [*_python(), *_packages(), *_gpu(), *_network(), *_folders(), *_environments()]


def as_rows(findings: list[Finding]) -> list[dict[str, Any]]:
    """Return the findings as plain dicts, for tables and JSON."""
    return [asdict(finding) for finding in findings]


def _python() -> Iterator[Finding]:
    fits = sys.version_info >= (3, 11)
    yield Finding("Python", OK if fits else BAD, f"{platform.python_version()} on {platform.system()}; 3.11 or later")


def _packages() -> Iterator[Finding]:
    """Hold every installed package against the range that dtbench declares."""
    seen = set()
    for text in metadata.requires("dtbench") or []:
        requirement = Requirement(text)
        marker = str(requirement.marker or "").replace("'", '"')
        extra = next((name for name in _EXTRAS if f'"{name}"' in marker), None)
        if (marker and extra is None) or requirement.name in seen:
            continue
        seen.add(requirement.name)
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            fix = f'pip install "dtbench[{extra}]"' if extra else f'pip install "{wanted}"'
            yield Finding(requirement.name, NOTE if extra else BAD, f"not installed; {fix}")
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        said = found if fits else f'{found} is not known to work; pip install "{wanted}"'
        yield Finding(requirement.name, OK if fits else BAD, said)


def _gpu() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPU", NOTE, f"none for torch {torch.__version__}; preset quick is the default here")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding(f"GPU {index}", OK, f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    yield Finding("CPU", OK, f"{os.cpu_count()} cores")


def _network() -> Iterator[Finding]:
    from dtbench.data.sources import SOURCES, is_reachable, source_module

    for name in SOURCES:
        host = source_module(name).HOST
        if host is None:
            yield Finding(f"source {name}", OK, "needs no network")
        elif is_reachable(name):
            yield Finding(f"source {name}", OK, f"{host} answers")
        else:
            said = f"{host} does not answer; files on disk can be used (dtbench data import), or --source local"
            yield Finding(f"source {name}", NOTE, said)


def _folders() -> Iterator[Finding]:
    from dtbench.data.sources import d4rl, minari

    folders = {"datasets": datasets_home(), "D4RL files": d4rl.raw_file("hopper-medium-v2").parent}
    folders["Minari files"] = minari.minari_folder("x").parent
    for name, folder in folders.items():
        yield _folder(name, folder, needed=folder == datasets_home())
    yield Finding("DTBENCH_HOME", OK, str(home()))


def _folder(name: str, folder: Path, needed: bool) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    if not os.access(there, os.W_OK):
        return Finding(name, BAD if needed else NOTE, f"{folder} cannot be written; set DTBENCH_HOME to another folder")
    state = OK if free >= _LEAST_FREE_GB else NOTE
    content = "" if folder.exists() else " (not made yet)"
    return Finding(name, state, f"{folder}{content}, {free:.0f} GB free")


def _environments() -> Iterator[Finding]:
    from dtbench.environments.make import make_environment
    from dtbench.errors import ConfigError

    for env_id in _ENVIRONMENTS:
        try:
            make_environment(env_id).close()
            yield Finding(env_id, OK, "can be made")
        except (ConfigError, AssertionError, OSError, RuntimeError, ValueError) as error:
            optional = env_id.startswith("ALE")
            said = 'pip install "dtbench[atari]"' if optional else " ".join(str(error).split())[:120]
            yield Finding(env_id, NOTE if optional else BAD, said)
