"""What an imported dataset was made of: the SHA-256 of its file or folder, kept in the store's recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dtbench.data.store import TrajectoryStore
from dtbench.errors import DataError


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that over the names and contents of all its files.

    Raises:
        DataError: something in it cannot be read.
    """
    try:
        if not path.is_dir():
            return _file_sha256(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listing = "".join(f"{_file_sha256(file)} {file.relative_to(path).as_posix()}\n" for file in files)
        return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from error


def _file_sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def require_same(store: TrajectoryStore, sha256: str, path: Path, dataset: str) -> TrajectoryStore:
    """Return the store if it was imported from this content.

    Args:
        store: the dataset as it is imported.
        sha256: the digest of what is to be imported.
        path: the file or folder that is to be imported, for the message.
        dataset: the dataset's id, for the message.

    Raises:
        DataError: it was imported from other content, or it is not recorded from which.
    """
    if store.metadata["recipe"].get("sha256") != sha256:
        raise DataError(
            f"{dataset} is imported already, from other content than {path}; import it with --force to replace it."
        )
    return store
