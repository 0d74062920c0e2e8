"""The `minari` source: any dataset of Minari by its id, from its local folder or its server, HDF5 or Arrow.

Observations become vectors of what a policy sees (`policy_space`): of a goal-conditioned Dict, observation ‖ desired
goal, with an ant's position in front. Models are evaluated in the environment that the dataset's own specification
names, with its arguments (a maze's map; whether the task continues at the goal). If the dataset has reference scores,
they are used, and named with the results.

Frames of a game are taken if they were recorded as an evaluation shows them: grey, 84 × 84, the maximum of the last two
of four frames (gymnasium's AtariPreprocessing), without loss. Minari's own `atari/<game>/expert-v0` are not: they hold
the colour image of each step's last frame alone (minari-dataset-generation-scripts, scripts/atari/create_datasets.py),
from which what was skipped cannot be recovered. They are refused.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from dtbench.console import Progress, err
from dtbench.data.episodes import Episode
from dtbench.data.sources.content import require_same, sha256_of
from dtbench.data.store import TrajectoryStore, build_store
from dtbench.environments.make import canonical_id, flatten, import_robotics, policy_space
from dtbench.errors import ConfigError, DataError, SourceError
from dtbench.locks import lock
from dtbench.resources import datasets_home
from dtbench.suites.fields import path_of_names

HOST = "huggingface.co"
#: Frames that a policy sees of a game, and how they must have been recorded.
_STACK = 4
_PREPROCESSING = {
    "frame_skip": 4,
    "screen_size": 84,
    "terminal_on_life_loss": False,
    "grayscale_obs": True,
    "grayscale_newaxis": False,
    "scale_obs": False,
}


def is_id(dataset: str) -> bool:
    """Report whether a text has the form of Minari's ids: names separated by `/`."""
    try:
        path_of_names(dataset, "the id of a Minari dataset")
    except ConfigError:
        return False
    return True


def store_path(dataset: str) -> Path:
    """Return the folder of an imported dataset.

    Raises:
        ConfigError: an id that is not made of plain names: it would lead out of the folder of datasets.
    """
    return datasets_home() / "minari" / path_of_names(dataset, "the id of a Minari dataset")


def minari_folder(dataset: str) -> Path:
    """Return where Minari keeps a dataset: `$MINARI_DATASETS_PATH`, default `~/.minari/datasets`."""
    from minari.storage.datasets_root_dir import get_dataset_path

    return Path(get_dataset_path(dataset))


def locate(dataset: str, *, steps: int = 0) -> TrajectoryStore | None:
    """Open a dataset that is imported already, else return None."""
    path = store_path(dataset)
    return TrajectoryStore.open(path) if (path / "metadata.json").is_file() else None


def needs_network(dataset: str) -> bool:
    """Report whether the dataset is neither imported nor in Minari's folder."""
    return not ((store_path(dataset) / "metadata.json").is_file() or (minari_folder(dataset) / "data").is_dir())


def build(dataset: str, *, steps: int = 0, progress: Progress | None = None, force: bool = False) -> TrajectoryStore:
    """Open a dataset, importing it first and downloading it if Minari lacks it; `steps` has no meaning here.

    Raises:
        SourceError: it cannot be downloaded.
        DataError: it cannot be trusted.
    """
    found = None if force else locate(dataset)
    if found is not None:
        return found
    _fetch(dataset)
    return import_folder(minari_folder(dataset), dataset, progress=progress, force=force)


def _fetch(dataset: str) -> None:
    """Download with Minari, whose hub client resumes, checks and retries; only one process does it."""
    import minari

    folder = minari_folder(dataset)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        if (folder / "data").is_dir():
            return
        try:
            minari.download_dataset(dataset)
        except Exception as error:  # whatever the hub's client raises
            shutil.rmtree(folder, ignore_errors=True)  # or Minari would mistake the remains for the dataset
            reason = str(error).strip().split("\n")[0]
            raise SourceError(
                f"Minari's dataset {dataset} cannot be downloaded from {HOST} ({type(error).__name__}: {reason}). "
                f"Download it where there is a network (`minari download {dataset}`) and import its folder: "
                f"`dtbench data import FOLDER --as {dataset}`; or use another --source."
            ) from error


