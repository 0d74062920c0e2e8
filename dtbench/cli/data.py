"""`dtbench data …`: build, fetch, import, list, export, describe and check datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dtbench.cli.output import Json, echo_json, echo_rows, echo_yaml, split
from dtbench.errors import ConfigError, SourceError, UnknownNameError

if TYPE_CHECKING:
    from dtbench.data.store import TrajectoryStore
    from dtbench.suites.scores import ReferenceScores

data_app = typer.Typer(
    help="Build, fetch, import, list, export, describe and check datasets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Dataset = Annotated[
    str,
    typer.Argument(
        help="Dataset, e.g. hopper-medium (local), hopper-medium-v2 (D4RL), D4RL/pen/human-v2 (Minari), "
        "breakout-dqn-1pct (DQN replay), one of your own, or a store's folder."
    ),
]
Steps = Annotated[int, typer.Option(min=1, help="Size of a local dataset.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what exists already.")]


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
    from dtbench.console import progress, resumable
    from dtbench.data.sources import local

    if format_ not in ("store", "minari"):
        raise ConfigError(f"--format must be store or minari, not {format_!r}.")
    datasets = _local_datasets(suite, task)
    for number, dataset in enumerate(datasets, start=1):
        found = None if force else local.locate(dataset, steps=steps)
        with resumable(), progress(dataset) as report:
            store = found or local.build(dataset, steps=steps, workers=workers, progress=report, force=force)
        _print_store(f"{number}/{len(datasets)} {dataset}", store, "already built" if found else "")
        if format_ == "minari":
            from dtbench.data.export import write_minari

            typer.echo(f"    Minari dataset {write_minari(store, force=force)}")


@data_app.command("fetch")
def fetch(
    what: Annotated[str, typer.Argument(help="Suite, or one dataset by its public id.")],
    task: Annotated[list[str], typer.Option("--task", "-t", help="Only these tasks of the suite.")] = [],  # noqa: B006
    source: Annotated[
        str, typer.Option(help="minari, d4rl or dqn_replay. Default: the first that the suite lists.")
    ] = "auto",
    force: Force = False,
) -> None:
    """Download public datasets and import them; an interrupted download continues where it stopped."""
    from dtbench.console import progress, resumable
    from dtbench.data.sources import is_reachable, source_module

    wanted = _public_datasets(what, split(task), source)
    for number, (name, dataset) in enumerate(wanted, start=1):
        module = source_module(name)
        if module.needs_network(dataset) and not is_reachable(name):
            raise SourceError(
                f"{name}/{dataset} is not on this machine and {module.HOST} cannot be reached; run this where there is "
                f"a network, or import its file: `dtbench data import FILE --as {dataset}`."
            )
        found = None if force else module.locate(dataset)
        with resumable(), progress(dataset) as report:
            store = found or module.build(dataset, progress=report, force=force)
        _print_store(f"{number}/{len(wanted)} {name}/{dataset}", store, "already imported" if found else "")


@data_app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="An HDF5 or .npz file of your own; D4RL's .hdf5, a trajectory .pkl of kzl's scripts, a Minari folder, "
            "or one of DQN replay logs."
        ),
    ],
    as_: Annotated[
        str,
        typer.Option(
            "--as",
            help="A name for data of your own; the public id of others, e.g. hopper-medium-v2, D4RL/pen/human-v2 or "
            "breakout-dqn-1pct.",
        ),
    ],
    env: Annotated[
        str | None,
        typer.Option(
            "--env", help="For data of your own: the gymnasium environment that they come from, e.g. Hopper-v5."
        ),
    ] = None,
    env_kwargs: Annotated[
        str | None,
        typer.Option(help="Arguments of that environment's constructor, e.g. '{reset_noise_scale: 0.1}'."),
    ] = None,
    force: Force = False,
) -> None:
    """Import a dataset that is on disk; a broken file is refused and leaves nothing behind.

    With --env, FILE holds data of your own: the arrays observations, actions, rewards, terminations (or terminals)
    and truncations (or timeouts), optionally next_observations or final_observations, of all steps; or one HDF5 group
    of them per episode.
    """
    from dtbench.console import progress, resumable
    from dtbench.data.sources import d4rl, dqn_replay, minari

    if not path.exists():
        raise ConfigError(f"There is no {path}.")
    if env is not None:
        _import_own(path, as_, env, env_kwargs, force)
        return
    if env_kwargs is not None:
        raise ConfigError("--env-kwargs are those of --env; name the environment, too.")
    if dqn_replay.is_id(as_):
        if not path.is_dir():
            raise ConfigError(f"{path} is a file, and {as_} is made of a folder of logs, e.g. Breakout/1/replay_logs.")
        found = None if force else dqn_replay.locate(as_)
        with resumable(), progress(as_) as report:
            store = dqn_replay.import_folder(path, as_, progress=report, force=force)
    elif path.is_dir():
        if as_ in d4rl.DATASETS:
            raise ConfigError(f"{path} is a folder, and D4RL's dataset {as_} is a file; name an .hdf5 or .pkl file.")
        found = None if force else minari.locate(as_)
        folder = path.resolve().parent if path.name == "data" else path
        with resumable(), progress(as_) as report:
            store = minari.import_folder(folder, as_, progress=report, force=force)
    elif not path.is_file():
        raise ConfigError(f"{path} is neither a file nor a folder.")
    elif "/" in as_:
        raise ConfigError(f"{path} is a file, and Minari's dataset {as_} is a folder with `data` in it.")
    elif as_ not in d4rl.DATASETS:
        raise ConfigError(
            f"{UnknownNameError('D4RL dataset', as_, d4rl.DATASETS)} For data of your own, add --env ENV."
        )
    else:
        found = None if force else d4rl.locate(as_)
        with resumable():
            store = d4rl.import_file(path, as_, force=force)
    _print_store(as_, store, "already imported, the same content" if found else "")


def _import_own(path: Path, name: str, env: str, env_kwargs: str | None, force: bool) -> None:
    from dtbench.console import resumable
    from dtbench.data.sources import own

    if not path.is_file():
        raise ConfigError(f"{path} is no file; data of your own are one HDF5 or .npz file.")
    found = None if force else own.locate(name)
    with resumable():
        store = own.import_file(path, name, env, env_kwargs=_mapping(env_kwargs), force=force)
    _print_store(name, store, "already imported, the same content" if found else "")
    if unused := store.metadata["recipe"].get("unused"):
        typer.echo(f"    not used: {', '.join(unused)}")


def _mapping(text: str | None) -> dict[str, Any]:
    """Read a mapping that was given on the command line, as YAML."""
    import yaml

    from dtbench.suites import fields

    if text is None:
        return {}
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--env-kwargs {text!r} is not readable YAML: {' '.join(str(error).split())}") from error
    return fields.plain_mapping(content, "--env-kwargs")


@data_app.command("list")
def list_(json_: Json = False) -> None:
    """List the datasets that are built or imported here, of every source."""
    from dtbench.data.info import on_disk
    from dtbench.resources import datasets_home

    rows = on_disk()
    if rows or json_:
        echo_rows(rows, json_)
    else:
        typer.echo(f"There is no dataset in {datasets_home()} yet; see dtbench data build, fetch and import.")


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
    from dtbench.console import resumable
    from dtbench.data import export as formats

    if format_ not in formats.FORMATS:
        raise ConfigError(f"--format must be minari or d4rl, not {format_!r}.")
    if format_ == "minari" and out is not None:
        raise ConfigError("--out is for --format d4rl; a Minari dataset is written to Minari's folder under --as.")
    if format_ == "d4rl" and as_ is not None:
        raise ConfigError("--as is for --format minari; D4RL's file is written to --out.")
    if format_ == "d4rl" and out is None:
        raise ConfigError("--format d4rl needs --out FILE, e.g. hopper-medium.hdf5.")
    store = open_dataset(dataset, steps)
    with resumable():
        if out is None:
            typer.echo(f"Wrote Minari dataset {formats.write_minari(store, as_, force=force)}")
        else:
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
    typer.echo(f"{store.path}: the content matches the fingerprint ({store.fingerprint[:12]}).")


def open_dataset(dataset: str, steps: int) -> TrajectoryStore:
    """Open a store by its folder, or by a dataset's name in any source.

    Raises:
        ConfigError: it is not built or imported.
        UnknownNameError: no source knows it.
        DataError: the store is damaged.
    """
    from dtbench.data.sources import d4rl, dqn_replay, local, minari, own
    from dtbench.data.store import TrajectoryStore

    if (Path(dataset) / "metadata.json").is_file():
        return TrajectoryStore.open(dataset)
    if dataset in d4rl.DATASETS or dqn_replay.is_id(dataset):
        store = d4rl.locate(dataset) if dataset in d4rl.DATASETS else dqn_replay.locate(dataset)
        if store is None:
            raise ConfigError(f"{dataset} is not imported; `dtbench data fetch {dataset}` or `dtbench data import`.")
        return store
    if dataset in local.known_datasets():
        return _open_local(dataset, steps)
    if dataset in own.datasets():
        return own.build(dataset)
    store = minari.locate(dataset) if minari.is_id(dataset) else None
    if store is not None:
        return store
    if "/" in dataset:
        raise ConfigError(
            f"{dataset} is neither the folder of a store nor an imported dataset of Minari; "
            f"`dtbench data fetch {dataset}` or `dtbench data import FOLDER --as {dataset}`."
        )
    raise UnknownNameError(
        "dataset", dataset, [*own.datasets(), *local.known_datasets(), *d4rl.DATASETS, *dqn_replay.DATASETS]
    )


def _open_local(dataset: str, steps: int) -> TrajectoryStore:
    from dtbench.data.sources import local

    store = local.locate(dataset, steps=steps)
    if store is None:
        raise ConfigError(
            f"{dataset} with {steps:,} steps is not built; give another --steps, name the folder of a store, or "
            f"build it: `dtbench data build {_task_of(dataset)} --steps {steps}`."
        )
    return store


def _print_store(label: str, store: TrajectoryStore, note: str) -> None:
    note = f"{note}; " if note else ""
    typer.echo(f"{label}: {note}{store.num_episodes:,} episodes, {store.num_steps:,} steps, {store.path}")


def _local_datasets(suite: str, tasks: list[str]) -> list[str]:
    from dtbench.suites.suites import load_suite

    listed = [task.sources["local"] for task in load_suite(suite).select(split(tasks)) if "local" in task.sources]
    if not listed:
        raise ConfigError(
            f"Suite {suite} has no datasets that can be built locally{' for these tasks' if tasks else ''}."
        )
    return list(dict.fromkeys(listed))


def _public_datasets(what: str, tasks: list[str], source: str) -> list[tuple[str, str]]:
    """Return (source, dataset) of what is to be fetched: a dataset, or those of a suite's tasks."""
    from dtbench.data.sources import SOURCES, d4rl, dqn_replay, minari, source_module
    from dtbench.suites.suites import suite_names

    public = [name for name in SOURCES if source_module(name).HOST is not None]
    if source not in ("auto", *public):
        raise UnknownNameError("source", source, [*public, "auto"])
    if what in suite_names() or what.endswith((".yaml", ".yml")):
        return _public_datasets_of_suite(what, tasks, source, public)
    if what in d4rl.DATASETS:
        found = "d4rl"
    elif dqn_replay.is_id(what):
        found = "dqn_replay"
    elif "/" in what and minari.is_id(what):
        found = "minari"
    else:
        raise UnknownNameError("suite or dataset", what, [*suite_names(), *d4rl.DATASETS, *dqn_replay.DATASETS])
    if tasks:
        raise ConfigError(f"--task chooses tasks of a suite, and {what} is a dataset.")
    if source not in ("auto", found):
        raise ConfigError(f"{what} is a dataset of {found}, not of {source}.")
    return [(found, what)]


