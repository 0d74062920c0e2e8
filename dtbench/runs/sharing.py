"""Runs on the model hub: sent as data, fetched as data.

A repository holds four files: `model.safetensors` (the trained weights), `result.json` (the record, byte for byte),
`run.json` (what opens the weights again: spaces, evaluation protocol, configuration) and `README.md` (the card).
No code and no pickle is sent or fetched; whatever else a repository holds is left there. What comes from the hub is not
trusted: it is parsed as records, its names are checked before they become paths, and its model must be one that is
installed here, or that the user names.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtbench import atomic
from dtbench.errors import ConfigError, ResultError, SourceError
from dtbench.registry import model_entry, models
from dtbench.results.files import read_result, result_path
from dtbench.results.schema import DONE, Result
from dtbench.runs.folder import Busy, RunFolder
from dtbench.runs.record import RunRecord
from dtbench.suites import fields

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WEIGHTS, RECORD, RUN, CARD = "model.safetensors", "result.json", "run.json", "README.md"
#: In the metadata of the safetensors file: the checksum of the checkpoint that the weights were taken from.
_OF_CHECKPOINT = "checkpoint_sha256"
#: An id: a name, or a user's or an organisation's name before it.
_REPO = re.compile(r"[\w.-]+(/[\w.-]+)?")
#: What the hub's client speaks HTTP with, by its version; their errors have no class in common.
_HTTP_CLIENTS = {"httpx", "httpx2", "httpcore", "requests", "urllib3"}
#: A larger file is not a record.
_LARGEST_JSON = 256 * 2**20


def push(path: str | Path, repo: str, *, private: bool = False) -> str:
    """Send a finished run to a repository of the model hub, which is made if it does not exist, in one commit.

    Args:
        path: the run's folder, `…/<task>/seed-<n>`, beside its record.
        repo: id of the repository, e.g. `my-name/dt-hopper`.
        private: whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: no finished run, one without its record, or no token.
        SourceError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd

    from dtbench.runs.model_card import model_card

    folder, result = RunFolder(Path(path)), _own_result(Path(path))
    with tempfile.TemporaryDirectory(prefix="dtbench-push-") as place:
        staged = Path(place)
        _write_weights(folder, result, staged / WEIGHTS)
        record = replace(RunRecord.read(folder), model_address="")  # it may be a path of this machine
        (staged / RUN).write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
        (staged / RECORD).write_bytes(_record_file(folder).read_bytes())
        (staged / CARD).write_text(model_card(result, repo), encoding="utf-8")
        api = _client(repo, needs_token=True)
        with _naming_the_hub(repo):
            api.create_repo(repo, private=private, exist_ok=True)
            title = f"{result.model.name} on {result.task.id}, seed {result.seed} ({result.suite.id})"
            added = [CommitOperationAdd(name, staged / name) for name in (WEIGHTS, RECORD, RUN, CARD)]
            api.create_commit(repo, added, commit_message=title)
    return f"{api.endpoint}/{repo}"


def pull(repo: str, output: str | Path, *, revision: str | None = None, model: str | None = None) -> Path:
    """Fetch a run into a folder of results.

    Args:
        repo: id of the repository.
        output: the folder of results.
        revision: branch, tag or commit; None takes the newest.
        model: where the code of a model is that is not part of dtbench and not installed, as `model_entry` takes it.

    Returns:
        The run's folder, which evaluates and analyses like one's own.

    Raises:
        ConfigError: the repository is not a run of dtbench, or its model's code is not here; or a run of another
            content is in its place.
        SourceError: the hub cannot be reached, or has no such repository.
    """
    api = _client(repo, needs_token=False)
    with tempfile.TemporaryDirectory(prefix="dtbench-pull-") as cache:
        files = _fetched(api, repo, revision, Path(cache))
        result, record = _parsed(repo, files)
        record = replace(record, model_address=_address(repo, record, model))
        place = _place(Path(output), result)
        folder = RunFolder(place.with_suffix(""))
        content = files[RECORD].read_bytes()
        if place.exists() and place.read_bytes() != content:
            raise ConfigError(f"{place} holds another result; choose another --output.")
        folder.create()
        try:
            with folder.lock():
                _write_checkpoint(repo, files[WEIGHTS], result, folder)
                record.write(folder)
                atomic.write_bytes(place, content)
        except Busy as error:
            raise ConfigError(f"Another process is working on {folder.path}; choose another --output.") from error
    return folder.path


