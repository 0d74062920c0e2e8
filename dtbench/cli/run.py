"""`dtbench run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dtbench._version import __version__
from dtbench.cli.output import Json, Models, Overrides, echo_json, split
from dtbench.errors import ConfigError


def run(
    model: Models = [],  # noqa: B006
    suite: Annotated[str, typer.Option(help="Suite by name, or the path of a suite's YAML file.")] = "d4rl-short",
    task: Annotated[list[str], typer.Option("--task", "-t", help="Only these tasks; repeat or use commas.")] = [],  # noqa: B006
    preset: Annotated[
        str | None, typer.Option(help="Budget: smoke, quick, learn, paper. Default: paper with CUDA, else quick.")
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", "--seed", help="Seeds, e.g. 0 or 0,1,2 or 0-4.")] = "0",
    source: Annotated[str, typer.Option(help="Where the data come from; auto takes the suite's order.")] = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of results, logs and checkpoints.")] = Path(
        "results"
    ),
    set_: Overrides = [],  # noqa: B006
    config: Annotated[Path | None, typer.Option(help="YAML file merged over preset and suite.")] = None,
    existing: Annotated[str, typer.Option(help="Finished runs found in --output: skip, rerun or fail.")] = "skip",
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Runs side by side. Default: as many as cores, 1 on a GPU."),
    ] = None,
    launcher: Annotated[str, typer.Option(help="local, or ray for a Ray cluster (needs the extra `ray`).")] = "local",
    accelerator: Annotated[str | None, typer.Option(help="Lightning's accelerator: auto, cpu, gpu.")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices per run; more than one means DDP.")] = None,
    precision: Annotated[str | None, typer.Option(help="Lightning's precision, e.g. 32-true or bf16-mixed.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the planned runs and stop.")] = False,
    json_: Json = False,
) -> None:
    """Train, evaluate and rank models on a suite.

    The same command again skips what is finished and resumes what was interrupted. A suite of toys with known answers
    says which models it is for, so that --model may be left out; its expectations are checked at the end.
    """
    from dtbench.console import err, interruptible
    from dtbench.runs import execute as runner
    from dtbench.runs import plan
    from dtbench.suites.suites import load_suite

    chosen, reason = (preset, "asked for") if preset else plan.default_preset()
    err.print(f"dtbench {__version__}: preset {chosen} ({reason})", markup=False)
    hardware = {"accelerator": accelerator, "devices": devices, "precision": precision}
    flags = [f"hardware.{key}={value}" for key, value in hardware.items() if value is not None]
    loaded = load_suite(suite)
    plans = plan.plan_runs(
        loaded,
        split(model) or loaded.expected_models,
        output=output,
        preset=chosen,
        seeds=_seeds(seeds),
        tasks=split(task),
        source=source,
        file=config,
        overrides=[*set_, *flags],
    )
    if dry_run:
        _print_plans(plans, json_)
        return
    err.print(f"dtbench {__version__}: data from {', '.join(sorted({p.source for p in plans}))}", markup=False)
    with interruptible():
        summary = runner.execute(plans, existing=existing, jobs=jobs, launcher=launcher)
    _finish(summary, output, split(task), json_)
    if not _as_expected(loaded, summary.results) or summary.failed:
        raise typer.Exit(1)


def _print_plans(plans: list[Any], as_json: bool) -> None:
    if as_json:
        rows = [
            {"model": p.model.name, "task": p.task.id, "source": p.source, "preset": p.preset, "seed": p.seed}
            | {"config_hash": p.config.hash(), "result": str(p.result_path), "finished": p.result_path.is_file()}
            for p in plans
        ]
        echo_json(rows)
        return
    for plan in plans:
        state = " (a result is there)" if plan.result_path.is_file() else ""
        typer.echo(f"{plan.label} · {plan.source} · {plan.preset} → {plan.result_path}{state}")


def _finish(summary: Any, output: Path, tasks: list[str], as_json: bool) -> None:
    """Print the table and write the markdown beside the results, over the tasks that were asked for."""
    from dtbench.console import out
    from dtbench.results import leaderboard
    from dtbench.results.sections import Selection

    file, asked = output / "leaderboard.md", Selection(tasks=tasks, must_exist=False)
    if summary.results:
        leaderboard.write(output, file, asked)
    if as_json:
        echo_json([result.to_dict() for result in summary.results])
        return
    if summary.results:
        out.print(leaderboard.console_table(summary.results, asked))
        typer.echo(f"Leaderboard: {file}")
    if summary.failed:
        typer.echo(f"{summary.failed} runs failed; their results say why (status and error).", err=True)


def _as_expected(suite: Any, results: list[Any]) -> bool:
    """Print what the suite expects and whether it holds; True if nothing speaks against it."""
    from dtbench.results.expectations import check

    verdicts = check(suite, results) if suite.expected else []
    for verdict in verdicts:
        word = {True: "as expected", False: "NOT as expected", None: "not checked"}[verdict.holds]
        typer.echo(f"{verdict.expectation.task}: {word}: {verdict.said}", err=True)
        if verdict.holds is False:
            typer.echo(f"  expected because: {verdict.expectation.reason}", err=True)
    return all(verdict.holds is not False for verdict in verdicts)


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            seeds.extend(range(int(first), int(last) + 1) if dash else [int(first)])
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r} is not a list of seeds such as 0 or 0,1,2 or 0-4.") from error
    return seeds
