"""What dtbench needs and whether this machine has it: `dtbench doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from dtbench.resources import datasets_home, home

OK, NOTE, BAD = "ok", "note", "bad"
#: Extras that users install; the others are for developers of dtbench.
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
    """One thing that was examined.

    Attributes:
        subject: what was examined.
        state: ok, note (something optional is missing) or bad (runs will fail).
        detail: what was found, and the fix.
    """

    subject: str
    state: str
    detail: str


def examine() -> list[Finding]:
    """Examine Python, packages, GPU, network, folders and environments, in this order; a failure is a finding, too."""
    parts = {
        "python": _python,
        "packages": _packages,
        "gpu": _gpu,
        "network": _network,
        "folders": _folders,
        "environments": _environments,
    }
    return [finding for name, part in parts.items() for finding in _guarded(name, part())]


def as_rows(findings: list[Finding]) -> list[dict[str, Any]]:
    """Return the findings as plain dicts, for tables and JSON."""
    return [asdict(finding) for finding in findings]


def _guarded(name: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings; an unexpected error becomes one and ends this part only."""
    try:
        yield from findings
    except Exception as error:  # noqa: BLE001  # whatever is wrong with this machine
        yield Finding(name, BAD, f"cannot be examined: {type(error).__name__}: {' '.join(str(error).split())}")


def _python() -> Iterator[Finding]:
    fits = sys.version_info >= (3, 11)
    yield Finding("Python", OK if fits else BAD, f"{platform.python_version()} on {platform.system()}; 3.11 or later")


def _packages() -> Iterator[Finding]:
    """Compare every installed package with the range that dtbench declares."""
    try:
        declared = metadata.requires("dtbench") or []
    except metadata.PackageNotFoundError:
        yield Finding("packages", NOTE, "dtbench is not installed as a package, so that its requirements are unknown")
        return
    done = set()
    for text in declared:
        requirement = Requirement(text)
        marker = str(requirement.marker or "").replace("'", '"')
        extra = next((name for name in _EXTRAS if f'"{name}"' in marker), None)
        if (marker and extra is None) or requirement.name in done:
            continue
        done.add(requirement.name)
        yield _package(requirement, extra)


def _package(requirement: Requirement, extra: str | None) -> Finding:
    name, wanted = requirement.name, f"{requirement.name}{requirement.specifier}"
    try:
        found = metadata.version(name)
        fits = requirement.specifier.contains(Version(found), prereleases=True)
    except metadata.PackageNotFoundError:
        fix = f'pip install "dtbench[{extra}]"' if extra else f'pip install "{wanted}"'
        return Finding(name, NOTE if extra else BAD, f"not installed; {fix}")
    except (InvalidVersion, TypeError):  # the latter where the metadata have no version
        return Finding(name, BAD, f'its version cannot be read; pip install --force-reinstall "{wanted}"')
    return (
        Finding(name, OK, found)
        if fits
        else Finding(name, BAD, f'{found} is not known to work; pip install "{wanted}"')
    )


def _gpu() -> Iterator[Finding]:
    yield Finding("CPU", OK, f"{os.cpu_count()} cores")
    try:
        import torch
    except Exception as error:  # noqa: BLE001  # an ImportError, or whatever a broken library raises
        yield Finding("GPU", BAD, f"torch cannot be imported: {' '.join(str(error).split())}")
        return
    if not torch.cuda.is_available():
        yield Finding("GPU", NOTE, f"none for torch {torch.__version__}; preset quick is the default here")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding(f"GPU {index}", OK, f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")


def _network() -> Iterator[Finding]:
    from dtbench.data.sources import SOURCES, is_reachable, source_module

    for name in SOURCES:
        host = source_module(name).HOST
        if host is None:
            yield Finding(f"source {name}", OK, "needs no network")
        elif is_reachable(name):
            yield Finding(f"source {name}", OK, f"{host} answers")
        else:
            detail = f"{host} does not answer; import files from disk (dtbench data import), or use --source local"
            yield Finding(f"source {name}", NOTE, detail)


def _folders() -> Iterator[Finding]:
    from dtbench.data.sources import d4rl, dqn_replay, minari

    yield Finding("DTBENCH_HOME", OK, str(home()))
    yield _folder("datasets", datasets_home(), "DTBENCH_HOME", needed=True)
    yield _folder("D4RL files", d4rl.raw_file("hopper-medium-v2").parent, "D4RL_DATASET_DIR", needed=False)
    yield _folder("DQN replay logs", dqn_replay.logs_root(), "DQN_REPLAY_DIR", needed=False)
    yield _folder("Minari files", minari.minari_folder("x").parent, "MINARI_DATASETS_PATH", needed=False)


def _folder(name: str, folder: Path, variable: str, needed: bool) -> Finding:
    bad, fix = BAD if needed else NOTE, f"set {variable} to another folder"
    try:
        present = folder.exists()
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            return Finding(name, bad, f"{nearest} is not a folder; {fix}")
        if not os.access(nearest, os.W_OK):
            return Finding(name, bad, f"{folder} cannot be written; {fix}")
        free = shutil.disk_usage(nearest).free / 1e9
    except OSError as error:
        return Finding(name, bad, f"{folder} cannot be read ({error.strerror or error}); {fix}")
    state = OK if free >= _LEAST_FREE_GB else NOTE
    return Finding(name, state, f"{folder}{'' if present else ' (not made yet)'}, {free:.0f} GB free")


def _environments() -> Iterator[Finding]:
    from dtbench.environments.make import make_environment

    for env_id in _ENVIRONMENTS:
        try:
            make_environment(env_id).close()
            yield Finding(env_id, OK, "can be made")
        except Exception as error:  # noqa: BLE001  # whatever its packages raise
            optional = env_id.startswith("ALE")
            detail = 'pip install "dtbench[atari]"' if optional else " ".join(str(error).split())[:120]
            yield Finding(env_id, NOTE if optional else BAD, detail)
