"""The command line. Nothing heavy is imported before a command needs it, so that `--help` is instant.

Exit codes: 0 all done · 1 some runs failed · 2 bad usage or input · 130 interrupted.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dtbench._version import __version__
from dtbench.cli.check import check_model
from dtbench.cli.data import data_app
from dtbench.cli.models import analyze_app, backbone_app
from dtbench.cli.output import Json, Overrides, echo_json, echo_rows, echo_yaml
from dtbench.cli.plot import plot_app
from dtbench.cli.results import compare, evaluate, leaderboard, record
from dtbench.cli.run import run
from dtbench.cli.sharing import pull, push, results_app
from dtbench.cli.site import site
from dtbench.cli.status import clean, status

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
app.add_typer(plot_app, name="plot")
app.add_typer(results_app, name="results")
app.add_typer(backbone_app, name="backbone")
for _command in (run, status, evaluate, record, leaderboard, compare, site, push, pull, clean):
    app.command()(_command)
app.command("check-model")(check_model)


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
def doctor(json_: Json = False) -> None:
    """Say what this machine has of what dtbench needs; exit code 1 if something needed is missing."""
    from dtbench.cli.doctor import BAD, as_rows, examine

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
    from dtbench.suites.suites import load_suite, suite_names

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
    from dtbench.suites.suites import load_suite

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
    from dtbench.suites.suites import load_suite

    entry, loaded = model_entry(name), load_suite(suite)
    chosen = loaded.task(task) if task else loaded.tasks[0]
    config = compose(entry.settings, preset=load_preset(preset), suite=loaded, task=chosen, overrides=set_)
    content: dict[str, Any] = {"name": entry.name, "title": entry.title, "paper": entry.paper}
    content |= {"config_hash": config.hash(), "config": config.to_dict()}
    if json_:
        echo_json(content)
    else:
        echo_yaml(content)
