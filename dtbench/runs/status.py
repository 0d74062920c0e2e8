"""What has become of the runs in a folder of results: done, running, failed, interrupted or waiting.

Everything is read from the folder, so that it can be asked from another terminal or another machine that shares it.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtbench.errors import ResultError
from dtbench.results.files import read_content, result_files
from dtbench.results.schema import DONE, FAILED, INTERRUPTED
from dtbench.runs.folder import RunFolder
from dtbench.runs.sweep import planned_results

RUNNING, WAITING = "running", "waiting"
#: In the order in which they are shown.
STATES = (DONE, RUNNING, FAILED, INTERRUPTED, WAITING)


@dataclass(frozen=True)
class RunState:
    """One run.

    Attributes:
        run: its place in the folder, `<suite>@<version>/<source>/<preset>/<model>/<task>/seed-<n>`.
        state: one of `STATES`.
        score: mean normalised score, 0–1, of a finished run.
        step: training steps done, of a running or interrupted one.
        steps: training steps in all.
        host: the machine on which it runs.
        since: when it was started there (ISO 8601, UTC).
        reason: why it failed.
    """

    run: str
    state: str
    score: float | None = None
    step: int | None = None
    steps: int | None = None
    host: str | None = None
    since: str | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(vars(self))

    def describe(self) -> str:
        """Say in one line where it stands."""
        if self.state == DONE:
            return f"{self.run}: score {100 * (self.score or 0):.1f}"
        if self.state == FAILED:
            return f"{self.run}: {self.reason}"
        done = "" if self.step is None or self.steps is None else f", step {self.step:,} of {self.steps:,}"
        where = f" on {self.host} since {self.since}" if self.state == RUNNING and self.host else ""
        return f"{self.run}{where}{done}"


def run_states(root: Path) -> list[RunState]:
    """Return the runs under a folder of results, in the order of their paths.

    A finished or failed run that is being done again counts as running.

    Raises:
        ResultError: there is no such folder.
    """
    if not root.is_dir():
        raise ResultError(f"There is no folder {root}.")
    results = {file.relative_to(root).with_suffix("") for file in result_files(root)}
    begun = {folder.relative_to(root) for folder in _run_folders(root)}
    planned = {file.with_suffix("") for file in planned_results(root)}
    return [_state(root, run, run in results) for run in sorted(results | begun | planned)]


def counts(states: Sequence[RunState]) -> dict[str, int]:
    """Return how many runs are in each state."""
    return {name: sum(state.state == name for state in states) for name in STATES}


def _run_folders(root: Path) -> Iterator[Path]:
    """Yield the folders in which a process has begun a run."""
    for lock in root.glob(f"*@*/*/*/*/*/seed-*/{RunFolder(root).lock_file.name}"):
        yield lock.parent


def _state(root: Path, run: Path, has_result: bool) -> RunState:
    name, folder = run.as_posix(), RunFolder(root / run)
    if folder.is_locked():
        holder = folder.read_holder()
        step, steps = _steps(folder)
        return RunState(name, RUNNING, None, step, steps, holder.get("host"), holder.get("since"))
    if not has_result:
        if folder.latest.is_file() or folder.final.is_file():
            return RunState(name, INTERRUPTED, None, *_steps(folder))
        return RunState(name, WAITING)
    try:
        return _of_result(name, read_content(root / run.parent / f"{run.name}.json"), folder)
    except (ResultError, KeyError, TypeError, statistics.StatisticsError):
        return RunState(name, FAILED, reason="its result cannot be read")


def _of_result(name: str, content: dict[str, Any], folder: RunFolder) -> RunState:
    """Read only what is shown: whether all of a result is valid is for the leaderboard to say."""
    status = content["status"]
    if status == DONE:
        return RunState(name, DONE, statistics.fmean(map(float, content["scores"]["normalized"])))
    if status == INTERRUPTED:
        return RunState(name, INTERRUPTED, None, *_steps(folder))
    error = content.get("error") or {}
    message = " ".join(str(error.get("message", "unknown")).split())
    return RunState(name, FAILED, reason=f"{error.get('type', 'error')}: {message}")


def _steps(folder: RunFolder) -> tuple[int | None, int | None]:
    """Return the training steps that a run has done, and those in all."""
    try:
        record = json.loads(folder.record.read_text(encoding="utf-8"))
        steps = int(record["model"]["config"]["training"]["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
    if folder.final.is_file():
        return steps, steps
    return folder.read_progress().step, steps


def folder_size(path: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(os.lstat(os.path.join(folder, file)).st_size for folder, _, files in os.walk(path) for file in files)
