"""`dtbench data …`: build, fetch, import, export, describe and check datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dtbench.cli.output import Json, echo_json, echo_yaml, split
from dtbench.errors import ConfigError, UnknownNameError

data_app = typer.Typer(
    help="Build, fetch, import, export, describe and check datasets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Dataset = Annotated[
    str,
    typer.Argument(
        help="Dataset, e.g. hopper-medium (local), hopper-medium-v2 (D4RL), D4RL/pen/human-v2 (Minari), or a store's "
        "folder."
    ),
]
Steps = Annotated[int, typer.Option(min=1, help="Size of a local dataset.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again although it is there.")]


@data_app.command("build")
def build(
    suite: Annotated[str, typer.Argument(help="Suite whose local datasets are built.")] = "d4rl-short",
    task: Annotated[list[str], typer.Option("--task", "-t", help="Only these tasks; repeat or use commas.")] = [],  # noqa: B006
    steps: Annotated[int, typer.Option(min=1, help="Environment steps per dataset (quick 100,000, smoke 4,000).")] = (
        1_000_000
    ),
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")] = None,
    format_: Annotated[str, typer.Option("--format", help="store, or minari for a Minari dataset as well.")] = "store",
    force: Force = False,
) -> None:
    """Roll out the shipped behaviours in the real environments; safe to interrupt and to run twice at once."""
    from dtbench.console import interruptible, progress
    from dtbench.data.sources import local

    if format_ not in ("store", "minari"):
        raise ConfigError(f"--format must be store or minari, not {format_!r}.")
    datasets = _datasets_of(suite, task, "local")
    if not datasets:
        raise ConfigError(f"Suite {suite} has no datasets that can be built locally.")
    for number, dataset in enumerate(datasets, start=1):
        with interruptible(), progress(dataset) as report:
            store = local.build(dataset, steps=steps, workers=workers, progress=report, force=force)
        _say(f"{number}/{len(datasets)} {dataset}", store)
        if format_ == "minari":
            from dtbench.data.export import write_minari

            typer.echo(f"    Minari dataset {write_minari(store, force=force)}")


@data_app.command("fetch")
def fetch(
    what: Annotated[str, typer.Argument(help="Suite, or one dataset by its public id.")],
    task: Annotated[list[str], typer.Option("--task", "-t", help="Only these tasks of the suite.")] = [],  # noqa: B006
    source: Annotated[str, typer.Option(help="minari or d4rl. Default: the first that the suite names.")] = "auto",
    force: Force = False,
) -> None:
    """Download public datasets and import them; a cut download goes on where it stopped."""
    from dtbench.console import interruptible, progress
    from dtbench.data.sources import is_reachable, source_module
    from dtbench.errors import SourceError

    wanted = _public(what, task, source)
    for number, (name, dataset) in enumerate(wanted, start=1):
        module = source_module(name)
        if module.needs_network(dataset) and not is_reachable(name):
            raise SourceError(
                f"{name}/{dataset} is not on this machine and {module.HOST} cannot be reached; run this where there is "
                f"a network, or give its file: `dtbench data import FILE --as {dataset}`."
            )
        with interruptible(), progress(dataset) as report:
            store = module.build(dataset, progress=report, force=force)
        _say(f"{number}/{len(wanted)} {name}/{dataset}", store)


@data_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="D4RL's .hdf5, a trajectory .pkl of kzl's scripts, or a Minari folder.")],
    as_: Annotated[str, typer.Option("--as", help="Its public id, e.g. hopper-medium-v2 or D4RL/pen/human-v2.")],
    force: Force = False,
) -> None:
    """Take a dataset that is on disk already; broken files are refused and nothing half-written stays."""
    from dtbench.console import interruptible
    from dtbench.data.sources import d4rl, minari

    if not file.exists():
        raise ConfigError(f"There is no {file}.")
    with interruptible():
        if file.is_dir():
            folder = file.parent if file.name == "data" else file
            store = minari.import_folder(folder, as_, force=force)
        else:
            store = d4rl.import_file(file, as_, force=force)
    _say(as_, store)


@data_app.command("export")
def export(
    dataset: Dataset,
    format_: Annotated[str, typer.Option("--format", help="minari or d4rl.")],
    out: Annotated[Path | None, typer.Option(help="HDF5 file to write (d4rl).")] = None,
    as_: Annotated[str | None, typer.Option("--as", help="Minari id to write. Default: dtbench/<dataset>-v0.")] = None,
    steps: Steps = 1_000_000,
    force: Force = False,
) -> None:
    """Write a dataset as a Minari dataset or as D4RL's HDF5; nothing is lost."""
    from dtbench.data import export as formats

    if format_ not in formats.FORMATS:
        raise ConfigError(f"--format must be minari or d4rl, not {format_!r}.")
    store = open_dataset(dataset, steps)
    if format_ == "minari":
        typer.echo(f"Wrote Minari dataset {formats.write_minari(store, as_, force=force)}")
        return
    if out is None:
        raise ConfigError("--format d4rl needs --out FILE, e.g. hopper-medium.hdf5.")
    typer.echo(f"Wrote {formats.write_d4rl(store, out, force=force)}")


