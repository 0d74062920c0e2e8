"""Where datasets come from. Each source turns foreign data into a `TrajectoryStore`; a suite names those it has.

A source is a module with

* `HOST`: the server it fetches from, or None;
* `locate(dataset, *, steps) -> TrajectoryStore | None`, which only looks for a store that is built already;
* `at_hand(dataset) -> bool`: whether `build` needs no network;
* `build(dataset, *, steps, progress=None, …) -> TrajectoryStore`, which makes the store, fetching what is missing.
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
    "local": "dtbench.data.sources.local",
}
AUTO = "auto"
#: Seconds that a server has to answer before it counts as out of reach.
_PATIENCE = 3.0


def source_module(name: str) -> Any:
    """Import a source; raise `UnknownNameError` with a suggestion if there is none of that name."""
    if name not in SOURCES:
        raise UnknownNameError("source", name, SOURCES)
    return importlib.import_module(SOURCES[name])


def resolve_sources(tasks: Sequence[Task], order: Sequence[str], wanted: str = AUTO) -> dict[str, str]:
    """Choose the source of each task: the one asked for, or `auto`: what is on disk, then the network, then `local`.

    `auto` takes one source for all tasks where one has them all, so that they stand in one table; else each task its
    own. Tasks whose data cannot be had are left out.

    Returns:
        The source of each task by the task's id.

    Raises:
        UnknownNameError: there is no source of that name.
        SourceError: a task's data cannot be had from the source asked for; the message says what was tried and what
            to do.
    """
    if wanted != AUTO:
        if wanted not in SOURCES:
            raise UnknownNameError("source", wanted, [*SOURCES, AUTO])
        having = [task for task in tasks if wanted in task.sources]
        for task in having:
            if not (_at_hand(task, wanted) or is_reachable(wanted)):
                raise SourceError(why_not(task, wanted))
        return {task.id: wanted for task in having}
    public = [name for name in order if name in SOURCES and name != "local"]
    ways: list[tuple[str, Callable[[Task, str], bool]]] = [
        *((name, lambda task, name: name in task.sources and _at_hand(task, name)) for name in public),
        *((name, lambda task, name: name in task.sources and is_reachable(name)) for name in public),
        ("local", lambda task, name: name in task.sources),
    ]
    for name, can in ways:
        if all(can(task, name) for task in tasks):
            return {task.id: name for task in tasks}
    chosen = {task.id: next((name for name, can in ways if can(task, name)), None) for task in tasks}
    return {task_id: name for task_id, name in chosen.items() if name is not None}


def _at_hand(task: Task, name: str) -> bool:
    return bool(source_module(name).at_hand(task.sources[name]))


@functools.cache
def is_reachable(name: str) -> bool:
    """Say whether the source's server answers; asked once per process. `DTBENCH_OFFLINE=1` says no for all."""
    host = source_module(name).HOST
    if host is None:
        return True
    if os.environ.get("DTBENCH_OFFLINE", "0") not in ("", "0"):
        return False
    try:
        socket.create_connection((host, 443), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


def why_not(task: Task, name: str = AUTO) -> str:
    """Say in one paragraph why a task's data cannot be had, from one source or from any, and the ways out."""
    if name != AUTO and name not in task.sources:
        return f"Task {task.id} has no dataset from {name!r}; it has {', '.join(task.sources)}."
    tried = list(task.sources) if name == AUTO else [name]
    said = [
        f"{source}/{task.sources[source]} is not on this machine and {source_module(source).HOST} cannot be reached"
        for source in tried
    ]
    example = task.sources[tried[0]]
    ways = [f"fetch it where there is a network (`dtbench data fetch {example}`)"]
    ways.append(f"or give its file (`dtbench data import FILE --as {example}`)")
    if "local" in task.sources:
        ways.append("or take locally built data (--source local)")
    return f"Task {task.id} has no data: {'; '.join(said)}. Ways out: {', '.join(ways)}."


def is_ready(source: str, dataset: str, steps: int) -> bool:
    """Say whether a dataset is built already."""
    return source_module(source).locate(dataset, steps=steps) is not None


def open_store(source: str, dataset: str, steps: int, progress: Progress | None = None) -> TrajectoryStore:
    """Open a dataset, building it first where it is missing; `steps` is the size of a locally built one."""
    store: TrajectoryStore = source_module(source).build(dataset, steps=steps, progress=progress)
    return store
