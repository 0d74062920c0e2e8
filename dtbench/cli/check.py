"""`dtbench check-model`: does a model keep the contract?"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from dtbench.cli.output import Json, Overrides, echo_json
from dtbench.errors import UnknownNameError


def check_model(
    model: Annotated[str, typer.Argument(help="A model's name, package.module:Class, or FILE.py:Class.")],
    set_: Overrides = [],  # noqa: B006
    spaces: Annotated[
        str,
        typer.Option(help="Kind of task: vector/continuous, vector/discrete, frames/discrete or frames/continuous."),
    ] = "vector/continuous",
    json_: Json = False,
) -> None:
    """Check that a model keeps the contract: it learns, never looks ahead, ignores padding, and resumes exactly.

    The model is built at the preset smoke and tried on small random data; make a large one small with --set. The exit
    code is 1 if a check fails.
    """
    from dtbench.testing import KINDS, Subject, run_checks

    if spaces not in KINDS:
        raise UnknownNameError("kind of task", spaces, KINDS)
    subject = Subject.find(model, set_, KINDS[spaces])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dtbench-check-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for outcome in run_checks(subject, Path(folder)):
            rows.append({"check": outcome.check.name, "passed": outcome.passed, "message": outcome.message})
            if not json_:
                word = {True: "ok", False: "WRONG", None: "–"}[outcome.passed]
                typer.echo(f"{word:<6}{outcome.check.name:<15}{outcome.message}")
    if json_:
        echo_json(rows)
    if not all(row["passed"] for row in rows):
        raise typer.Exit(1)
