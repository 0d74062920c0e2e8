"""Commands on finished runs and their results: `evaluate`, `record`, `leaderboard`, `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dtbench.cli.output import Json, OnlyPreset, OnlySuite, OnlyTasks, echo_json, split
from dtbench.errors import ConfigError

if TYPE_CHECKING:
    from dtbench.results.sections import Selection


def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run (seed-<n>, beside its JSON).")
    ],
    target: Annotated[list[float], typer.Option(help="Return to ask for; repeatable. Default: the score target.")] = [],  # noqa: B006
    episodes: Annotated[int | None, typer.Option(min=1, help="Episodes per target. Default: as in the run.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the environments. Default: the run's, for the same episodes.")
    ] = None,
    json_: Json = False,
) -> None:
    """Evaluate a trained run again, at other targets or with more episodes; the run's result is left as it is."""
    from dtbench.console import resumable
    from dtbench.runs.reopen import evaluate_again

    with resumable():
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


def record(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, …/<task>/seed-<n>.")],
    out: Annotated[Path, typer.Option(help="Video file to write, e.g. hopper.mp4 or hopper.gif.")],
    target: Annotated[float | None, typer.Option(help="Return to ask for. Default: the score target.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the environment.")] = 0,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Show the return-to-go and the rewards beside the environment.")
    ] = False,
) -> None:
    """Film one episode of a trained run (needs the extra `video`)."""
    from dtbench.console import resumable
    from dtbench.evaluation.video import record as film
    from dtbench.runs.reopen import open_run

    run = open_run(folder)
    with resumable():
        wanted = run.record.task.score_target if target is None else target
        done = film(run.module, run.protocol, wanted, out, seed, run.config.hardware.precision, overlay=overlay)
    typer.echo(f"Wrote {out}: {done.lengths[0]} steps, return {done.returns[0]:.1f}")


def leaderboard(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Folder of results.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; figures go beside one of markdown.")] = None,
    task: OnlyTasks = [],  # noqa: B006
    preset: OnlyPreset = None,
    suite: OnlySuite = None,
    format_: Annotated[
        str, typer.Option("--format", help="markdown; for programs csv or json; for papers latex (booktabs).")
    ] = "markdown",
    protocols: Annotated[
        bool,
        typer.Option("--protocols", help="Score the runs by last and best evaluation, best target, online budget."),
    ] = False,
    boards: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Render all boards of a list, e.g. leaderboards/boards.yaml.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing; say whether --out, or every board, is up to date (exit 1 if not)."
        ),
    ] = False,
) -> None:
    """Render the results of a folder, or the boards of a list: markdown with figures, or CSV, JSON, LaTeX."""
    if boards is not None:
        if folder or out or task or preset or suite or protocols or format_ != "markdown":
            raise ConfigError(
                "--boards takes no DIR, --out, --task, --preset, --suite, --format or --protocols: its file says them."
            )
        _boards(boards, check)
        return
    from dtbench.results import leaderboard as ranking
    from dtbench.results import protocol_page
    from dtbench.results.files import read_folder
    from dtbench.results.sections import Selection

    if folder is None:
        raise ConfigError("Name the folder of results (DIR), or --boards FILE for a list of boards.")
    if check and out is None:
        raise ConfigError("--check needs --out FILE, the leaderboard to compare with.")
    only = Selection(suite, split(task), preset)
    if format_ != "markdown":
        if protocols or check:
            raise ConfigError("--protocols and --check are for markdown; leave --format out.")
        _export(folder, only, format_, out)
        return
    render = protocol_page.page if protocols else ranking.page
    page = render(*read_folder(folder), only, figures=out.stem if out else None)
    if out is None:
        typer.echo(page.text)
    elif check:
        fresh = page.is_current(out)
        typer.echo(f"{out} is {'up to date' if fresh else 'out of date: run the command without --check'}.")
        raise typer.Exit(0 if fresh else 1)
    else:
        page.write(out)
        typer.echo(f"Wrote {out}")


def _export(folder: Path, only: Selection, name: str, out: Path | None) -> None:
    from dtbench import atomic
    from dtbench.results.exports import export
    from dtbench.results.frames import read_all

    text = export(read_all(folder), only, name)
    if out is None:
        typer.echo(text.rstrip("\n"))
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(out, text)
    typer.echo(f"Wrote {out}")


def _boards(file: Path, check: bool) -> None:
    from dtbench.results.boards import check_boards, write_boards

    words = {True: "up to date", False: "out of date: run the command without --check", None: "not checked: no results"}
    states = check_boards(file) if check else []
    lines = [f"{state.file} is {words[state.is_current]}." for state in states]
    if not check:
        lines = [f"Wrote {written}" for written in write_boards(file)]
    typer.echo("\n".join(lines) or f"{file} lists no boards.")
    raise typer.Exit(1 if any(state.is_current is False for state in states) else 0)


def compare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")],
    a: Annotated[
        str,
        typer.Argument(metavar="MODEL_A", help="As the leaderboard names it, e.g. lamo or 'lamo backbone=scratch'."),
    ],
    b: Annotated[str, typer.Argument(metavar="MODEL_B")],
    task: OnlyTasks = [],  # noqa: B006
    preset: OnlyPreset = None,
    suite: OnlySuite = None,
    json_: Json = False,
) -> None:
    """Compare two models: difference per task, probability that A improves on B (95 % interval), permutation p."""
    from dtbench.results.compare import compare as compare_models
    from dtbench.results.compare import comparison_tables
    from dtbench.results.sections import Selection

    comparisons = compare_models(folder, a, b, Selection(suite, split(task), preset))
    if json_:
        echo_json([comparison.to_dict() for comparison in comparisons])
    else:
        from dtbench.console import out as console

        for table in comparison_tables(comparisons):
            console.print(table)
