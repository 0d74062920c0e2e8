"""Writing a store: episodes are appended to files, and the folder appears under its name only when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dtbench import atomic
from dtbench.data.episodes import Block
from dtbench.data.store_files import FIELDS, METADATA, array_file, digest, map_file
from dtbench.errors import DataError
from dtbench.locks import lock_if_free

#: A store that is being written, or was replaced, has the name `.<store>.building` or `.<store>.replaced`.
_BUILDING, _REPLACED = ".building", ".replaced"


@contextmanager
def naming_the_folder(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into one sentence.

    Raises:
        DataError: naming the folder and the reason.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{path} cannot be written ({reason}); make room, or set DTBENCH_HOME to another folder."
        ) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which takes its place on success and vanishes otherwise.

    Only the process that holds the lock of `path` may call this. Whatever a killed process left is removed first, of
    this store and of others beside it that nobody is building.
    """
    building, replaced = (path.with_name(f".{path.name}{suffix}") for suffix in (_BUILDING, _REPLACED))
    _remove_leftovers(path)
    try:
        building.mkdir()
        yield building
        if path.is_dir():
            path.replace(replaced)
        building.replace(path)
    finally:
        _remove(building, replaced)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of a store that we hold the lock of, and of others that nobody is building."""
    for leftover in path.parent.glob(".*"):
        store, suffix = _store_of(leftover)
        if not suffix or not leftover.is_dir():
            continue
        if store == path.name:
            _remove(leftover)
            continue
        with lock_if_free(path.with_name(store)) as is_free:
            if is_free:
                _remove(leftover)


def _store_of(leftover: Path) -> tuple[str, str]:
    """Return which store a temporary folder belongs to, and its suffix; empty for other names."""
    name = leftover.name[1:]
    for suffix in (_BUILDING, _REPLACED):
        store, found, rest = name.rpartition(suffix)
        if store and found and (not rest or rest.startswith("-")):  # `.building-<random>`: written by dtbench 0.1
            return store, suffix
    return "", ""


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write `metadata.json`, the last file of a store."""
    atomic.write_text(folder / METADATA, json.dumps(metadata, indent=2, allow_nan=False) + "\n")


class StoreWriter:
    """Appends episodes to the files of a store; a context manager that closes them.

    Attributes:
        episodes, steps: how many were appended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.episodes = self.steps = 0
        self._files: dict[str, GrowingArray] = {}
        self._lengths: list[NDArray[np.int64]] = []

    def __enter__(self) -> StoreWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files as they are; `finish` has completed them if all went well."""
        for file in self._files.values():
            file.abandon()

    def append(self, block: Block) -> None:
        """Append whole episodes, checked and in the store's types."""
        self._lengths.append(block.lengths)
        self.episodes += len(block.lengths)
        self.steps += len(block.rewards)
        for name in FIELDS[:-1]:
            self._write(name, getattr(block, name))

    def _write(self, name: str, values: NDArray[Any]) -> None:
        if name not in self._files:
            self._files[name] = GrowingArray(array_file(self.folder, name), values)
        self._files[name].append(values)

    def finish(self, dataset_id: str) -> dict[str, str]:
        """Complete the files and return the digest of each.

        Raises:
            DataError: nothing was appended.
        """
        if not self.episodes:
            raise DataError(f"{dataset_id} has no episodes; there is nothing to learn from.")
        offsets = np.concatenate(([0], np.cumsum(np.concatenate(self._lengths))))
        self._write("episode_offsets", offsets.astype(np.int64))
        for file in self._files.values():
            file.complete()
        # Mapped here, not in the threads: numpy parses a header with `ast`, which CPython 3.11 cannot do in two threads
        # at once (SystemError: AST constructor recursion depth mismatch).
        arrays = [map_file(array_file(self.folder, name)) for name in FIELDS]
        with ThreadPoolExecutor(2) as pool:  # hashing lets other threads run
            found = pool.map(digest, FIELDS, arrays)
            return dict(zip(FIELDS, found, strict=True))


class GrowingArray:
    """A .npy file that grows along its first axis; numpy reserves room in the header for the final length."""

    def __init__(self, path: Path, like: NDArray[Any]) -> None:
        self.dtype, self.tail, self.length = like.dtype, like.shape[1:], 0
        self.file: IO[bytes] = path.open("wb")
        self._write_header()
        self.start = self.file.tell()

    def append(self, values: NDArray[Any]) -> None:
        """Write values (n, …) of the array's type at the end."""
        self.file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.length += len(values)

    def complete(self) -> None:
        """Write the final header, flush everything to disk and close the file."""
        self.file.seek(0)
        self._write_header()
        if self.file.tell() != self.start:
            raise DataError(f"{self.file.name}: the header did not fit; this is a defect of dtbench, please report it.")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def abandon(self) -> None:
        """Close the file, complete or not; what a full disk does not take is given up."""
        with suppress(OSError):
            self.file.close()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.length, *self.tail),
        }
        np.lib.format.write_array_header_1_0(self.file, header)
