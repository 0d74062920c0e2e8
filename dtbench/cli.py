"""The command line. Nothing heavy is imported before a command needs it, so that `--help` is instant.

Exit codes: 0 all done · 1 some runs failed · 2 bad usage or input · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dtbench import __version__
from dtbench.cli_data import data_app
from dtbench.cli_language import analyze_app, backbone_app
from dtbench.cli_output import Json, echo_json, echo_rows, echo_yaml, split
from dtbench.errors import ConfigError, DtbenchError

app = typer.Typer(
    name="dtbench",
    help="Benchmark sequence models in offline reinforcement learning: one implementation of data, models, "
    "evaluation and statistics.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
list_app = typer.Typer(help="List what there is: models, suites, presets.", no_args_is_help=True)
show_app = typer.Typer(help="Show one thing whole: a suite, or a model's configuration.", no_args_is_help=True)
app.add_typer(list_app, name="list")
app.add_typer(show_app, name="show")
app.add_typer(data_app, name="data")
app.add_typer(analyze_app, name="analyze")
app.add_typer(backbone_app, name="backbone")

Models = Annotated[
    list[str], typer.Option("--model", "-m", help="Model by name, or package.module:Class; repeat or use commas.")
]
Overrides = Annotated[list[str], typer.Option("--set", help="section.key=value, e.g. training.steps=1000; repeatable.")]
OnlyTasks = Annotated[list[str], typer.Option("--task", "-t", help="Only these tasks, aggregated over them.")]
OnlyPreset = Annotated[str | None, typer.Option("--preset", help="Only this preset's results.")]
OnlySuite = Annotated[str | None, typer.Option("--suite", help="Only this suite's results.")]


def main() -> None:
    """Run the command line and turn a user's mistake into one sentence and exit code 2."""
    try:
        app()
    except DtbenchError as error:
        typer.echo(f"dtbench: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:  # `dtbench … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dtbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = (
        False
    ),
) -> None:
    pass


@app.command()
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
    from dtbench import plan, runner
    from dtbench.console import err, interruptible
    from dtbench.suites import load_suite

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
    _finish(summary, output, json_)
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


def _finish(summary: Any, output: Path, as_json: bool) -> None:
    """Print the table and write the markdown beside the results."""
    from dtbench import leaderboard
    from dtbench.console import out

    file = output / "leaderboard.md"
    if summary.results:
        leaderboard.write(output, file)
    if as_json:
        echo_json(summary.results)
        return
    if summary.results:
        out.print(leaderboard.console_table(summary.results))
        typer.echo(f"Leaderboard: {file}")
    if summary.failed:
        typer.echo(f"{summary.failed} runs failed; their results say why (status and error).", err=True)


def _as_expected(suite: Any, results: list[Any]) -> bool:
    """Print what the suite expects and whether it holds; True if nothing speaks against it."""
    from dtbench.expectations import check

    verdicts = check(suite, results) if suite.expected else []
    for verdict in verdicts:
        word = {True: "as expected", False: "NOT as expected", None: "not checked"}[verdict.holds]
        typer.echo(f"{verdict.expectation.task}: {word}: {verdict.said}", err=True)
        if verdict.holds is False:
            typer.echo(f"  expected because: {verdict.expectation.reason}", err=True)
    return all(verdict.holds is not False for verdict in verdicts)


@app.command()
def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run (seed-<n>, beside its JSON).")
    ],
    target: Annotated[list[float], typer.Option(help="Return to ask for; repeatable. Default: the score target.")] = [],  # noqa: B006
    episodes: Annotated[int | None, typer.Option(min=1, help="Episodes per target. Default: as in the run.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the evaluation environments.")] = 0,
    json_: Json = False,
) -> None:
    """Evaluate a trained run again, at other targets or with more episodes; the run's result is left as it is."""
    from dtbench.console import interruptible
    from dtbench.trained import evaluate_again

    with interruptible():
        rows = evaluate_again(folder, targets=target, episodes=episodes, seed=seed)
    if json_:
        echo_json(rows)
        return
    for row in rows:
        typer.echo(
            f"target {row['target']:g}: normalised {100 * row['normalized_mean']:.1f} ± "
            f"{100 * row['normalized_std']:.1f}, return {row['return_mean']:.1f} ± {row['return_std']:.1f} "
            f"over {len(row['returns'])} episodes"
        )


@app.command()
def record(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, …/<task>/seed-<n>.")],
    out: Annotated[Path, typer.Option(help="Video file to write, e.g. hopper.mp4 or hopper.gif.")],
    target: Annotated[float | None, typer.Option(help="Return to ask for. Default: the score target.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the environment.")] = 0,
) -> None:
    """Film one episode of a trained run (needs the extra `video`)."""
    from dtbench.console import interruptible
    from dtbench.evaluation.record import record as film
    from dtbench.trained import open_run

    run_file, module, protocol = open_run(folder)
    with interruptible():
        done = film(module, protocol, run_file["task"]["score_target"] if target is None else target, out, seed)
    typer.echo(f"Wrote {out}: {done.lengths[0]} steps, return {done.returns[0]:.1f}")


