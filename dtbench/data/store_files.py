"""The files of a store's folder: what they must look like, and how their content is summed up.

Two summaries are kept in `metadata.json`. The digests (SHA-256 over all content) decide what a dataset *is*, and
`verify` compares them. Sizes and sample checksums are cheap, so that every opening compares them: they notice a file
that was cut, exchanged or damaged before anything is trained on it.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtbench.errors import DataError

FORMAT_VERSION = 1
METADATA = "metadata.json"
FIELDS = (
    "observations",
    "actions",
    "rewards",
    "terminations",
    "truncations",
    "final_observations",
    "episode_offsets",
)
_DTYPES = {
    "rewards": np.float32,
    "terminations": np.bool_,
    "truncations": np.bool_,
    "episode_offsets": np.int64,
}
_CHUNK_BYTES = 1 << 24
#: The most blocks of a sample, and their size: a file of up to 64 MiB is sampled whole.
_SAMPLE_BLOCKS, _BLOCK_BYTES = 64, 1 << 20
_REBUILD = "delete the folder and build or import the dataset again"


def array_file(folder: Path, name: str) -> Path:
    """Return the file of one of `FIELDS`."""
    return folder / f"{name}.npy"


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read and check `metadata.json`.

    Raises:
        DataError: it is missing, is of another format, or a value is missing or of the wrong type.
    """
    file = folder / METADATA
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{folder} is not a trajectory store: it has no {METADATA}; {_REBUILD}.") from error
    except (ValueError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} cannot be read ({reason}); {_REBUILD}.") from error
    if not isinstance(metadata, dict):
        raise DataError(f"{file} must hold an object; {_REBUILD}.")
    if metadata.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{folder} has store format {metadata.get('format_version')!r}, this dtbench reads {FORMAT_VERSION}; "
            f"{_REBUILD}."
        )
    wrong = _wrong_entry(metadata)
    if wrong is not None:
        raise DataError(f"{file}: {wrong!r} is missing or of the wrong type; {_REBUILD}.")
    if metadata["fingerprint"] != fingerprint(metadata["digests"]):
        raise DataError(f"{file}: the fingerprint does not belong to the digests; {_REBUILD}.")
    return metadata


def _wrong_entry(metadata: Mapping[str, Any]) -> str | None:
    """Return the name of the first entry that is missing or of the wrong type."""
    for name in ("source", "dataset_id", "env_id", "fingerprint"):
        if not isinstance(metadata.get(name), str):
            return name
    for name in ("totals", "action_space", "recipe", "digests"):
        if not isinstance(metadata.get(name), dict):
            return name
    if not isinstance(metadata.get("env_kwargs", {}), dict):
        return "env_kwargs"
    if not all(_is_count(metadata["totals"].get(name)) for name in ("episodes", "steps")):
        return "totals"
    if not all(isinstance(metadata["digests"].get(name), str) for name in FIELDS):
        return "digests"
    if not _is_action_space(metadata["action_space"]):
        return "action_space"
    if not _is_observation_space(metadata.get("observation_space")):
        return "observation_space"
    if not _is_reference(metadata.get("reference")):
        return "reference"
    if "files" in metadata and not _are_summaries(metadata["files"]):
        return "files"
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_action_space(space: Mapping[str, Any]) -> bool:
    if "n" in space:
        return _is_count(space["n"])
    low, high = space.get("low"), space.get("high")
    if not isinstance(low, list) or not isinstance(high, list) or len(low) != len(high):
        return False
    return all(_is_finite(bound) for bound in low + high)


def _is_observation_space(space: object) -> bool:
    """Report whether this is a stack of frames, or absent: vectors."""
    return space is None or (isinstance(space, dict) and set(space) == {"stack"} and _is_count(space["stack"]))


def _is_reference(reference: object) -> bool:
    if reference is None:
        return True
    if not isinstance(reference, dict) or set(reference) != {"table", "random", "expert"}:
        return False
    return isinstance(reference["table"], str) and _is_finite(reference["random"]) and _is_finite(reference["expert"])


def _are_summaries(files: object) -> bool:
    if not isinstance(files, dict):
        return False
    summaries = [files.get(name) for name in FIELDS]
    return all(isinstance(s, dict) and all(isinstance(s.get(k), int) for k in ("bytes", "crc32")) for s in summaries)


