"""Repeat the evaluation of runs from their checkpoints, and compare the returns with the recorded ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dtbench.errors import ConfigError, DtbenchError
from dtbench.results.files import scan
from dtbench.results.schema import DONE, Result
from dtbench.runs.folder import RunFolder
from dtbench.runs.reopen import evaluate_again
from dtbench.runs.submission import file_of

#: Relative: JSON stores floats exactly, so that a larger difference is another episode.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Replay:
    """One run evaluated again.

    Attributes:
        file: its record, relative to the folder of results.
        recorded, repeated: mean normalised scores (0–1); the latter is None where the evaluation failed.
        differing: how many episodes have another return.
        episodes: how many there are.
        reason: why the evaluation failed; empty otherwise.
    """

    file: str
    recorded: float
    repeated: float | None
    differing: int
    episodes: int
    reason: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether every episode has its recorded return."""
        return self.repeated is not None and self.differing == 0

    def __str__(self) -> str:
        if self.repeated is None:
            return f"error: {self.file}: it cannot be evaluated again: {self.reason}"
        if self.is_equal:
            return f"equal: {self.file}: {self.episodes} episodes, score {100 * self.repeated:.1f}"
        return (
            f"error: {self.file}: {self.differing} of {self.episodes} episodes have another return (score "
            f"{100 * self.repeated:.1f}, recorded {100 * self.recorded:.1f}); compare processor and versions with its "
            "provenance, or run it again."
        )


def replay(root: Path, count: int) -> Iterator[Replay]:
    """Evaluate `count` of a folder's runs again, evenly spread over those that have their checkpoint beside the record.

    Raises:
        ResultError: there is no such folder.
        ConfigError: fewer runs have a checkpoint.
    """
    results, _ = scan(root)
    found = [result for result in results if result.status == DONE and _folder(root, result).final.is_file()]
    if len(found) < count:
        raise ConfigError(
            f"{root} has {len(found)} finished runs with their checkpoint beside the record (…/seed-<n>/final.ckpt), "
            f"--replay asks for {count}; add the folders of the runs, or ask for fewer."
        )
    for place in np.linspace(0, len(found) - 1, count).round().astype(int):
        yield _again(root, found[place])


def _folder(root: Path, result: Result) -> RunFolder:
    return RunFolder((root / file_of(result)).with_suffix(""))


def _again(root: Path, result: Result) -> Replay:
    file, scores = file_of(result).as_posix(), result.measured.scores
    count = len(scores.returns)
    try:
        (row,) = evaluate_again(_folder(root, result).path, targets=[result.task.score_target], episodes=count)
    except DtbenchError as error:
        return Replay(file, result.score, None, count, count, str(error))
    differing = int((~np.isclose(row["returns"], scores.returns, rtol=_ROUNDING, atol=_ROUNDING)).sum())
    return Replay(file, result.score, float(row["normalized_mean"]), differing, count)