def _record_file(folder: RunFolder) -> Path:
    return folder.path.with_name(f"{folder.path.name}.json")


def _own_result(path: Path) -> Result:
    """Return the record of a finished run."""
    folder = RunFolder(path)
    RunRecord.read(folder)  # or the folder is none of a run, which it says
    if not folder.final.is_file():
        raise ConfigError(f"The run in {path} is not trained yet (it has no {folder.final.name}); run it first.")
    try:
        result = read_result(_record_file(folder))
    except ResultError as error:
        raise ConfigError(f"A run is sent with its record: {error}") from error
    if result.status != DONE:
        raise ConfigError(f"{_record_file(folder)} has no score ({result.status}); finish the run first.")
    return result


def _write_weights(folder: RunFolder, result: Result, file: Path) -> None:
    """Write a run's weights as safetensors, after a check that they are those of the record."""
    from safetensors.torch import save_file

    from dtbench.models.checkpoint import load_checkpoint
    from dtbench.runs.reopen import check_weights
    from dtbench.runs.training import sha256

    check_weights(folder)
    state = load_checkpoint(folder.final)["state_dict"]
    # Shared weights are written once for each name: a file of safetensors cannot say that two are one.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    checksum = (result.training and result.training.checkpoint_sha256) or sha256(folder.final)
    save_file(tensors, file, metadata={"format": "pt", _OF_CHECKPOINT: checksum})


def _write_checkpoint(repo: str, weights: Path, result: Result, folder: RunFolder) -> None:
    """Write the weights as the checkpoint that commands open, and note from where they are."""
    import torch
    from safetensors import SafetensorError, safe_open

    from dtbench.runs.training import sha256

    try:
        with safe_open(weights, framework="pt") as file:
            checksum = (file.metadata() or {}).get(_OF_CHECKPOINT)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise ConfigError(f"{WEIGHTS} of {repo} is damaged ({error}); fetch it again.") from error
    recorded = result.training.checkpoint_sha256 if result.training is not None else None
    if recorded is not None and checksum != recorded:
        raise ConfigError(f"{WEIGHTS} of {repo} is not what its record was measured with (checkpoint_sha256 differs).")
    with atomic.replacing(folder.final) as temporary:
        torch.save({"state_dict": tensors}, temporary)
    folder.write_origin(repo, recorded, sha256(folder.final))


def _client(repo: str, *, needs_token: bool) -> HfApi:
    """Return the hub's client, or say within seconds why it would not work."""
    from huggingface_hub import HfApi, get_token

    from dtbench.console import err
    from dtbench.models.backbone.hub import hub_is_reachable

    if not _REPO.fullmatch(repo):
        raise ConfigError(_no_id(repo))
    if not err.is_terminal:
        utils: Any = importlib.import_module("huggingface_hub.utils")  # its names are exported at run time only
        utils.disable_progress_bars()
    api = HfApi()
    if (offline := os.environ.get("DTBENCH_OFFLINE", "0")) not in ("", "0"):
        raise SourceError(f"DTBENCH_OFFLINE={offline} says that there is no network; unset it to reach the model hub.")
    if not hub_is_reachable(api.endpoint):
        raise SourceError(f"The model hub ({api.endpoint}) cannot be reached; try again with a network.")
    if needs_token and get_token() is None:
        raise ConfigError("The model hub needs a token: `hf auth login`, or set HF_TOKEN.")
    return api


