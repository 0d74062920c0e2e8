"""Where datasets come from. Each source turns foreign data into a `TrajectoryStore`; a suite names those it has.

A source is a module with `build(dataset, *, steps, progress=None, …) -> TrajectoryStore`, which finds or makes the
dataset, and `locate(dataset, *, steps) -> TrajectoryStore | None`, which only looks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from dtbench.data.store import TrajectoryStore
from dtbench.errors import SourceError, UnknownNameError
from dtbench.suites import Task

SOURCES = {"local": "dtbench.data.sources.local"}
AUTO = "auto"

#: Called with (steps done, steps in all).
Progress = Callable[[int, int], None]


def source_module(name: str) -> Any:
    """Import a source; raise `UnknownNameError` with a suggestion if there is none of that name."""
    if name not in SOURCES:
        raise UnknownNameError("source", name, SOURCES)
    return importlib.import_module(SOURCES[name])


def resolve_source(task: Task, order: tuple[str, ...], wanted: str = AUTO) -> str:
    """Choose the source of a task: the one asked for, or the first in the suite's order that the task names.

    Raises:
        UnknownNameError: there is no source of that name.
        SourceError: the task has no dataset there; the message names where it has.
    """
    if wanted == AUTO:
        for name in order:
            if name in task.sources and name in SOURCES:
                return name
        raise SourceError(f"Task {task.id} names no source that this version of dtbench has.")
    if wanted not in SOURCES:
        raise UnknownNameError("source", wanted, [*SOURCES, AUTO])
    if wanted not in task.sources:
        raise SourceError(f"Task {task.id} has no dataset from {wanted!r}; it has {', '.join(task.sources)}.")
    return wanted


def is_ready(source: str, dataset: str, steps: int) -> bool:
    """Say whether a dataset is built already."""
    return source_module(source).locate(dataset, steps=steps) is not None


def open_store(source: str, dataset: str, steps: int, progress: Progress | None = None) -> TrajectoryStore:
    """Open a dataset, building it first where it is missing; `steps` is the size of a locally built one."""
    store: TrajectoryStore = source_module(source).build(dataset, steps=steps, progress=progress)
    return store