def import_folder(
    folder: Path, dataset: str, *, progress: Progress | None = None, force: bool = False
) -> TrajectoryStore:
    """Turn the folder of a Minari dataset (with `data` in it) into a store under the id `dataset`.

    If the dataset is imported already, from the same content, it is opened.

    Args:
        folder: the dataset's folder.
        dataset: its id, e.g. `D4RL/pen/human-v2`.
        progress: called with (steps done, steps in all).
        force: replace what is imported already.

    Raises:
        DataError: a damaged or incomplete dataset, one of a newer Minari, or data of a form that is not supported; or
            the dataset is imported already from other content.
    """
    if not (folder / "data").is_dir():
        raise DataError(f"{folder} is not a whole Minari dataset: it has no folder `data`.")
    sha256 = sha256_of(folder / "data")
    found = None if force else locate(dataset)
    if found is not None:
        return require_same(found, sha256, folder, dataset)
    opened, metadata = _open(folder, dataset)
    space = opened.action_space
    bounds: dict[str, Any] = {}
    if isinstance(space, gym.spaces.Discrete):
        bounds["action_count"] = int(space.n)
    elif isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        bounds |= {"action_low": space.low, "action_high": space.high}
    else:
        raise DataError(f"{dataset} has actions of {space}; dtbench takes boxes of one axis and discrete actions.")
    environment = _environment(metadata, dataset)
    shown: gym.Space[Any] | None = None
    if environment["id"].startswith("ALE/") and len(opened.observation_space.shape or ()) > 1:
        _require_preprocessing(metadata, opened.observation_space.shape, dataset)
        bounds["frame_stack"] = _STACK
    else:
        _warn_of_images(opened.observation_space, metadata, dataset)
        shown = policy_space(opened.observation_space, environment["id"])
    least, most = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    reference = None
    if least is not None and most is not None:
        reference = {"table": f"minari {dataset}", "random": float(least), "expert": float(most)}
    recipe = {"algorithm": str(metadata.get("algorithm_name")), "minari_version": str(metadata["minari_version"])}
    recipe["sha256"] = sha256
    store = build_store(
        store_path(dataset),
        _episodes(opened, shown, dataset, progress),
        source="minari",
        dataset_id=f"minari/{dataset}",
        env_id=environment["id"],
        env_kwargs=environment["kwargs"],
        reference=reference,
        recipe=recipe,
        expected={"episodes": int(metadata["total_episodes"]), "steps": int(metadata["total_steps"])},
        overwrite=force,
        **bounds,
    )
    return require_same(store, sha256, folder, dataset)


