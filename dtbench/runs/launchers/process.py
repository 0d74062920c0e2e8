"""A process that does runs: how a launcher starts it, what it says if the process left no result, how it is stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dtbench import atomic
from dtbench.results.provenance import COMMAND, command, now
from dtbench.results.schema import INTERRUPTED, ErrorRecord
from dtbench.runs.folder import naming_the_folder
from dtbench.runs.launchers.worker import BUSY, LAUNCHER_PID
from dtbench.runs.plan import RunPlan
from dtbench.runs.record import has_finished, identify_result, record_without_scores
from dtbench.runs.work import Work
from dtbench.signals import describe_exit, kill_group, times_stopped

#: Seconds between two looks at the processes.
POLL_S = 0.2
#: Seconds that a process has to record its runs as interrupted.
_GRACE_S = 30.0


@dataclass
class Worker:
    """A process of its own that does the runs of `work`.

    Attributes:
        before: what identifies the result file of each run that lay there before, to tell whether the worker wrote one.
    """

    work: Work
    process: subprocess.Popen[bytes]
    started: str
    before: list[tuple[int, int] | None]

    @classmethod
    def start(cls, work: Work, threads: int) -> Worker:
        """Start the process, with `threads` threads unless `OMP_NUM_THREADS` is set; it prints to the runs' log.

        Raises:
            ResultError: the folder cannot be written to.
        """
        folder = work.folder
        folder.create()
        started, before = now(), [identify_result(plan) for plan in work.plans]
        with naming_the_folder(folder.path):
            atomic.write_text(folder.plan, json.dumps(work.to_dict(), indent=2) + "\n")
            log = folder.log.open("ab")
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUTF8": "1"}
        environment |= {LAUNCHER_PID: str(os.getpid()), COMMAND: command()}
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dtbench.runs.launchers.worker", str(folder.plan)],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches us, and we tell the workers
            )
        return cls(work, process, started, before)

    def has_ended(self) -> bool:
        """Say whether the process has ended; if so, end what other ranks of its own are left."""
        if self.process.poll() is None:
            return False
        kill_group(self.process.pid)
        return True

    @property
    def found_busy(self) -> bool:
        """Whether the ended process found another one working on its runs."""
        return self.process.returncode == BUSY

    def left_without_result(self) -> list[RunPlan]:
        """Return the runs of the ended process that have no result of it."""
        runs = zip(self.work.plans, self.before, strict=True)
        return [plan for plan, before in runs if identify_result(plan) == before and not has_finished(plan)]

    def failure(self) -> ErrorRecord:
        """Describe the end of a process that left no result."""
        code = self.process.returncode
        words, signal_name = describe_exit(code)
        return ErrorRecord(
            type="WorkerEnded",
            message=f"The worker process {words} without a result.",
            traceback="",
            exit_code=None if signal_name else code,
            signal=signal_name,
            log_tail=self.work.folder.log_tail(),
        )


def stop(workers: Sequence[Worker]) -> None:
    """Ask all workers to stop, wait until they have, and record what they could not; a second signal hurries."""
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + _GRACE_S
    while any(worker.process.poll() is None for worker in workers):
        if time.monotonic() > deadline or times_stopped() > 1:
            break
        time.sleep(POLL_S / 2)
    for worker in workers:
        kill_group(worker.process.pid)
        worker.process.wait()
        for plan in worker.left_without_result():
            record_without_scores(plan, INTERRUPTED, worker.started)
