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
from dtbench.runs.launchers.worker import BUSY, LAUNCHER_PID
from dtbench.runs.live import Display
from dtbench.runs.plan import RunPlan
from dtbench.runs.record import describe_outcome, has_finished, identify_result, record_without_scores
from dtbench.runs.work import Work
from dtbench.signals import describe_exit, kill_group, raise_if_stopped, times_stopped

_POLL_S = 0.2
#: Seconds that a worker has to record its run as interrupted.
_GRACE_S = 30.0


@dataclass
class _Worker:
    """A running worker process.

    Attributes:
        before: what identifies the result file of each run that lay there before, to tell whether the worker wrote one.
    """

    work: Work
    process: subprocess.Popen[bytes]
    started: str
    before: list[tuple[int, int] | None]


def run_all(works: Sequence[Work], jobs: int) -> list[str]:
    """Do the runs, at most `jobs` processes at a time, and return the statuses of all runs in order.

    The cores are divided among the jobs. What a worker prints goes to `log.txt` in its (first) run's folder; a terminal
    shows a bar for each running one. What another command is working on is left for last, and done only if that command
    did not finish it. The runs of a worker that ends without a result, killed for lack of memory for instance, are
    recorded as failed, and the others go on.

    Raises:
        Stopped, KeyboardInterrupt: after every worker has stopped and its run is recorded as interrupted.
        ResultError: a file cannot be written, e.g. because the disk is full; the workers are stopped first.
    """
    waiting, elsewhere = deque(range(len(works))), deque[int]()
    running: dict[int, _Worker] = {}
    statuses = [[FAILED] * len(work.plans) for work in works]
    jobs = max(1, jobs)
    with Display([plan for work in works for plan in work.plans]) as display:
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
                    if works[index].is_locked():
                        where = _where(works[index])
                        err.print(
                            f"{works[index].label}: another command is working on it{where}; left for last",
                            markup=False,
                        )
                        elsewhere.append(index)
                    else:
                        running[index] = _start(works[index], jobs)
                if not waiting and len(running) < jobs:
                    for index in [index for index in elsewhere if not works[index].is_locked()][:1]:
                        elsewhere.remove(index)
                        if all(has_finished(plan) for plan in works[index].plans):
                            statuses[index] = [DONE] * len(works[index].plans)
                            err.print(f"{works[index].label}: finished by another command", markup=False)
                        else:
                            running[index] = _start(works[index], jobs)
                display.show([plan for worker in running.values() for plan in worker.work.plans])
                time.sleep(_POLL_S)
        except BaseException:
            _stop(list(running.values()))
            raise
    return [status for of_work in statuses for status in of_work]


def _where(work: Work) -> str:
    """Say where the process is that works on one of the runs, as far as it is known."""
    for plan in work.plans:
        holder = plan.folder.read_holder()
        if plan.folder.is_locked() and "host" in holder:
            return f" on {holder['host']} since {holder.get('since', 'an unknown time')}"
    return ""


def _start(work: Work, jobs: int) -> _Worker:
    folder = work.folder
    folder.create()
    started, before = now(), [identify_result(plan) for plan in work.plans]
    with naming_the_folder(folder.path):
        atomic.write_text(folder.plan, json.dumps(work.to_dict(), indent=2) + "\n")
        log = folder.log.open("ab")
    threads = max(1, (os.cpu_count() or 1) // (jobs * work.plans[0].config.hardware.devices))
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUTF8": "1"}
    environment |= {LAUNCHER_PID: str(os.getpid())}
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dtbench.runs.launchers.worker", str(folder.plan)],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us, and we tell the workers
        )
    return _Worker(work, process, started, before)


def _finish(worker: _Worker) -> list[str]:
    """Return the statuses of an ended worker's runs; record the failure of those that it left without a result."""
    kill_group(worker.process.pid)  # other ranks of its own may be left
    runs = zip(worker.work.plans, worker.work.numbers, worker.before, strict=True)
    return [_finish_run(worker, *run) for run in runs]


def _finish_run(worker: _Worker, plan: RunPlan, number: str, before: tuple[int, int] | None) -> str:
    if identify_result(plan) != before or has_finished(plan):
        err.print(describe_outcome(plan, number), markup=False)
        return DONE if has_finished(plan) else FAILED
    code = worker.process.returncode
    words, signal_name = describe_exit(code)
    error = ErrorRecord(
        type="WorkerEnded",
        message=f"The worker process {words} without a result.",
        traceback="",
        exit_code=None if signal_name else code,
        signal=signal_name,
        log_tail=worker.work.folder.log_tail(),
    )
    record_without_scores(plan, FAILED, worker.started, error)
    err.print(f"{number} {plan.label}: failed: {error.message} Its log: {worker.work.folder.log}", markup=False)
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
        for plan, before in zip(worker.work.plans, worker.before, strict=True):
            if identify_result(plan) == before and not has_finished(plan):
                record_without_scores(plan, INTERRUPTED, worker.started)
