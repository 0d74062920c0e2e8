"""Files of the model hub: from its cache, or downloaded; where the hub cannot be reached, the answer takes seconds."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from dtbench.errors import ConfigError, SourceError

_HUB_TIMEOUT_S = 3.0


def from_hub(repo: str, *filenames: str, kind: str = "model", alternatives: str) -> Path:
    """Return the first of some files of a hub repository, from the cache or downloaded.

    Args:
        repo: id of the repository, e.g. `gpt2`.
        filenames: names of the files, best first.
        kind: `model` or `dataset`.
        alternatives: what else a user can do; the end of every message.

    Raises:
        ConfigError: `repo` is not a possible hub id.
        SourceError: the hub has no such file, or it is neither cached nor reachable.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    for filename in filenames:
        try:
            return Path(hf_hub_download(repo, filename, repo_type=kind, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
        except HFValidationError as error:
            raise ConfigError(
                f"{repo!r} is neither a folder nor a possible id of the model hub; {alternatives}."
            ) from error
    if not hub_is_reachable(constants.ENDPOINT):
        raise SourceError(f"The {kind} {repo!r} is not cached and the model hub cannot be reached; {alternatives}.")
    for filename in filenames:
        try:
            return Path(hf_hub_download(repo, filename, repo_type=kind))
        except RepositoryNotFoundError as error:
            raise SourceError(f"The model hub has no {kind} {repo!r}; {alternatives}.") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            reason = type(error).__name__
            raise SourceError(f"The {kind} {repo!r} could not be downloaded ({reason}); {alternatives}.") from error
    raise SourceError(f"The model hub has no {filenames[0]} for {repo!r}; {alternatives}.")


def hub_is_reachable(endpoint: str) -> bool:
    """Say within seconds whether the hub can be reached: its own client retries for much longer."""
    from urllib.parse import urlparse

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    url = urlparse(endpoint)
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # only the proxy knows; its answer decides
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), timeout=_HUB_TIMEOUT_S).close()
    except OSError:
        return False
    return True
