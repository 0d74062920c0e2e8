"""What a node of a Ray cluster does with the runs it is sent. It need not share storage with the driver.

If the node sees the driver's output folder, it does the runs there. Otherwise it uses a folder of its own and sends
results and logs back as bytes; that folder is kept, so that the node can resume from its checkpoints.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dtbench import atomic
from dtbench.resources import home
from dtbench.results.schema import ErrorRecord
from dtbench.runs.folder import Busy
from dtbench.runs.launchers.process import Worker, stop
from dtbench.runs.live import Seen, look
from dtbench.runs.plan import RunPlan
from dtbench.runs.prepare import prepare_data, prepare_models
from dtbench.runs.work import Work

#: Seconds between two reports.
_REPORT_EVERY_S = 1.0
#: Files of a run's folder that mean something only where the run is done.
_STAY = {"plan.json", "progress.json", "process.json", "run.lock", "run.softlock"}


#: Takes the number of a work, what is seen of its runs, and checkpoints by path relative to the output folder.
Report = Callable[[int, list[Seen], dict[str, bytes]], None]


@dataclass(frozen=True)
class Order:
    """The runs that a node is asked to do.

    Attributes:
        index: which of the driver's works it is.
        work: `Work.to_dict`.
        sender: the driver's host.
        mark: a file in the driver's output folder, which only nodes that share it see.
        files: what a node without that folder needs, by path relative to it: checkpoints to resume from.
        modules: the text of model files, by path.
        threads: of the process.
        afresh: forget what the node has of these runs.
        with_checkpoints: checkpoints travel back too.
    """

    index: int
    work: dict[str, Any]
    sender: str
    mark: Path
    files: dict[str, bytes]
    modules: dict[str, str]
    threads: int
    afresh: bool
    with_checkpoints: bool


@dataclass(frozen=True)
class Answer:
    """What became of an order.

    Attributes:
        node: the node's host.
        is_busy: another process is working on the runs.
        failure: how the process died, if it left runs without a result.
        files: results, logs and perhaps checkpoints, by path relative to the output folder; empty if it is shared.
    """

    node: str
    is_busy: bool = False
    failure: ErrorRecord | None = None
    files: Mapping[str, bytes] | None = None


def do(order: Order, report: Report) -> Answer:
    """Do the runs in a process of their own, which ends with this one, and report how far they are.

    Raises:
        DtbenchError: data or weights that this node cannot get.
        KeyboardInterrupt: the driver has called the runs off; they are recorded as interrupted.
    """
    is_shared, node = order.mark.exists(), socket.gethostname()
    work = Work.from_dict(order.work if is_shared else _moved(order))
    prepare_models(work.plans)
    prepare_data(work.plans)
    if not is_shared:
        try:
            _take_over(order, work)
        except Busy:
            return Answer(node, is_busy=True)
    os.environ["OMP_NUM_THREADS"] = str(order.threads)  # Ray sets it to the CPUs of all ranks together
    worker = Worker.start(work, order.threads)
    sent: dict[str, float] = {}
    try:
        while not worker.has_ended():
            files = {} if is_shared or not order.with_checkpoints else _new_checkpoints(work, sent)
            report(order.index, [replace(look(plan), node=node) for plan in work.plans], files)
            time.sleep(_REPORT_EVERY_S)
    except BaseException:
        stop([worker])
        raise
    failure = worker.failure() if worker.left_without_result() and not worker.found_busy else None
    files = {} if is_shared else {k: v for plan in work.plans for k, v in _files(plan, order.with_checkpoints).items()}
    return Answer(node, worker.found_busy, failure, files)


def _moved(order: Order) -> dict[str, Any]:
    """Return the work with an output folder of this node's own, and with the files of models from outside there."""
    plans = [dict(plan) for plan in order.work["plans"]]
    name = hashlib.sha256(f"{order.sender}:{plans[0]['output']}".encode()).hexdigest()[:12]
    output = home() / "ray" / name
    for plan in plans:
        file, _, class_name = plan["model"].rpartition(":")
        if file in order.modules:
            text = order.modules[file]
            # A folder per content: the file's name is part of the model's, and another version may be in use.
            copy = output / "models" / hashlib.sha256(text.encode()).hexdigest()[:12] / Path(file).name
            copy.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(copy, text)
            plan["model"] = f"{copy}:{class_name}"
        plan["output"] = str(output)
    return {**order.work, "plans": plans}


def _take_over(order: Order, work: Work) -> None:
    """Prepare this node's own folders of the runs: delete what is there if that is wished, and add what was sent.

    Raises:
        Busy: a process is working on one of the runs.
    """
    for plan in work.plans:
        with plan.folder.lock():
            if order.afresh:
                plan.result_path.unlink(missing_ok=True)
                plan.folder.clear()
            if not plan.folder.latest.exists() and not plan.folder.final.exists():
                below = plan.folder.path.relative_to(plan.output).as_posix() + "/"
                write_files({k: v for k, v in order.files.items() if k.startswith(below)}, plan.output)


def write_files(files: Mapping[str, bytes], output: Path) -> None:
    """Write files that travelled, in their order; each appears whole or not at all.

    Raises:
        OSError: the folder cannot be written to.
    """
    for name, content in files.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, content)


def checkpoints_of(plan: RunPlan) -> dict[str, bytes]:
    """Return the files from which another node can resume the run, by path relative to the output folder."""
    folder = plan.folder
    return _read((folder.record, folder.latest, folder.final, folder.training), plan.output)


def _new_checkpoints(work: Work, sent: dict[str, float]) -> dict[str, bytes]:
    """Return the checkpoints that were written since the last call; `sent` keeps their times."""
    found: dict[str, bytes] = {}
    for plan in work.plans:
        try:
            time_written = plan.folder.latest.stat().st_mtime
        except OSError:
            continue
        if sent.get(plan.label) != time_written:
            sent[plan.label] = time_written
            found |= _read((plan.folder.record, plan.folder.latest), plan.output)
    return found


def _files(plan: RunPlan, with_checkpoints: bool) -> dict[str, bytes]:
    """Return the run's result, logs and maybe checkpoints, the result last."""
    paths = [path for path in sorted(plan.folder.path.rglob("*")) if path.is_file() and path.name not in _STAY]
    if not with_checkpoints:
        paths = [path for path in paths if path.suffix != ".ckpt"]
    return _read((*paths, plan.result_path), plan.output)


def _read(paths: Sequence[Path], output: Path) -> dict[str, bytes]:
    found = {}
    for path in paths:
        try:
            found[path.relative_to(output).as_posix()] = path.read_bytes()
        except FileNotFoundError:  # none yet, or replaced at this moment
            continue
    return found
