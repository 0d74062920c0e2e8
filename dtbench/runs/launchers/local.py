"""Runs side by side in processes of this machine."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence

from dtbench.console import err
from dtbench.results.schema import DONE, FAILED
from dtbench.runs.launchers.process import POLL_S, Worker, stop
from dtbench.runs.live import Display, look
from dtbench.runs.record import describe_outcome, has_finished, record_without_scores
from dtbench.runs.work import Work
from dtbench.signals import raise_if_stopped


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
    running: dict[int, Worker] = {}
    statuses = [[FAILED] * len(work.plans) for work in works]
    jobs = max(1, jobs)
    with Display([plan for work in works for plan in work.plans]) as display:
        try:
            while waiting or elsewhere or running:
                raise_if_stopped()
                for index in [index for index, worker in running.items() if worker.has_ended()]:
                    worker = running.pop(index)
                    if worker.found_busy:
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
                display.show([(plan, look(plan)) for worker in running.values() for plan in worker.work.plans])
                time.sleep(POLL_S)
        except BaseException:
            stop(list(running.values()))
            raise
    return [status for of_work in statuses for status in of_work]


def _where(work: Work) -> str:
    """Say where the process is that works on one of the runs, as far as it is known."""
    for plan in work.plans:
        holder = plan.folder.read_holder()
        if plan.folder.is_locked() and "host" in holder:
            return f" on {holder['host']} since {holder.get('since', 'an unknown time')}"
    return ""


def _start(work: Work, jobs: int) -> Worker:
    threads = (os.cpu_count() or 1) // (jobs * work.plans[0].config.hardware.devices)
    return Worker.start(work, max(1, threads))


def _finish(worker: Worker) -> list[str]:
    """Return the statuses of an ended worker's runs; record the failure of those that it left without a result."""
    statuses, left, work = list[str](), worker.left_without_result(), worker.work
    for plan, number in zip(work.plans, work.numbers, strict=True):
        if plan in left:
            error = worker.failure()
            record_without_scores(plan, FAILED, worker.started, error)
            err.print(f"{number} {plan.label}: failed: {error.message} Its log: {work.folder.log}", markup=False)
        else:
            err.print(describe_outcome(plan, number), markup=False)
        statuses.append(DONE if plan not in left and has_finished(plan) else FAILED)
    return statuses
