"""Runs side by side in processes of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from dtbench import atomic
from dtbench.console import err
from dtbench.results.provenance import now
from dtbench.results.schema import DONE, FAILED, INTERRUPTED, ErrorRecord
from dtbench.runs.folder import naming_the_folder
from dtbench.runs.launchers.worker import BUSY, LAUNCHER_PID, RUN_NUMBER
from dtbench.runs.live import Display
from dtbench.runs.plan import RunPlan
from dtbench.runs.record import describe_outcome, has_finished, identify_result, record_without_scores
from dtbench.signals import describe_exit, kill_group, raise_if_stopped, times_stopped

_POLL_S = 0.2
#: Seconds that a worker has to record its run as interrupted.
_GRACE_S = 30.0


@dataclass
class _Worker:
    """A running worker process.

    Attributes:
        before: what identifies the result file that lay there before, to tell whether the worker wrote one.
    """

    plan: RunPlan
    number: str
    process: subprocess.Popen[bytes]
    started: str
    before: tuple[int, int] | None


def run_all(plans: Sequence[RunPlan], jobs: int) -> list[str]:
    """Do the runs, at most `jobs` at a time, and return their statuses in order.

    The cores are divided among the jobs. What a worker prints goes to `log.txt` in the run's folder; a terminal shows a
    bar for each running one. A run that another command is working on is left for last, and done only if that command
    did not finish it. A worker that ends without a result, killed for lack of memory for instance, is recorded as
    failed, and the others go on.

    Raises:
        Stopped, KeyboardInterrupt: after every worker has stopped and its run is recorded as interrupted.
        ResultError: a file cannot be written, e.g. because the disk is full; the workers are stopped first.
    """
    waiting, elsewhere = deque(range(len(plans))), deque[int]()
    running: dict[int, _Worker] = {}
    statuses = [FAILED] * len(plans)
    jobs = max(1, jobs)
    with Display(plans) as display:
        try:
            while waiting or elsewhere or running:
                raise_if_stopped()
                for index in [index for index, worker in running.items() if worker.process.poll() is not None]:
                    worker = running.pop(index)
                    if worker.process.returncode == BUSY:
                        elsewhere.append(index)
                    else:
                        statuses[index] = _finish(worker)
                while waiting and len(running) < jobs:
                    index = waiting.popleft()
                    if plans[index].folder.is_locked():
                        err.print(
                            f"{plans[index].label}: another command is working on it; left for last", markup=False
                        )
                        elsewhere.append(index)
                    else:
                        running[index] = _start(plans[index], f"{index + 1}/{len(plans)}", jobs)
                if not waiting and len(running) < jobs:
                    for index in [index for index in elsewhere if not plans[index].folder.is_locked()][:1]:
                        elsewhere.remove(index)
                        if has_finished(plans[index]):
                            statuses[index] = DONE
                            err.print(f"{plans[index].label}: finished by another command", markup=False)
                        else:
                            running[index] = _start(plans[index], f"{index + 1}/{len(plans)}", jobs)
                display.show([worker.plan for worker in running.values()])
                time.sleep(_POLL_S)
        except BaseException:
            _stop(list(running.values()))
            raise
    return statuses


def _start(plan: RunPlan, number: str, jobs: int) -> _Worker:
    folder = plan.folder
    folder.create()
    started, before = now(), identify_result(plan)
    with naming_the_folder(folder.path):
        atomic.write_text(folder.plan, json.dumps(plan.to_dict(), indent=2) + "\n")
        log = folder.log.open("ab")
    threads = max(1, (os.cpu_count() or 1) // (jobs * plan.config.hardware.devices))
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUTF8": "1"}
    environment |= {RUN_NUMBER: number, LAUNCHER_PID: str(os.getpid())}
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dtbench.runs.launchers.worker", str(folder.plan)],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us, and we tell the workers
        )
    return _Worker(plan, number, process, started, before)


def _finish(worker: _Worker) -> str:
    """Return the status of an ended worker's run; record the failure of one that left no result."""
    plan, code = worker.plan, worker.process.returncode
    kill_group(worker.process.pid)  # other ranks of its own may be left
    if identify_result(plan) != worker.before:
        err.print(describe_outcome(plan, worker.number), markup=False)
        return DONE if code == 0 else FAILED
    words, signal_name = describe_exit(code)
    error = ErrorRecord(
        type="WorkerEnded",
        message=f"The worker process {words} without a result.",
        traceback="",
        exit_code=None if signal_name else code,
        signal=signal_name,
        log_tail=plan.folder.log_tail(),
    )
    record_without_scores(plan, FAILED, worker.started, error)
    err.print(f"{worker.number} {plan.label}: failed: {error.message} Its log: {plan.folder.log}", markup=False)
    return FAILED


def _stop(workers: list[_Worker]) -> None:
    """Ask all workers to stop, wait until they have, and record what they could not; a second signal hurries."""
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + _GRACE_S
    while any(worker.process.poll() is None for worker in workers):
        if time.monotonic() > deadline or times_stopped() > 1:
            break
        time.sleep(_POLL_S / 2)
    for worker in workers:
        kill_group(worker.process.pid)
        worker.process.wait()
        if identify_result(worker.plan) == worker.before:
            record_without_scores(worker.plan, INTERRUPTED, worker.started)