def _fetched(api: HfApi, repo: str, revision: str | None, cache: Path) -> dict[str, Path]:
    """Download the three files of a run, of one commit."""
    with _naming_the_hub(repo):
        info = api.model_info(repo, revision=revision)
        names = {entry.rfilename for entry in info.siblings or ()}
        missing = [name for name in (WEIGHTS, RECORD, RUN) if name not in names]
        if missing:
            raise ConfigError(
                f"{repo} is not a run that `dtbench push` sent: it has no {' and no '.join(missing)}. Code and pickles "
                "are not opened instead."
            )
        return {
            name: Path(api.hf_hub_download(repo, name, revision=info.sha, cache_dir=cache))
            for name in (RECORD, RUN, WEIGHTS)
        }


def _parsed(repo: str, files: dict[str, Path]) -> tuple[Result, RunRecord]:
    """Read the record and the description of the run, which must be of one run."""
    for name in (RECORD, RUN):
        if files[name].stat().st_size > _LARGEST_JSON:
            raise ConfigError(f"{name} of {repo} is too large to be a record.")
    try:
        result = read_result(files[RECORD])
    except ResultError as error:
        raise ConfigError(f"{RECORD} of {repo} is not a result: {error}") from error
    record = RunRecord.read_file(files[RUN])
    if result.status != DONE or _identity(result) != _identity(record):
        raise ConfigError(f"{RECORD} and {RUN} of {repo} are not those of one finished run.")
    if ":" in record.evaluation_protocol.env_id:  # gymnasium would import the module in front of it
        named = record.protocol["env_id"]
        raise ConfigError(f"{RUN} of {repo} names a module in its environment {named!r}; it is not opened.")
    return result, record


def _identity(of: Result | RunRecord) -> tuple[Any, ...]:
    return of.suite, of.task, of.model.name, of.model.config_hash, of.model.config, of.preset, of.seed


def _address(repo: str, record: RunRecord, model: str | None) -> str:
    """Return where the model's code is; a repository never says so."""
    name = record.model.name
    if model is not None:
        entry = model_entry(model)
        if entry.name != name:
            raise ConfigError(f"{repo} is a run of {name}, but --model names {entry.name}.")
        return entry.address
    if name not in models():
        raise ConfigError(
            f"{repo} is a run of {name}, which is not part of dtbench and not installed; name its code with --model "
            "package.module:Class or FILE.py:Class."
        )
    return name


def _place(root: Path, result: Result) -> Path:
    """Return where a result belongs, after a check that its names lead nowhere else."""
    names = {
        "suite.name": result.suite.name,
        "task.id": result.task.id,
        "task.source": result.task.source,
        "preset": result.preset,
        "model.name": result.model.name.replace(":", "."),
        "model.config_hash": result.model.config_hash,
    }
    for field, name in names.items():
        fields.name(name, field)
    task = result.task
    return result_path(
        root, result.suite.id, task.source, result.preset, result.model.folder, task.id, result.seed
    )  # fmt: skip


def _no_id(repo: str) -> str:
    return f"{repo!r} is not a possible id of the model hub; write my-name/my-run."


@contextmanager
def _naming_the_hub(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:  # it knows more rules than `_REPO`
        raise ConfigError(_no_id(repo)) from error
    except GatedRepoError as error:
        raise SourceError(
            f"{repo} is gated: ask for access on the model hub, then log in (`hf auth login`)."
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"The model hub has no {repo}, or your token may not see it; check the name, or `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(f"{repo} has no such revision; leave --revision out for the newest.") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise SourceError(
                f"The model hub refuses {repo} ({status}): the token may not write there; `hf auth login` with another."
            ) from error
        raise SourceError(f"The model hub failed for {repo} ({_first_line(error)}); try again later.") from error
    except (OSError, RuntimeError) as error:  # the latter hides why a large file could not be sent
        reason = _first_line(error.__cause__ or error)
        raise SourceError(f"{repo}: the model hub cannot be reached ({reason}); try again later.") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _HTTP_CLIENTS:
            raise
        reason = _first_line(error)
        raise SourceError(f"{repo}: the model hub cannot be reached ({reason}); try again later.") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
