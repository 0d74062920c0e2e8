"""Batches of windows from a large store of frames: time to open it, time per batch, and resident memory.

    python benchmarks/perf/frames.py                      # 20,000 frames, 0.14 GB
    python benchmarks/perf/frames.py --frames 500000      # 3.5 GB, and that much room on the disk

The store is written to a temporary folder and read in a process of its own, whose largest resident memory is the
figure, pages of the memory map included. Batches have 128 windows of K 30 and stacks of 4.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SIDE, LENGTH, BATCH, CONTEXT, STACK = 84, 1000, 128, 30, 4


def main() -> None:
    """Write a store, read it in another process and print what that found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000, help="frames of the store, rounded down to thousands")
    parser.add_argument("--batches", type=int, default=200, help="batches that are read")
    parser.add_argument(
        "--folder", type=Path, help="where the store is written; default: the system's temporary folder"
    )
    parser.add_argument("--near-end", default="shift", choices=("shift", "pad"))
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read is not None:
        sys.stdout.write(json.dumps(read(asked.read, asked.batches, asked.near_end)))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        size, free = asked.frames * SIDE**2, shutil.disk_usage(folder).free
        if free < 1.2 * size:
            sys.exit(
                f"{folder} has {free / 1e9:.1f} GB left, and the store takes {size / 1e9:.1f} GB; name a --folder."
            )
        started = time.perf_counter()
        write(Path(folder) / "store", asked.frames // LENGTH)
        written = time.perf_counter() - started
        command = [sys.executable, __file__, "--read", str(Path(folder) / "store"), "--batches", str(asked.batches)]
        command += ["--near-end", asked.near_end]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    sys.stdout.write(json.dumps({"frames": asked.frames, "write_s": round(written, 1), **found}, indent=2) + "\n")


def write(path: Path, episodes: int) -> None:
    """Write random frames in episodes of 1,000 steps."""
    from dtbench.data.episodes import Block
    from dtbench.data.store import build_store

    def blocks() -> Iterator[Block]:
        rng, last = np.random.default_rng(0), np.arange(LENGTH) == LENGTH - 1
        for _ in range(episodes):
            yield Block(
                np.frombuffer(rng.bytes(LENGTH * SIDE**2), np.uint8).reshape(LENGTH, SIDE, SIDE),
                np.zeros((1, SIDE, SIDE), np.uint8),
                rng.integers(4, size=LENGTH),
                rng.normal(size=LENGTH),
                last,
                np.zeros(LENGTH, bool),
                np.array([LENGTH]),
            )

    names = {"source": "test", "dataset_id": "perf", "env_id": "ALE/Breakout-v5"}
    build_store(path, blocks(), **names, action_count=4, frame_stack=STACK)


def read(path: Path, batches: int, near_end: str) -> dict[str, float]:
    """Open the store, gather batches, and return times and the largest resident memory."""
    import torch

    from dtbench.data.store import TrajectoryStore
    from dtbench.data.windows import WindowOptions, Windows

    torch.set_num_threads(1)
    before = _resident_mb()
    started = time.perf_counter()
    store = TrajectoryStore.open(path)
    opened = time.perf_counter() - started
    windows = Windows(store, WindowOptions(CONTEXT, normalize_states=False, near_end=near_end))
    times = []
    for step in range(batches):
        started = time.perf_counter()
        shown = windows.gather(windows.draw(BATCH, seed=0, step=step))["observations"].nbytes
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    return {
        "open_ms": round(1e3 * opened, 1),
        "batch_ms": round(1e3 * seconds, 2),
        "batch_mb_per_s": round(shown / 1e6 / seconds),
        "resident_mb": round(_resident_mb()),
        "of_it_before_opening_mb": round(before),
    }


def _resident_mb() -> float:
    """Return the largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # `ru_maxrss` would begin with that of the process which started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    main()
