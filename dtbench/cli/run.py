"""`dtbench run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dtbench._version import __version__
from dtbench.cli.output import Json, Models, Overrides, echo_json, split
from dtbench.errors import ConfigError

if TYPE_CHECKING:
    from dtbench.results.expectations import Verdict
    from dtbench.results.sections import Selection
    from dtbench.runs.execute import RunSummary
    from dtbench.runs.plan import RunPlan, RunRequest


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
    address: Annotated[
        str | None, typer.Option(help="With --launcher ray: the cluster, e.g. auto or HOST:PORT; else RAY_ADDRESS.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="With --launcher ray: how often a run is resumed if its process or node dies.")
    ] = 2,
    fetch_checkpoints: Annotated[
        bool,
        typer.Option(
            "--fetch-checkpoints", help="With --launcher ray: also bring checkpoints back if nodes lack the folder."
        ),
    ] = False,
    accelerator: Annotated[str | None, typer.Option(help="Lightning's accelerator: auto, cpu, gpu.")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices per run; more than one means DDP.")] = None,
    num_nodes: Annotated[
        int | None, typer.Option(min=1, help="Nodes of one run, e.g. under torchrun or srun, which start this on each.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="Lightning's strategy, e.g. ddp. Default: auto.")] = None,
    precision: Annotated[str | None, typer.Option(help="Lightning's precision, e.g. 32-true or bf16-mixed.")] = None,
    compile_: Annotated[
        str | None, typer.Option("--compile", help="torch.compile of training: off, default, graphs (CUDA graphs).")
    ] = None,
    logger: Annotated[
        str | None,
        typer.Option("--logger", help="Where curves go: tensorboard, csv, wandb, mlflow, trackio; use commas."),
    ] = None,
    stack_seeds: Annotated[
        bool, typer.Option("--stack-seeds", help="Train all seeds of a small model as one: faster on a GPU.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the planned runs with an estimate of their time, and stop.")
    ] = False,
    shell: Annotated[
        bool,
        typer.Option(
            "--shell", help="With --dry-run: print a command line per run that is left, e.g. for a job array."
        ),
    ] = False,
    per_line: Annotated[int, typer.Option(min=1, help="With --shell: runs per line, one after the other.")] = 1,
    json_: Json = False,
) -> None:
    """Train, evaluate and rank models on a suite.

    The same command again skips what is finished and resumes what was interrupted. A suite of toys with known answers
    says which models it is for, so that --model may be left out; its expectations are checked at the end.
    """
    from dtbench.console import err, resumable
    from dtbench.hardware import is_first_rank
    from dtbench.runs.execute import execute
    from dtbench.runs.plan import RunRequest, default_preset, plan_runs

    if shell and not dry_run:
        raise ConfigError("--shell prints command lines instead of doing the runs: use it with --dry-run.")
    chosen, reason = default_preset() if preset is None else (preset, "asked for")
    err.print(f"dtbench {__version__}: preset {chosen} ({reason})", markup=False)
    hardware = {"accelerator": accelerator, "devices": devices, "num_nodes": num_nodes, "strategy": strategy}
    hardware |= {"precision": precision, "compile": compile_}
    flags = [f"hardware.{key}={value}" for key, value in hardware.items() if value is not None]
    if logger is not None:
        flags.append(f"hardware.loggers=[{','.join(split([logger]))}]")
    request = RunRequest(
        suite=suite,
        models=split(model),
        output=output,
        preset=chosen,
        seeds=_seeds(seeds),
        tasks=split(task),
        source=source,
        file=config,
        overrides=[*set_, *flags],
        existing=existing,
        jobs=jobs,
        launcher=launcher,
        address=address,
        retries=retries,
        fetch_checkpoints=fetch_checkpoints,
        stack_seeds=stack_seeds,
    )
    plans = plan_runs(request)
    if shell:
        from dtbench.runs.shell import command_lines

        for line in command_lines(request, plans, per_line):
            typer.echo(line)
        return
    if dry_run:
        _print_plans(request, plans, json_)
        return
    err.print(f"dtbench {__version__}: data from {', '.join(sorted({p.source for p in plans}))}", markup=False)
    with resumable():
        summary = execute(request, plans)
    if not all(is_first_rank(plan.config.hardware) for plan in plans):
        return  # another process of the same run reports
    _finish(request, summary, json_)
    _print_verdicts(summary.verdicts)
    if not summary.ok:
        raise typer.Exit(1)


def _print_plans(request: RunRequest, plans: list[RunPlan], as_json: bool) -> None:
    from dtbench.runs.estimate import estimate_seconds
    from dtbench.runs.execute import default_jobs
    from dtbench.runs.live import duration
    from dtbench.runs.record import has_finished
    from dtbench.runs.work import check_stackable, divide

    if request.stack_seeds:
        check_stackable(plans)
    divided = divide(plans, request.stack_seeds)
    plans = [plan for together in divided for plan in together]
    stacks = [[plan.seed for plan in together] for together in divided for _ in together]
    jobs = request.jobs or default_jobs(divided)
    finished = [has_finished(plan) for plan in plans]
    left = [plan for plan, done in zip(plans, finished, strict=True) if not done]
    estimates = iter(estimate_seconds(left, request.output, jobs) if left else [])
    seconds = [None if done else next(estimates) for done in finished]
    if as_json:
        echo_json([_as_row(*row) for row in zip(plans, finished, seconds, stacks, strict=True)])
        return
    for plan, done, taken, stack in zip(plans, finished, seconds, stacks, strict=True):
        state = "finished" if done else "unknown time" if taken is None else f"about {duration(taken)}"
        if len(stack) > 1:
            state += f"; seeds {', '.join(map(str, stack))} are trained as one"
        typer.echo(f"{plan.label} · {plan.source} · {plan.preset} → {plan.result_path} ({state})")
    known = [taken for taken in seconds if taken is not None]
    unknown = f", {len(left) - len(known)} of unknown time" if len(known) < len(left) else ""
    unknown += ", times of stacked seeds as if alone" if any(len(stack) > 1 for stack in stacks) else ""
    typer.echo(
        f"{len(left)} runs to do{unknown}, {jobs} side by side: about {duration(sum(known) / jobs)} and the data"
    )


def _as_row(plan: RunPlan, finished: bool, seconds: float | None, stack: list[int]) -> dict[str, Any]:
    return {
        "model": plan.model.name,
        "task": plan.task.id,
        "source": plan.source,
        "preset": plan.preset,
        "seed": plan.seed,
        "config_hash": plan.config.hash(),
        "changes": list(plan.changes),
        "result": str(plan.result_path),
        "finished": finished,
        "stacked_seeds": stack if len(stack) > 1 else None,
        "estimated_seconds": None if seconds is None else round(seconds, 1),
    }


def _finish(request: RunRequest, summary: RunSummary, as_json: bool) -> None:
    """Print the table and write the markdown beside the results."""
    from dtbench.console import out
    from dtbench.results import leaderboard
    from dtbench.results.sections import Selection

    file = request.output / "leaderboard.md"
    if summary.results:
        has_news = bool(summary.finished or summary.failed)
        leaderboard.write(request.output, file, _tasks_in_folder(request), redraw=has_news)
    if as_json:
        echo_json([result.to_dict() for result in summary.results])
        return
    if summary.results:
        out.print(leaderboard.console_table(summary.results, Selection(tasks=request.tasks, must_exist=False)))
        typer.echo(f"Leaderboard: {file}")
    if summary.failed:
        typer.echo(f"{summary.failed} runs failed; their results say why (status and error).", err=True)


def _tasks_in_folder(request: RunRequest) -> Selection:
    """Select the tasks with results in the folder where only some were asked for, else the whole suite."""
    from dtbench.results.files import scan
    from dtbench.results.sections import EVERYTHING, Selection

    if not request.tasks:
        return EVERYTHING
    return Selection(tasks=tuple(dict.fromkeys(result.task.id for result in scan(request.output)[0])))


def _print_verdicts(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        word = {True: "as expected", False: "NOT as expected", None: "not checked"}[verdict.holds]
        typer.echo(f"{verdict.expectation.task}: {word}: {verdict.figures}", err=True)
        if verdict.holds is False:
            typer.echo(f"  expected because: {verdict.expectation.reason}", err=True)


def _seeds(text: str) -> list[int]:
    """Read `0`, `0,1,2` or `0-4`.

    Raises:
        ConfigError: it is none of them, or a range is empty.
    """
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            numbers = range(int(first), int(last) + 1) if dash else [int(first)]
            if not numbers:
                raise ConfigError(
                    f"--seeds {text!r}: the range {part.strip()} is empty; write the smaller number first."
                )
            if len(numbers) > _MOST_SEEDS:
                raise ConfigError(
                    f"--seeds {text!r} names {len(numbers):,} seeds; at most {_MOST_SEEDS:,} are possible."
                )
            seeds.extend(numbers)
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r} is not a list of seeds such as 0 or 0,1,2 or 0-4.") from error
    return seeds


_MOST_SEEDS = 10_000
