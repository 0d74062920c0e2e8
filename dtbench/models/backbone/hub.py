"""Files of the model hub: from its cache, or downloaded; within seconds where it cannot be reached."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from dtbench.errors import ConfigError, SourceError

_HUB_TIMEOUT_S = 3.0


def from_hub(repo: str, *filenames: str, kind: str = "model", ways_out: str) -> Path:
    """Return the first of some files of a hub repository, from the cache or downloaded.

    Raises:
        ConfigError: no possible hub id.
        SourceError: neither cached nor reachable within seconds, or not there; ends with `ways_out`.
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
                f"{repo!r} is neither a folder nor a possible id of the model hub; {ways_out}."
            ) from error
    if not _reachable(constants.ENDPOINT):
        raise SourceError(f"The {kind} {repo!r} is not cached and the model hub cannot be reached; {ways_out}.")
    for filename in filenames:
        try:
            return Path(hf_hub_download(repo, filename, repo_type=kind))
        except RepositoryNotFoundError as error:
            raise SourceError(f"The model hub has no {kind} {repo!r}; {ways_out}.") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            reason = type(error).__name__
            raise SourceError(f"The {kind} {repo!r} could not be downloaded ({reason}); {ways_out}.") from error
    raise SourceError(f"The model hub has no {filenames[0]} for {repo!r}; {ways_out}.")


def _reachable(endpoint: str) -> bool:
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
