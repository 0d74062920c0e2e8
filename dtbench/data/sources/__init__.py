"""Where datasets come from. Each source turns foreign data into a `TrajectoryStore`; a suite lists the sources it has.

A source is a module with

* `HOST`: the server it downloads from; None: nothing is ever downloaded;
* `locate(dataset, *, steps) -> TrajectoryStore | None`, which opens a store only if it is built already;
* `needs_network(dataset) -> bool`: whether `build` lacks something that only a download can bring;
* `build(dataset, *, steps, progress=None, …) -> TrajectoryStore`, which makes the store and downloads what is missing.
"""

from __future__ import annotations

import functools
import importlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from dtbench.console import Progress
from dtbench.data.store import TrajectoryStore
from dtbench.errors import SourceError, UnknownNameError
from dtbench.suites.suites import Task

SOURCES = {
    "minari": "dtbench.data.sources.minari",
    "d4rl": "dtbench.data.sources.d4rl",
    "dqn_replay": "dtbench.data.sources.dqn_replay",
    "own": "dtbench.data.sources.own",
    "local": "dtbench.data.sources.local",
}
AUTO = "auto"
#: Seconds that a server has to answer before it counts as out of reach.
_PATIENCE = 3.0

#: A source's name, and whether a task's data can be taken from it.
_Choice = tuple[str, Callable[[Task], bool]]


def source_module(name: str) -> Any:
    """Import a source; raise `UnknownNameError` with a suggestion if no source has that name."""
    if name not in SOURCES:
        raise UnknownNameError("source", name, SOURCES)
    return importlib.import_module(SOURCES[name])


def resolve_sources(tasks: Sequence[Task], order: Sequence[str], wanted: str = AUTO) -> dict[str, str]:
    """Choose the source of each task: the one asked for, or `auto`: data on disk, then the network, then `local`.

    `auto` takes one source for all tasks if one has the data of all, so that their results share one table; otherwise
    it chooses for each task alone.

    Args:
        tasks: the tasks to choose for.
        order: the suite's order of sources.
        wanted: a source's name, or `auto`.

    Returns:
        The source of each task by the task's id; tasks without data are left out (`unavailable_message` says why).

    Raises:
        UnknownNameError: no source has that name.
        SourceError: the source asked for lists a task's data, but they are not on disk and its server is out of reach.
    """
    if wanted != AUTO:
        return _take_from(wanted, tasks)
    choices = _choices(order)
    for name, has_data in choices:
        if all(has_data(task) for task in tasks):
            return {task.id: name for task in tasks}
    chosen = {task.id: _first(task, choices) for task in tasks}
    return {task_id: name for task_id, name in chosen.items() if name is not None}


def _take_from(name: str, tasks: Sequence[Task]) -> dict[str, str]:
    """Choose one source for all tasks that list it."""
    if name not in SOURCES:
        raise UnknownNameError("source", name, [*SOURCES, AUTO])
    listing = [task for task in tasks if name in task.sources]
    for task in listing:
        if _needs_network(task, name) and not is_reachable(name):
            raise SourceError(unavailable_message(task, name))
    return {task.id: name for task in listing}


def _choices(order: Sequence[str]) -> list[_Choice]:
    """Return what `auto` tries, best first; a public source occurs twice, for data on disk and for its server."""

    def lists(task: Task, name: str) -> bool:
        return name in task.sources

    def is_on_disk(task: Task, name: str) -> bool:
        return lists(task, name) and not _needs_network(task, name)

    def can_be_fetched(task: Task, name: str) -> bool:
        return lists(task, name) and is_reachable(name)

    public = [name for name in order if name in SOURCES and name != "local"]
    tried = [(name, is_on_disk) for name in public] + [(name, can_be_fetched) for name in public] + [("local", lists)]
    return [(name, functools.partial(has_data, name=name)) for name, has_data in tried]


def _first(task: Task, choices: Sequence[_Choice]) -> str | None:
    return next((name for name, has_data in choices if has_data(task)), None)


def _needs_network(task: Task, name: str) -> bool:
    return bool(source_module(name).needs_network(task.sources[name]))


@functools.cache
def is_reachable(name: str) -> bool:
    """Report whether a source has a server that answers, asked once per process; never with `DTBENCH_OFFLINE=1`."""
    host = source_module(name).HOST
    if host is None or os.environ.get("DTBENCH_OFFLINE", "0") not in ("", "0"):
        return False
    try:
        socket.create_connection((host, 443), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


def unavailable_message(task: Task, name: str = AUTO) -> str:
    """Explain in one line why a task has no data from one source, or from any (`auto`), and what the user can do."""
    if name != AUTO and name not in task.sources:
        return f"Task {task.id} has no dataset from {name!r}; it has {', '.join(task.sources)}."
    tried = list(task.sources) if name == AUTO else [name]
    reasons = "; ".join(_why_not(source, task.sources[source]) for source in tried)
    dataset = task.sources[tried[0]]
    if tried == ["own"]:
        return f"Task {task.id} has no data: {reasons}. {source_module('own').how_to_import(dataset)}"
    remedies = [
        f"fetch it where there is a network (`dtbench data fetch {dataset}`)",
        f"or import its file (`dtbench data import FILE --as {dataset}`)",
    ]
    if "local" in task.sources:
        remedies.append("or use locally built data (--source local)")
    return f"Task {task.id} has no data: {reasons}. To get data, {', '.join(remedies)}."


def _why_not(source: str, dataset: str) -> str:
    host = source_module(source).HOST
    missing = f"{source}/{dataset} is not on this machine"
    return missing if host is None else f"{missing} and {host} cannot be reached"


def is_ready(source: str, dataset: str, steps: int) -> bool:
    """Report whether a dataset is built already."""
    return source_module(source).locate(dataset, steps=steps) is not None


def open_store(source: str, dataset: str, steps: int, progress: Progress | None = None) -> TrajectoryStore:
    """Open a dataset, building it first if it is missing; `steps` is the size of a locally built one."""
    store: TrajectoryStore = source_module(source).build(dataset, steps=steps, progress=progress)
    return store
