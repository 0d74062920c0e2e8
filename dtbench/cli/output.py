"""Options and output that several commands share: JSON for programs, YAML and tables for people."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Models = Annotated[
    list[str],
    typer.Option(
        "--model", "-m", help="Model by name, as package.module:Class or FILE.py:Class; repeat or use commas."
    ),
]
Overrides = Annotated[list[str], typer.Option("--set", help="section.key=value, e.g. training.steps=1000; repeatable.")]
OnlyTasks = Annotated[list[str], typer.Option("--task", "-t", help="Only these tasks, aggregated over them.")]
OnlyPreset = Annotated[str | None, typer.Option("--preset", help="Only this preset's results.")]
OnlySuite = Annotated[str | None, typer.Option("--suite", help="Only this suite's results.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def split(values: list[str]) -> list[str]:
    """Return the parts of repeatable options that also take commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def echo_json(content: Any) -> None:
    """Print plain values as JSON; what JSON lacks, e.g. NaN, is printed as text."""
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except (TypeError, ValueError):
        from dtbench.results.records import storable

        text = json.dumps(storable(content), indent=2, allow_nan=False)
    typer.echo(text)


def echo_yaml(content: Any) -> None:
    """Print plain values as YAML."""
    from omegaconf import OmegaConf

    from dtbench.config import plain

    typer.echo(OmegaConf.to_yaml(OmegaConf.create(plain(content))).rstrip())


def echo_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        echo_json(rows)
        return
    from tabulate import tabulate

    typer.echo(tabulate(rows, headers="keys", tablefmt="simple"))
