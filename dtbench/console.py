"""What a person sees: one rich console, a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from dtbench.signals import Stopped

#: Results and machine-readable output go to stdout, everything said meanwhile to stderr.
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

#: Called with (done, in all): steps of a rollout, bytes of a download.
Progress = Callable[[int, int], None]

_NOISE = (
    ".*does not have many workers.*",
    ".*`isinstance.treespec, LeafSpec.`.*",
    ".*The number of training batches.*",
    ".*Checkpoint directory.*exists.*",
    ".*You are resuming from a checkpoint that ended before the epoch.*",
    ".*GPU available but not used.*",
    ".*Found .* module.s. in eval mode.*",
    ".*`torch.jit.script` is deprecated.*",
)


def quieten_libraries() -> None:
    """Silence advice that does not concern a user of dtbench; warnings about their data or hardware stay."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Yield `report(done, total)`: a bar on a terminal, nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ProgressBar(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def resumable() -> Iterator[None]:
    """Let the sentence that follows an interruption say that nothing is lost."""
    try:
        yield
    except Stopped as stopped:
        stopped.advice = "; the same command continues where this one stopped"
        raise