@data_app.command("info")
def info(dataset: Dataset, steps: Steps = 1_000_000, json_: Json = False) -> None:
    """Print episodes, steps, quantiles of returns (raw and normalised) and lengths, and the fingerprint."""
    from dtbench.data.info import info as describe

    content = describe(open_dataset(dataset, steps), _reference(dataset))
    if json_:
        echo_json(content)
    else:
        echo_yaml(content)


@data_app.command("verify")
def verify(dataset: Dataset, steps: Steps = 1_000_000) -> None:
    """Check a dataset's content against its fingerprint."""
    store = open_dataset(dataset, steps)
    store.verify()
    typer.echo(f"{store.path}: the content is what the fingerprint says ({store.fingerprint[:12]}).")


def open_dataset(dataset: str, steps: int) -> Any:
    """Open a store by its folder, or by a dataset's name in any source.

    Raises:
        ConfigError: it is not built or imported.
        UnknownNameError: no source knows it.
    """
    from dtbench.data.sources import d4rl, local, minari
    from dtbench.data.store import TrajectoryStore

    if (Path(dataset) / "metadata.json").is_file():
        return TrajectoryStore.open(dataset)
    store = minari.locate(dataset)
    if store is None and dataset in d4rl.DATASETS:
        store = d4rl.locate(dataset)
        if store is None:
            raise ConfigError(f"{dataset} is not imported; `dtbench data fetch {dataset}` or `dtbench data import`.")
    if store is None and "/" in dataset:
        raise ConfigError(
            f"{dataset} is neither the folder of a store nor an imported dataset of Minari; "
            f"`dtbench data fetch {dataset}` or `dtbench data import FOLDER --as {dataset}`."
        )
    if store is None and dataset not in local.known_datasets():
        raise UnknownNameError("dataset", dataset, [*local.known_datasets(), *d4rl.DATASETS])
    store = store or local.locate(dataset, steps=steps)
    if store is None:
        where = _where(dataset)
        raise ConfigError(
            f"{dataset} with {steps:,} steps is not built; say another --steps, name the folder of a store, or "
            f"build it: `dtbench data build {where} --steps {steps}`."
        )
    return store


def _say(label: str, store: Any) -> None:
    typer.echo(f"{label}: {store.num_episodes:,} episodes, {store.num_steps:,} steps, {store.path}")


def _public(what: str, tasks: list[str], source: str) -> list[tuple[str, str]]:
    """Return (source, dataset) of what is to be fetched."""
    from dtbench.data.sources import SOURCES, d4rl
    from dtbench.suites.suites import load_suite, suite_names

    public = [name for name in SOURCES if name != "local"]
    if source not in ("auto", *public):
        raise UnknownNameError("source", source, [*public, "auto"])
    if what in d4rl.DATASETS:
        return [("d4rl", what)]
    if "/" in what and not what.endswith((".yaml", ".yml")):
        return [("minari", what)]
    if what not in suite_names() and not what.endswith((".yaml", ".yml")):
        raise UnknownNameError("suite or dataset", what, [*suite_names(), *d4rl.DATASETS])
    suite = load_suite(what)
    order = [name for name in suite.sources if name in public] if source == "auto" else [source]
    found = []
    for task in suite.select(split(tasks)):
        name = next((name for name in order if name in task.sources), None)
        if name is not None:
            found.append((name, task.sources[name]))
    if not found:
        raise ConfigError(
            f"Suite {suite.name} names no public dataset of these tasks" + f" from {source}." * (source != "auto")
        )
    return list(dict.fromkeys(found))


def _datasets_of(suite: str, tasks: list[str], source: str) -> list[str]:
    from dtbench.suites.suites import load_suite

    named = [task.sources[source] for task in load_suite(suite).select(split(tasks)) if source in task.sources]
    return list(dict.fromkeys(named))


def _where(dataset: str) -> str:
    """Return the words that name a local dataset to `dtbench data build`."""
    from dtbench.suites.suites import load_suite, suite_names

    found = ((s, task) for s in suite_names() for task in load_suite(s).tasks if task.sources.get("local") == dataset)
    suite, task = next(found)
    return f"{suite} --task {task.id}"


def _reference(dataset: str) -> Any:
    """Return the reference scores of the first shipped task that uses a dataset, or None."""
    from dtbench.suites.suites import load_suite, suite_names

    tasks = [task for name in suite_names() for task in load_suite(name).tasks]
    return next((task.reference for task in tasks if dataset in task.sources.values()), None)