def map_file(path: Path) -> NDArray[Any]:
    """Map a .npy file read-only into memory.

    Raises:
        DataError: it is missing, cut or damaged.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {_REBUILD}.") from error
    except Exception as error:  # whatever numpy's parser raises on a damaged header: SyntaxError, struct.error, …
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is truncated or damaged ({reason}); {_REBUILD}.") from error
    return array


def check_arrays(folder: Path, metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Check that types, shapes and episode offsets of all arrays belong together and to the metadata.

    Raises:
        DataError: naming the file and what differs.
    """
    episodes, steps = metadata["totals"]["episodes"], metadata["totals"]["steps"]
    lengths = dict.fromkeys(FIELDS, steps) | {"final_observations": episodes, "episode_offsets": episodes + 1}
    tail = arrays["observations"].shape[1:]
    space = metadata["action_space"]
    tails: dict[str, tuple[int, ...]] = {"observations": tail, "final_observations": tail}
    tails["actions"] = () if "n" in space else (len(space["low"]),)
    frames = metadata.get("observation_space") is not None
    dtypes = {**_DTYPES, "actions": np.int64 if "n" in space else np.float32}
    dtypes |= dict.fromkeys(("observations", "final_observations"), np.uint8 if frames else np.float32)
    if len(tail) != (2 if frames else 1):
        axes = "(steps, height, width)" if frames else "(steps, dimensions)"
        _refuse(folder, "observations", f"has shape {arrays['observations'].shape}, not {axes}")
    for name in FIELDS:
        array, wanted = arrays[name], (lengths[name], *tails.get(name, ()))
        if array.dtype != dtypes[name]:
            _refuse(folder, name, f"holds {array.dtype}, not {np.dtype(dtypes[name])}")
        if array.shape != wanted:
            _refuse(folder, name, f"has shape {array.shape}, the metadata says {wanted}")
    offsets = arrays["episode_offsets"]
    if offsets[0] != 0 or offsets[-1] != steps or (np.diff(offsets) <= 0).any():
        _refuse(folder, "episode_offsets", f"does not rise from 0 to {steps}")


def _refuse(folder: Path, name: str, what: str) -> None:
    raise DataError(f"{array_file(folder, name)} {what}; {_REBUILD}.")


def summarize(folder: Path) -> dict[str, dict[str, int]]:
    """Return size and sample checksum of each file."""
    return {name: _summary(array_file(folder, name)) for name in FIELDS}


def check_summaries(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Compare each file's size and sample checksum with the recorded ones; older stores have none.

    Raises:
        DataError: naming the file that differs.
    """
    for name, recorded in metadata.get("files", {}).items():
        if name not in FIELDS:
            continue
        file = array_file(folder, name)
        try:
            size = file.stat().st_size
            if size != recorded["bytes"]:
                _refuse(
                    folder, name, f"is truncated or damaged: it has {size:,} bytes instead of {recorded['bytes']:,}"
                )
            if _summary(file) != recorded:
                _refuse(folder, name, "is not what was built: its content differs from its checksum")
        except FileNotFoundError as error:
            raise DataError(f"{file} is missing; {_REBUILD}.") from error
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error


def _summary(file: Path) -> dict[str, int]:
    size = file.stat().st_size
    blocks = -(-size // _BLOCK_BYTES)
    checksum = 0
    with file.open("rb") as content:
        for index in np.unique(np.linspace(0, blocks - 1, min(blocks, _SAMPLE_BLOCKS)).round().astype(np.int64)):
            content.seek(int(index) * _BLOCK_BYTES)
            checksum = zlib.crc32(content.read(_BLOCK_BYTES), checksum)
    return {"bytes": size, "crc32": checksum}


def digest(name: str, array: NDArray[Any]) -> str:
    """Return the SHA-256 over an array's name, type, shape and bytes."""
    content = hashlib.sha256(f"{name} {array.dtype.str} {array.shape}".encode())
    rows = max(1, _CHUNK_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), rows):
        content.update(np.ascontiguousarray(array[start : start + rows]).data)
        give_back_pages(array)
    return content.hexdigest()


def give_back_pages(array: NDArray[Any]) -> None:
    """Take what was read of a read-only memory map out of this process's memory.

    Pages of a map count as the process's own once they were touched, so that reading adds up to the whole file. They
    stay in the system's cache, and are mapped again when they are read again. Where a system has no such call, nothing
    happens.
    """
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def fingerprint(digests: Mapping[str, str]) -> str:
    """Return the SHA-256 over the digests of all arrays."""
    return hashlib.sha256(json.dumps({name: digests[name] for name in FIELDS}).encode()).hexdigest()
