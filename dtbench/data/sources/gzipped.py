"""Gzip files with a .npy array in them, read row by row: unpacked they may not fit into memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtbench.errors import DataError

_CHUNK_BYTES = 1 << 22


class ArrayStream:
    """The rows of a gzip file with a .npy array in it, read from first to last and never held as a whole.

    Attributes:
        shape, dtype: of the whole array.
        row: the next one to be read.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.row = file, 0
        with self._reading():
            self._content = gzip.open(file, "rb")  # noqa: SIM115 - closed by __exit__
            try:
                self.shape, self.dtype = _header(self._content)
            except BaseException:
                self._content.close()
                raise

    def __enter__(self) -> ArrayStream:
        """Return the stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._content.close()

    def read(self, rows: int) -> NDArray[Any]:
        """Read the next rows: (rows, …)."""
        values = np.empty((rows, *self.shape[1:]), self.dtype)
        self._fill(values)
        self.row += rows
        return values

    def read_all(self) -> NDArray[Any]:
        """Read the whole of a small array, whatever its number of axes."""
        values = np.empty(self.shape, self.dtype)
        self._fill(values)
        return values

    def skip(self, rows: int) -> None:
        """Pass over the next rows; a compressed file has no shorter way to the ones behind them."""
        left = rows * self.dtype.itemsize * int(np.prod(self.shape[1:]))
        with self._reading():
            while left > 0:
                left -= len(self._some(left))
        self.row += rows

    def finish(self) -> None:
        """Read what is left, so that gzip compares its checksum."""
        with self._reading():
            while self._content.read(_CHUNK_BYTES):
                pass

    def _fill(self, values: NDArray[Any]) -> None:
        room = values.reshape(-1).view(np.uint8).data
        with self._reading():
            while room:
                part = self._some(len(room))
                room[: len(part)] = part
                room = room[len(part) :]

    def _some(self, most: int) -> bytes:
        part = self._content.read(min(most, _CHUNK_BYTES))
        if not part:
            raise EOFError("it ends before its last row")
        return part

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError, ValueError, zlib.error) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.file} is cut or damaged ({reason}); fetch or copy it again.") from error


def _header(content: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of a .npy file; objects, which would be pickles, are refused by their type later."""
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(content)
    if is_fortran or dtype.hasobject:
        raise ValueError("its array is not one of plain numbers in rows")
    return shape, dtype