@app.command()
def leaderboard(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")],
    out: Annotated[Path | None, typer.Option(help="Markdown file to write; figures go beside it.")] = None,
    task: OnlyTasks = [],  # noqa: B006
    preset: OnlyPreset = None,
    suite: OnlySuite = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether --out is up to date (exit 1 if not).")
    ] = False,
) -> None:
    """Render the results of a folder as markdown tables and SVG figures."""
    from dtbench import leaderboard as board

    only = board.Selection(suite, split(task), preset)
    if check:
        if out is None:
            raise ConfigError("--check needs --out FILE, the leaderboard to compare with.")
        fresh = board.check(folder, out, only)
        typer.echo(f"{out} is {'up to date' if fresh else 'not what the results say: render it again'}.")
        raise typer.Exit(0 if fresh else 1)
    if out is None:
        typer.echo(board.render(folder, only))
        return
    board.write(folder, out, only)
    typer.echo(f"Wrote {out}")


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")],
    a: Annotated[str, typer.Argument(metavar="MODEL_A")],
    b: Annotated[str, typer.Argument(metavar="MODEL_B")],
    task: OnlyTasks = [],  # noqa: B006
    preset: OnlyPreset = None,
    suite: OnlySuite = None,
    json_: Json = False,
) -> None:
    """Compare two models: difference per task, and the probability that A improves on B, with 95 % intervals."""
    from dtbench import leaderboard as board

    comparison = board.compare(folder, a, b, board.Selection(suite, split(task), preset))
    if json_:
        echo_json(comparison)
    else:
        from dtbench.console import out as console

        for table in board.comparison_tables(comparison):
            console.print(table)


@app.command()
def doctor(json_: Json = False) -> None:
    """Say what this machine has of what dtbench needs; exit code 1 if something needed is missing."""
    from dtbench.doctor import BAD, as_rows, examine

    findings = examine()
    echo_rows(as_rows(findings), json_)
    if any(finding.state == BAD for finding in findings):
        raise typer.Exit(1)


@list_app.command("models")
def list_models(json_: Json = False) -> None:
    """List the models."""
    from dtbench.registry import models

    rows = [{"name": entry.name, "title": entry.title, "paper": entry.paper} for entry in models().values()]
    echo_rows(rows, json_)


@list_app.command("suites")
def list_suites(json_: Json = False) -> None:
    """List the suites."""
    from dtbench.suites import load_suite, suite_names

    suites = [load_suite(name) for name in suite_names()]
    rows = [
        {"name": suite.name, "version": suite.version, "tasks": len(suite.tasks), "description": suite.description}
        for suite in suites
    ]
    echo_rows(rows, json_)


@list_app.command("presets")
def list_presets(json_: Json = False) -> None:
    """List the presets."""
    from dtbench.config import load_preset, preset_names

    rows = [{"name": name, "description": load_preset(name)["description"]} for name in preset_names()]
    echo_rows(rows, json_)


@show_app.command("suite")
def show_suite(name: str, json_: Json = False) -> None:
    """Show a suite: every task with its environment, targets, scale and reference scores."""
    from dtbench.suites import load_suite

    content = load_suite(name).to_dict()
    if json_:
        echo_json(content)
    else:
        echo_yaml(content)


@show_app.command("model")
def show_model(
    name: str,
    preset: Annotated[str, typer.Option(help="Preset to merge.")] = "paper",
    suite: Annotated[str, typer.Option(help="Suite to merge.")] = "d4rl-short",
    task: Annotated[str | None, typer.Option(help="Task to merge; default: the suite's first.")] = None,
    set_: Overrides = [],  # noqa: B006
    json_: Json = False,
) -> None:
    """Show a model's whole configuration as a run would see it, with its hash."""
    from dtbench.config import compose, load_preset
    from dtbench.registry import model_entry
    from dtbench.suites import load_suite

    entry, loaded = model_entry(name), load_suite(suite)
    chosen = loaded.task(task) if task else loaded.tasks[0]
    typed = entry.load().Config
    config = compose(entry.name, typed, entry.defaults, load_preset(preset), loaded, chosen, None, set_)
    content: dict[str, Any] = {"name": entry.name, "title": entry.title, "paper": entry.paper}
    content |= {"config_hash": config.hash(), "config": config.to_dict()}
    if json_:
        echo_json(content)
    else:
        echo_yaml(content)


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            seeds.extend(range(int(first), int(last) + 1) if dash else [int(first)])
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r} is not a list of seeds such as 0 or 0,1,2 or 0-4.") from error
    return seeds


if __name__ == "__main__":
    main()
