"""Runs side by side in processes of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dtbench.console import err
from dtbench.results.schema import DONE, FAILED
from dtbench.runs.folder import read_step
from dtbench.runs.launchers.worker import to_spec
from dtbench.runs.plan import RunPlan

_POLL_S = 0.2
_GRACE_S = 30.0


def run_all(plans: Sequence[RunPlan], jobs: int) -> list[str]:
    """Do the runs, at most `jobs` at a time, and return their statuses in order.

    The cores are shared out between the jobs. What a worker prints goes to `log.txt` in the run's folder; a terminal
    shows a bar for each running one.

    Raises:
        KeyboardInterrupt: after every worker was told to stop and has recorded its run as interrupted.
    """
    waiting = list(enumerate(plans))
    running: dict[int, subprocess.Popen[bytes]] = {}
    statuses = [FAILED] * len(plans)
    with _bars() as show:
        try:
            while waiting or running:
                while waiting and len(running) < max(1, jobs):
                    index, plan = waiting.pop(0)
                    running[index] = _start(plan, f"{index + 1}/{len(plans)}", jobs)
                time.sleep(_POLL_S)
                show([plans[index] for index in running])
                for index in [index for index, process in running.items() if process.poll() is not None]:
                    statuses[index] = DONE if running.pop(index).returncode == 0 else FAILED
                    _report(plans[index], statuses[index], f"{index + 1}/{len(plans)}")
        except KeyboardInterrupt:
            _stop(list(running.values()))
            raise
    return statuses


@contextmanager
def _bars() -> Iterator[Callable[[Sequence[RunPlan]], None]]:
    """Yield `show(running plans)`: a bar of training steps for each on a terminal, nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def show(plans: Sequence[RunPlan]) -> None:
            for label in set(bars) - {plan.label for plan in plans}:
                progress.remove_task(bars.pop(label))
            for plan in plans:
                if plan.label not in bars:
                    bars[plan.label] = progress.add_task(plan.label, total=plan.config.training.steps)
                progress.update(bars[plan.label], completed=read_step(plan.folder))

        yield show


def _start(plan: RunPlan, number: str, jobs: int) -> subprocess.Popen[bytes]:
    plan.folder.mkdir(parents=True, exist_ok=True)
    spec = plan.folder / "spec.json"
    spec.write_text(json.dumps(to_spec(plan), indent=2) + "\n")
    threads = max(1, (os.cpu_count() or 1) // (max(1, jobs) * plan.config.hardware.devices))
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "DTBENCH_RUN_NUMBER": number}
    with (plan.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dtbench.runs.launchers.worker", str(spec)],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us; we tell the workers
        )


def _report(plan: RunPlan, status: str, number: str) -> None:
    log = plan.folder / "log.txt"
    lines = log.read_text(errors="replace").splitlines()
    said = [line for line in lines if line.startswith(number)]
    if said:
        err.print(said[-1], markup=False)
    elif status != DONE:
        err.print(f"{number} {plan.label}: the worker ended without a word; see {log}", markup=False)


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