def _open(folder: Path, dataset: str) -> tuple[Any, dict[str, Any]]:
    from minari import MinariDataset, supported_dataset_versions
    from minari import __version__ as installed
    from minari.dataset.minari_storage import MinariStorage

    try:
        metadata = dict(MinariStorage.read_raw_metadata(folder / "data"))
        version = str(metadata["minari_version"])
        if version not in supported_dataset_versions:
            raise DataError(
                f"{dataset} was written by Minari {version}, which the installed {installed} cannot read; "
                "`pip install --upgrade minari`, or take another version of the dataset."
            )
        _check_entry_points(metadata, dataset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return MinariDataset(folder / "data"), metadata
    except DataError:
        raise
    except Exception as error:  # whatever h5py, json or an incomplete folder makes Minari raise
        raise _damaged(folder, dataset, error) from error


def _check_entry_points(metadata: dict[str, Any], dataset: str) -> None:
    """Refuse a dataset whose spaces Minari would ask an environment for that is not the registered one of its id."""
    import_robotics()
    if "observation_space" in metadata and "action_space" in metadata:
        return
    spec = json.loads(str(metadata.get("env_spec") or "{}"))
    registered = gym.registry.get(str(spec.get("id")))
    if registered is None or registered.entry_point != spec.get("entry_point"):
        raise DataError(f"{dataset} does not contain its spaces, and its environment {spec.get('id')!r} is unknown.")


def _damaged(folder: Path, dataset: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    fix = "check the path, or copy it again"
    if folder == minari_folder(dataset):
        fix = f"delete the folder and fetch it again: `dtbench data fetch {dataset}`"
    return DataError(f"{folder} is not a whole Minari dataset ({type(error).__name__}: {reason}); {fix}.")


def _episodes(opened: Any, space: gym.Space[Any] | None, dataset: str, progress: Progress | None) -> Iterator[Episode]:
    """Yield the episodes, their observations flattened from `space`; None: frames, as they are."""
    done, total = 0, int(opened.total_steps)
    episodes = opened.iterate_episodes()
    while True:
        try:
            episode = next(episodes)
        except StopIteration:
            return
        except Exception as error:  # a truncated file fails where it is read
            raise _damaged(Path(opened.storage.data_path).parent, dataset, error) from error
        truncations = np.array(episode.truncations, dtype=bool)
        terminations = np.asarray(episode.terminations, dtype=bool)
        if len(truncations) and not (terminations[-1] or truncations[-1]):
            truncations[-1] = True  # the recording was stopped here
        try:
            observations = np.asarray(episode.observations) if space is None else flatten(space, episode.observations)
        except (ConfigError, ValueError) as error:
            raise DataError(f"{dataset}, episode {episode.id}: {error}") from error
        yield Episode(observations, episode.actions, np.asarray(episode.rewards), terminations, truncations)
        done += len(terminations)
        if progress is not None:
            progress(done, total)


def _environment(metadata: dict[str, Any], dataset: str) -> dict[str, Any]:
    """Return id and arguments of the environment to evaluate in; its entry point is never taken from the data."""
    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if text is None:
        raise DataError(f"{dataset} names no environment, so models trained on it cannot be evaluated.")
    spec = json.loads(str(text))
    env_id, kwargs = canonical_id(str(spec["id"])), dict(spec.get("kwargs") or {})
    if env_id == "FrankaKitchen-v1":
        # The datasets were recorded with a reward in every step that an element is in place; the reference scores of
        # 0 and 4 count elements. Each is paid once and the last one ends the episode, as in D4RL's evaluation.
        kwargs |= {"remove_task_when_completed": True, "terminate_on_tasks_completed": True}
    if ":" in env_id:
        raise DataError(f"{dataset} would import {env_id.partition(':')[0]} for its environment; that is refused.")
    return {"id": env_id, "kwargs": kwargs}


def _require_preprocessing(metadata: dict[str, Any], shape: tuple[int, ...], dataset: str) -> None:
    """Refuse frames of a game that are not those which an evaluation shows.

    Raises:
        DataError: naming what differs.
    """
    spec = json.loads(str(metadata.get("env_spec") or "{}"))
    wrappers = {wrapper["name"]: dict(wrapper.get("kwargs") or {}) for wrapper in spec.get("additional_wrappers") or ()}
    found = wrappers.pop("AtariPreprocessing", None)
    differs = None
    if found is None:
        differs = f"its frames {shape} are each step's last one, not grey, 84 × 84 and the maximum of the last two"
    elif wrappers:
        differs = f"it was recorded through {next(iter(wrappers))}"
    elif metadata.get("jpeg_encoding", True):
        differs = "its frames are lossy JPEG"
    else:
        wrong = [name for name, value in _PREPROCESSING.items() if found.get(name) not in (value, [value, value])]
        differs = f"its {wrong[0]} is {found.get(wrong[0])}, not {_PREPROCESSING[wrong[0]]}" if wrong else None
    if differs is not None:
        raise DataError(
            f"{dataset} does not show what an evaluation shows: {differs}; record it through gymnasium's "
            "AtariPreprocessing alone, without JPEG, or use another --source."
        )


def _warn_of_images(space: Any, metadata: dict[str, Any], dataset: str) -> None:
    from minari.dataset.minari_storage import is_image_space

    parts = space.spaces.values() if isinstance(space, gym.spaces.Dict) else [space]
    if any(is_image_space(part) for part in parts) and metadata.get("jpeg_encoding", True):
        err.print(f"{dataset} holds images as lossy JPEG: pixels differ a little from the environment's.", markup=False)
