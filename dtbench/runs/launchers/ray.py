"""Runs as tasks of a Ray cluster (extra `ray`). `cluster.py` knows the cluster, `node.py` what a node does.

Every process of runs is a task that asks for CPUs, GPUs and memory. A task whose process or node dies is submitted
again. It resumes from the run's last checkpoint if it can reach it: on shared storage, on the same node, or because
checkpoints are fetched. Nothing else needs to be shared: this package is sent to the nodes as Ray's runtime
environment, and each node builds its datasets under a lock.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dtbench.console import err
from dtbench.errors import ClusterError
from dtbench.results.provenance import now
from dtbench.results.schema import DONE, FAILED, INTERRUPTED, ErrorRecord
from dtbench.runs.folder import naming_the_folder
from dtbench.runs.launchers import node
from dtbench.runs.launchers.cluster import Cluster, Demand, connected
from dtbench.runs.live import Display, Seen
from dtbench.runs.record import describe_outcome, has_finished, identify_result, record_without_scores
from dtbench.runs.work import Work
from dtbench.signals import raise_if_stopped

#: Seconds between two looks at the cluster.
_POLL_S = 0.5
#: Seconds after which runs are tried again that another command was working on.
_BUSY_S = 5.0
#: Seconds that the board has to answer, and that tasks have to stop.
_ANSWER_S, _GRACE_S = 5.0, 30.0


@dataclass(frozen=True)
class Options:
    """How the cluster is used.

    Attributes:
        address: of the cluster; None takes `RAY_ADDRESS`, or starts one on this machine for the time of the runs.
        jobs: processes side by side per node; None gives each a CPU per device.
        retries: how many times a run is submitted again after its process or node has died.
        fetch_checkpoints: whether checkpoints come back from nodes that do not see the output folder.
        afresh: whether nodes forget what they have of these runs.
    """

    address: str | None = None
    jobs: int | None = None
    retries: int = 2
    fetch_checkpoints: bool = False
    afresh: bool = False


def run_all(works: Sequence[Work], needed: Sequence[int], options: Options) -> list[str]:
    """Do the runs on the cluster, and return the statuses of all runs in order.

    Args:
        works: the runs of each process.
        needed: bytes of memory of a training step of each.
        options: how.

    Raises:
        ConfigError: Ray is not installed.
        ClusterError: the cluster cannot be reached or is lost, or no node has what a run needs.
        Stopped, KeyboardInterrupt: after the runs were called off and recorded as interrupted.
    """
    with connected(options.address) as ray:
        return _Driver(ray, works, needed, options).run()


def mark_in(folder: Path) -> Path:
    """Return a new file in the folder, by which nodes recognise that they share it."""
    mark = folder.resolve() / f".ray-{uuid.uuid4().hex}"
    mark.touch()
    return mark


class _Board:
    """An actor beside the driver: nodes report there, and the driver reads it."""

    def __init__(self) -> None:
        self._seen: dict[int, list[Seen]] = {}
        self._files: dict[int, dict[str, bytes]] = {}

    def report(self, index: int, seen: list[Seen], files: dict[str, bytes]) -> None:
        self._seen[index] = seen
        self._files.setdefault(index, {}).update(files)

    def read(self) -> tuple[dict[int, list[Seen]], dict[int, dict[str, bytes]]]:
        """Return what was reported since the last call, and the checkpoints that came with it."""
        seen, self._seen = self._seen, {}
        files, self._files = self._files, {}
        return seen, files


@dataclass
class _Task:
    """A work on the cluster.

    Attributes:
        before: what identifies the result file of each of its runs that lay there before.
        attempts: how often it was given to the cluster and died.
        seen: what was reported last; empty if it has not begun.
        not_before: when it may be given to the cluster again, on the monotonic clock.
    """

    work: Work
    demand: Demand
    started: str
    before: list[tuple[int, int] | None]
    attempts: int = 0
    seen: list[Seen] = field(default_factory=list)
    not_before: float = 0.0


class _Driver:
    """Gives works to the cluster, brings home what they leave, and gives out again what dies."""

    def __init__(self, ray: Any, works: Sequence[Work], needed: Sequence[int], options: Options) -> None:
        self._ray, self._works, self._options = ray, works, options
        self._cluster = Cluster(ray)
        self._tasks = [
            _Task(
                work,
                self._cluster.demand(work, memory, options.jobs),
                now(),
                [identify_result(plan) for plan in work.plans],
            )
            for work, memory in zip(works, needed, strict=True)
        ]
        self._statuses = [[FAILED] * len(work.plans) for work in works]
        self._waiting = list(range(len(works)))
        self._running: dict[Any, int] = {}

    def run(self) -> list[str]:
        if not self._works:
            return []
        for task in self._tasks:
            if not self._cluster.fits(task.demand):
                raise task.demand.error()
        self._start_board()
        output = self._works[0].plans[0].output
        with naming_the_folder(output):
            output.mkdir(parents=True, exist_ok=True)
            mark = mark_in(output)
        try:
            with Display([plan for work in self._works for plan in work.plans]) as display:
                while self._waiting or self._running:
                    raise_if_stopped()
                    if not self._cluster.answers():  # Ray's own calls would now wait for it, and end this process
                        time.sleep(_POLL_S)
                        continue
                    left = [*self._waiting, *self._running.values()]
                    self._cluster.check_that_one_fits([self._tasks[index].demand for index in left])
                    self._submit(mark)
                    self._collect()
                    self._read_board()
                    display.show([pair for index in self._running.values() for pair in self._pairs(index)])
        except ClusterError:
            raise
        except BaseException:
            self._call_off()
            raise_if_stopped()  # a signal within Ray's own code surfaces as a SystemError
            raise
        finally:
            mark.unlink(missing_ok=True)
        return [status for of_work in self._statuses for status in of_work]

    def _pairs(self, index: int) -> list[tuple[Any, Seen]]:
        task = self._tasks[index]
        return list(zip(task.work.plans, task.seen, strict=True)) if task.seen else []

    # --- giving out

    def _start_board(self) -> None:
        beside = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=False
        )
        self._board = self._ray.remote(_Board).options(num_cpus=0, scheduling_strategy=beside).remote()

    def _submit(self, mark: Path) -> None:
        moment = time.monotonic()
        for index in [index for index in self._waiting if self._tasks[index].not_before <= moment]:
            self._waiting.remove(index)
            task = self._tasks[index]
            if task.not_before and all(has_finished(plan) for plan in task.work.plans):
                self._statuses[index] = [DONE] * len(task.work.plans)
                err.print(f"{task.work.label}: finished by another command", markup=False)
                continue
            remote = self._ray.remote(_do).options(
                num_cpus=task.demand.cpus,
                num_gpus=task.demand.gpus,
                memory=task.demand.memory,
                max_retries=0,
                scheduling_strategy="SPREAD",
            )
            task.seen = []
            self._running[remote.remote(self._order(index, mark), self._board)] = index

    def _order(self, index: int, mark: Path) -> node.Order:
        task = self._tasks[index]
        files: dict[str, bytes] = {}
        if self._options.fetch_checkpoints:
            files = {k: v for plan in task.work.plans for k, v in node.checkpoints_of(plan).items()}
        return node.Order(
            index=index,
            work=task.work.to_dict(),
            sender=socket.gethostname(),
            mark=mark,
            files=files,
            modules=_model_files(task.work),
            threads=task.demand.cpus // task.work.plans[0].config.hardware.devices,
            afresh=self._options.afresh and task.attempts == 0,
            with_checkpoints=self._options.fetch_checkpoints,
        )

    # --- bringing home

    def _collect(self) -> None:
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_POLL_S) if self._running else ([], [])
        if not self._running:
            time.sleep(_POLL_S)
        for reference in done:
            index = self._running.pop(reference)
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:  # raised there: data that cannot be had, for instance
                self._fail(index, ErrorRecord.from_exception(error.cause or error))
            except self._ray.exceptions.RayError as error:
                self._try_again(index, ErrorRecord.from_exception(error))
            else:
                self._take(index, answer)

    def _take(self, index: int, answer: node.Answer) -> None:
        task = self._tasks[index]
        output = task.work.plans[0].output
        with naming_the_folder(output):
            node.write_files(answer.files or {}, output)
            for plan in task.work.plans if answer.files else ():
                if plan.folder.training.exists():
                    plan.folder.latest.unlink(missing_ok=True)  # fetched while it was trained
        if answer.is_busy:
            task.not_before = time.monotonic() + _BUSY_S
            self._waiting.append(index)
        elif answer.failure is not None:
            self._try_again(index, answer.failure)
        else:
            self._end(index)

    def _try_again(self, index: int, failure: ErrorRecord) -> None:
        task = self._tasks[index]
        task.attempts += 1
        if task.attempts > self._options.retries:
            self._fail(index, failure)
            return
        where = f" on {task.seen[0].node}" if task.seen else ""
        reason = failure.message.strip().partition(". ")[0].rstrip(".") or failure.type
        err.print(
            f"{task.work.label}: died{where} ({reason}); submitted again "
            f"(retry {task.attempts} of {self._options.retries})",
            markup=False,
        )
        self._waiting.append(index)

    def _fail(self, index: int, failure: ErrorRecord) -> None:
        task = self._tasks[index]
        for plan, before in zip(task.work.plans, task.before, strict=True):
            if identify_result(plan) == before and not has_finished(plan):
                record_without_scores(plan, FAILED, task.started, failure)
        self._end(index)

    def _end(self, index: int) -> None:
        work = self._tasks[index].work
        for plan, number in zip(work.plans, work.numbers, strict=True):
            err.print(describe_outcome(plan, number), markup=False)
        self._statuses[index] = [DONE if has_finished(plan) else FAILED for plan in work.plans]

    def _read_board(self) -> None:
        with suppress(self._ray.exceptions.RayError):  # what it shows is news, not a result
            seen, files = self._ray.get(self._board.read.remote(), timeout=_ANSWER_S)
            for index, state in seen.items():
                self._tasks[index].seen = state
            output = self._works[0].plans[0].output
            with naming_the_folder(output):
                for index in set(files) & set(self._running.values()):
                    node.write_files(files[index], output)

    def _call_off(self) -> None:
        """Ask all tasks to stop, wait for them a while, and record what had begun as interrupted."""
        for reference in self._running:
            self._ray.cancel(reference)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=_GRACE_S)
        for index in self._running.values():
            task = self._tasks[index]
            for plan, before in zip(task.work.plans, task.before, strict=True):
                if task.seen and identify_result(plan) == before and not has_finished(plan):
                    record_without_scores(plan, INTERRUPTED, task.started)


def _do(order: node.Order, board: Any) -> node.Answer:
    return node.do(order, lambda *report: board.report.remote(*report))


def _model_files(work: Work) -> dict[str, str]:
    """Return the text of the files that models from outside are in, by path."""
    files = {plan.model.address.rpartition(":")[0] for plan in work.plans}
    return {file: Path(file).read_text(encoding="utf-8") for file in files if file.endswith(".py")}
