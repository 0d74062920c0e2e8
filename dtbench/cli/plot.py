"""`dtbench plot …`: one figure of a folder of results, or of the heads of a model, as SVG, PDF or PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dtbench.cli.output import OnlyPreset, OnlySuite, OnlyTasks, split
from dtbench.errors import ConfigError, ResultError

if TYPE_CHECKING:
    from dtbench.results.sections import Section, Selection

    Draw = Callable[[Section, Path, Path], None]

plot_app = typer.Typer(help="Draw a figure of results, or of the heads of a model.", no_args_is_help=True)

Results = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")]
Out = Annotated[Path, typer.Option(help="Figure to write: .svg, .pdf or .png.")]
OnlySource = Annotated[str | None, typer.Option("--source", help="Only results on this source's data.")]
OnlyModels = Annotated[
    list[str], typer.Option("--model", "-m", help="Only this row, as the leaderboard names it; repeatable.")
]


def _draws(name: str) -> Callable[[Draw], Draw]:
    """Make a function that draws a section of a folder's results into a file the command of this name."""

    def register(draw: Draw) -> Draw:
        @plot_app.command(name, help=draw.__doc__)
        def command(
            folder: Results,
            out: Out,
            task: OnlyTasks = [],  # noqa: B006
            preset: OnlyPreset = None,
            suite: OnlySuite = None,
            source: OnlySource = None,
            model: OnlyModels = [],  # noqa: B006
        ) -> None:
            from dtbench.figures import check_format
            from dtbench.results.sections import Selection

            check_format(out)
            section = _one_section(folder, Selection(suite, split(task), preset, source=source, models=model))
            _write(lambda file: draw(section, folder, file), out)

        return draw

    return register


@_draws("intervals")
def intervals(section: Section, folder: Path, file: Path) -> None:
    """IQM, median, mean and optimality gap of each model, with 95 % intervals."""
    from dtbench.results.plots import intervals

    _needs_complete_rows(section)
    intervals(section, file)


@_draws("profile")
def profile(section: Section, folder: Path, file: Path) -> None:
    """The share of runs above each score, with 95 % bands."""
    from dtbench.results.plots import profile

    _needs_complete_rows(section)
    profile(section, file)


@_draws("per-task")
def per_task(section: Section, folder: Path, file: Path) -> None:
    """The score of every seed on every task."""
    from dtbench.results.task_plots import per_task

    per_task(section, file)


@_draws("learning-curves")
def learning_curves(section: Section, folder: Path, file: Path) -> None:
    """Scores during training where they were measured, else the training losses logged beside the results."""
    from dtbench.results.learning import learning_curves
    from dtbench.results.learning_plots import learning

    learning(section, learning_curves(section, folder), file)


@_draws("target-vs-return")
def target_vs_return(section: Section, folder: Path, file: Path) -> None:
    """The return got for each return asked for: does a model do what it is asked?"""
    from dtbench.results.task_plots import target_vs_return

    target_vs_return(section, file)


@plot_app.command("heads")
def heads(
    what: Annotated[
        str, typer.Argument(help="bundled, a hub id, a backbone's folder, a run's folder, or a .safetensors file.")
    ],
    out: Out,
    heads: Annotated[int | None, typer.Option(min=1, help="Heads per layer, if a file does not say.")] = None,
) -> None:
    """Which heads are Markov heads (arXiv 2409.06985): `dtbench analyze markov-heads` as a heat map."""
    from dtbench.analysis.heat_maps import markov_heat_map
    from dtbench.analysis.markov_heads import analyze_layers, load_layers, module_layers
    from dtbench.figures import check_format
    from dtbench.runs.folder import RunFolder
    from dtbench.runs.reopen import open_run

    check_format(out)
    if RunFolder(Path(what).expanduser()).record.is_file():
        run = open_run(what)
        layers, count = module_layers(run.module)
        record = run.record
        title = (
            f"{record.model.name} on {record.task.id}\n{record.suite.id} · preset {record.preset} · seed {record.seed}"
        )
    else:
        layers, count = load_layers(what, heads)
        title = Path(what).name
    content = {"what": what, **analyze_layers(layers, count)}
    _write(lambda file: markov_heat_map(content, f"Markov heads (framed) of {title}", file), out)


def _needs_complete_rows(section: Section) -> None:
    if not section.complete:
        raise ResultError(
            f"{section.title}: no model has a finished run on every task, so there is nothing to aggregate; name tasks "
            "with --task."
        )


def _one_section(folder: Path, selection: Selection) -> Section:
    """Read the one section that the options leave, and say what is missing from it and what is left out."""
    from dtbench.console import err
    from dtbench.results.frames import read_all
    from dtbench.results.sections import one_section

    section, others = one_section(read_all(folder), selection)
    if section.absent:
        err.print(f"No finished run here: {', '.join(section.absent)}.", markup=False)
    for title in others:
        err.print(f"Not drawn, because it cannot be compared: {title}.", markup=False)
    return section


def _write(draw: Callable[[Path], None], out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw(out)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The figure {out} cannot be written: {error}.") from error
    typer.echo(f"Wrote {out}")
