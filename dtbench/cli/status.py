"""`dtbench status` and `dtbench clean`: what has become of the runs in a folder, and what they leave behind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from dtbench.cli.output import Json, echo_json

if TYPE_CHECKING:
    from dtbench.runs.status import RunState

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results, as --output of `dtbench run`.")]
#: Runs of one state that are listed; the others are counted.
_LISTED = 20
_EVERY_S = 2.0


def status(
    folder: Folder = Path("results"),
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every two seconds, until Ctrl-C.")] = False,
    json_: Json = False,
) -> None:
    """Say what is done, running (where, since when, at which step), failed (why), interrupted, or waiting.

    It reads the folder only: ask from another terminal, or from another machine that shares the folder.
    """
    from dtbench.runs.status import run_states

    states = run_states(folder)
    if json_:
        echo_json([state.to_dict() for state in states])
        return
    if not watch:
        typer.echo("\n".join(_lines(folder, states)))
        return
    while True:
        click.clear()
        typer.echo("\n".join(_lines(folder, states)))
        time.sleep(_EVERY_S)
        states = run_states(folder)


def _lines(folder: Path, states: Sequence[RunState]) -> list[str]:
    from dtbench.results.schema import DONE
    from dtbench.runs.status import STATES, counts

    numbers = counts(states)
    words = {DONE: "done"}
    said = ", ".join(f"{count:,} {words.get(name, name)}" for name, count in numbers.items() if count)
    lines = [f"{folder}: {said or 'no runs'}"]
    for name in STATES:
        found = [state for state in states if state.state == name]
        if name == DONE or not found:
            continue
        lines += ["", f"{name}:", *(f"  {state.describe()}" for state in found[:_LISTED])]
        if len(found) > _LISTED:
            lines.append(f"  and {len(found) - _LISTED:,} more (--json lists all)")
    return lines


def clean(
    folder: Folder,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep the trained weights, for evaluate, record and analyze.")
    ] = False,
) -> None:
    """Delete checkpoints and logs of the finished runs in a folder; their results stay."""
    from dtbench.console import resumable
    from dtbench.runs.cleaning import clean_run, deletable, finished_folders

    with resumable():
        found = [(run, deletable(run, keep_weights)) for run in finished_folders(folder)]
        found = [(run, size) for run, size in found if size]
        if not found:
            typer.echo(f"{folder}: the finished runs have nothing to delete.")
            return
        total = sum(size for _, size in found)
        what = "logs" if keep_weights else "checkpoints and logs"
        typer.echo(f"{folder}: {what} of {len(found):,} finished runs, {total / 1e6:,.1f} MB. Their results stay.")
        if not yes:
            typer.confirm("Delete them?", abort=True)
        freed = sum(clean_run(run, keep_weights) for run, _ in found)
        typer.echo(f"Deleted {freed / 1e6:,.1f} MB.")
