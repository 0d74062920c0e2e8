"""What a person sees while runs are under way: a bar per run on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dtbench.console import err
from dtbench.runs.folder import Progress as RunProgress
from dtbench.runs.plan import RunPlan

_LINE_EVERY_S = 60.0


@dataclass(frozen=True)
class Seen:
    """What is seen of a running run.

    Attributes:
        is_trained: whether its training is over, so that it is being evaluated.
        node: the machine of a cluster that it runs on; empty for this one.
    """

    progress: RunProgress
    is_trained: bool
    node: str = ""


def look(plan: RunPlan) -> Seen:
    """Look into the folder of a run."""
    return Seen(plan.folder.read_progress(), plan.folder.final.is_file())


class Display:
    """Shows the training steps, loss and remaining time of the running ones among `plans`."""

    def __init__(self, plans: Sequence[RunPlan]) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        self._numbers = {plan.label: f"{number}/{len(plans)}" for number, plan in enumerate(plans, start=1)}
        self._bars = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, running: Sequence[tuple[RunPlan, Seen]]) -> None:
        """Bring the display up to date with the running plans."""
        if err.is_terminal:
            self._update_bars(running)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            for plan, seen in running:
                err.print(f"{self._numbers[plan.label]} {describe(plan, seen)}", markup=False)

    def _update_bars(self, running: Sequence[tuple[RunPlan, Seen]]) -> None:
        for label in set(self._tasks) - {plan.label for plan, _ in running}:
            self._bars.remove_task(self._tasks.pop(label))
        for plan, seen in running:
            if plan.label not in self._tasks:
                total = plan.config.training.steps
                self._tasks[plan.label] = self._bars.add_task("", total=total, loss="")
            progress, name = seen.progress, escape(plan.label + _on(seen))
            self._bars.update(self._tasks[plan.label], description=name, completed=progress.step, loss=_loss(progress))


def describe(plan: RunPlan, seen: Seen) -> str:
    """Describe a running run in one line: step, loss and remaining time of its training."""
    steps, progress, name = plan.config.training.steps, seen.progress, plan.label + _on(seen)
    if progress.step == 0:
        return f"{name}: {'evaluating' if seen.is_trained else 'starting'}"
    left = duration((steps - progress.step) / progress.steps_per_s) if progress.steps_per_s else "unknown time"
    loss = _loss(progress)
    return f"{name}: step {progress.step:,} of {steps:,}{f', {loss}' if loss else ''}, {left} left to train"


def _on(seen: Seen) -> str:
    return f" on {seen.node}" if seen.node else ""


def duration(seconds: float) -> str:
    """Say a duration roughly.

    >>> duration(40), duration(200), duration(9000)
    ('1 min', '3 min', '2.5 h')
    """
    if seconds < 90 * 60:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"


def _loss(progress: RunProgress) -> str:
    return "" if progress.loss is None else f"loss {progress.loss:.4g}"