def _public_datasets_of_suite(what: str, tasks: list[str], source: str, public: list[str]) -> list[tuple[str, str]]:
    from dtbench.suites.suites import load_suite

    suite = load_suite(what)
    order = [name for name in suite.sources if name in public] if source == "auto" else [source]
    found = []
    for task in suite.select(tasks):
        name = next((name for name in order if name in task.sources), None)
        if name is not None:
            found.append((name, task.sources[name]))
    if not found:
        only = "" if source == "auto" else f" from {source}"
        raise ConfigError(f"Suite {suite.name} lists no public dataset of these tasks{only}.")
    return list(dict.fromkeys(found))


def _task_of(dataset: str) -> str:
    """Return the words that name a local dataset to `dtbench data build`."""
    from dtbench.suites.suites import load_suite, suite_names

    for suite in suite_names():
        for task in load_suite(suite).tasks:
            if task.sources.get("local") == dataset:
                return f"{suite} --task {task.id}"
    return "SUITE"


def _reference(dataset: str) -> ReferenceScores | None:
    """Return the reference scores of the first shipped task that uses a dataset, or None."""
    from dtbench.suites.suites import load_suite, suite_names

    tasks = [task for name in suite_names() for task in load_suite(name).tasks]
    return next((task.reference for task in tasks if dataset in task.sources.values()), None)
