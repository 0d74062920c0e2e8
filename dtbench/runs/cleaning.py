"""Delete what finished runs leave behind beside their results."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from dtbench.errors import ResultError
from dtbench.results.files import read_content, result_files
from dtbench.results.schema import DONE
from dtbench.runs.folder import Busy, RunFolder, naming_the_folder
from dtbench.runs.status import folder_size


def finished_folders(root: Path) -> Iterator[RunFolder]:
    """Yield the folders of the runs under a folder of results that are finished.

    Raises:
        ResultError: there is no such folder.
    """
    if not root.is_dir():
        raise ResultError(f"There is no folder {root}.")
    for file in result_files(root):
        folder = RunFolder(file.with_suffix(""))
        try:
            is_done = read_content(file).get("status") == DONE
        except ResultError:
            continue
        if is_done and folder.path.is_dir() and not folder.path.is_symlink():
            yield folder


def deletable(folder: RunFolder, keep_weights: bool) -> int:
    """Return the bytes that `clean_run` would free."""
    return sum(_size(path) for path in _entries(folder, keep_weights))


def clean_run(folder: RunFolder, keep_weights: bool) -> int:
    """Delete a finished run's files and return the bytes that are free then; one that is being done again stays.

    Args:
        folder: the run's.
        keep_weights: keep what `evaluate`, `record` and `analyze` need.

    Raises:
        ResultError: a file cannot be deleted.
    """
    try:
        with folder.lock(), naming_the_folder(folder.path):
            freed = 0
            for path in _entries(folder, keep_weights):
                freed += _size(path)
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            return freed
    except Busy:
        return 0


def _entries(folder: RunFolder, keep_weights: bool) -> list[Path]:
    kept = {folder.lock_file, folder.soft_lock_file, folder.holder}
    kept |= {folder.final, folder.training, folder.record} if keep_weights else set()
    return [path for path in folder.path.iterdir() if path not in kept]


def _size(path: Path) -> int:
    return folder_size(path) if path.is_dir() and not path.is_symlink() else path.lstat().st_size
