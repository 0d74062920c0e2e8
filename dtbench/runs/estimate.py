"""How long planned runs will take, roughly: for `--dry-run`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

from dtbench.errors import DtbenchError
from dtbench.results.files import scan
from dtbench.results.schema import DONE, Result
from dtbench.runs.plan import RunPlan


def estimate_seconds(plans: Sequence[RunPlan], output: Path, jobs: int) -> list[float | None]:
    """Estimate the seconds of each run, without building its data; None where it cannot be told.

    Where `output` has finished runs of the same configuration and task, their median time counts. Else a few training
    steps, actions and environment steps are timed here, and episodes count with their full length.
    """
    measured = _measured(output)
    timed: dict[tuple[str, str, str], float | None] = {}
    seconds: list[float | None] = []
    for plan in plans:
        key = (plan.model.name, plan.config.hash(), plan.task.id)
        if key not in measured and key not in timed:
            timed[key] = _time(plan, jobs)
        seconds.append(measured.get(key, timed.get(key)))
    return seconds


def _time(plan: RunPlan, jobs: int) -> float | None:
    from dtbench.determinism import one_thread
    from dtbench.runs.timing import time_run

    with one_thread() if jobs > 1 else nullcontext():
        try:
            return time_run(plan)
        except DtbenchError:  # e.g. weights that are not on this machine: the run itself will say so
            return None


def _measured(output: Path) -> dict[tuple[str, str, str], float]:
    found: dict[tuple[str, str, str], list[float]] = {}
    for result in scan(output)[0] if output.is_dir() else []:
        if result.status == DONE:
            key = (result.model.name, result.model.config_hash, result.task.id)
            found.setdefault(key, []).append(_wall_seconds(result))
    return {key: statistics.median(values) for key, values in found.items()}


def _wall_seconds(result: Result) -> float:
    """Return the seconds that a run took; of seeds that were trained as one, the run's share."""
    began, ended = (datetime.fromisoformat(text) for text in (result.provenance.started, result.provenance.finished))
    training = result.measured.training
    return max((ended - began).total_seconds(), training.wall_s) / len(training.stacked_seeds or [result.seed])
