"""What workers on one dataset hold: proportional set size of 1 and 4 of them, on 1,000,000 steps.

    python benchmarks/perf/memory.py                  # Linux; a minute, and 0.2 GB in the temporary folder

A file in D4RL's format with random numbers is imported, `dtbench run` trains `dt` on it as published, and when all
workers are training their memory is read. The proportional set size divides a page among the processes that map it;
what is a worker's own is in no other process.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

STEPS, LENGTH = 1_000_000, 1000


def main() -> None:
    """Measure each number of workers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DTBENCH_HOME": folder, "DTBENCH_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        write_file(Path(folder) / "data.hdf5")
        words = ["data", "import", str(Path(folder) / "data.hdf5"), "--as", "hopper-medium-v2"]
        subprocess.run([sys.executable, "-m", "dtbench", *words], env=environment, check=True, capture_output=True)
        sys.stdout.write("| workers | of all | share of each | a worker's own | mapped from the dataset |\n")
        sys.stdout.write("|---:|---:|---:|---:|---:|\n")
        for count in asked.workers:
            found = measure(count, Path(folder) / f"results-{count}", environment)
            total, own, mapped = (sum(each[key] for each in found) for key in ("Pss", "own", "data"))
            row = (total, total / count, own / count, mapped / count)
            sys.stdout.write(f"| {count} | " + " | ".join(f"{value / 1e6:,.0f} MB" for value in row) + " |\n")


def write_file(path: Path) -> None:
    """Write random trajectories with Hopper's dimensions in D4RL's format."""
    rng = np.random.default_rng(0)
    ended = np.arange(STEPS) % LENGTH == LENGTH - 1
    with h5py.File(path, "w") as file:
        file["observations"] = rng.standard_normal((STEPS, 11), dtype=np.float32)
        file["next_observations"] = np.roll(file["observations"][:], -1, axis=0)
        file["actions"] = rng.uniform(-1, 1, (STEPS, 3)).astype(np.float32)
        file["rewards"] = rng.random(STEPS, dtype=np.float32)
        file["terminals"], file["timeouts"] = np.zeros(STEPS, bool), ended


def measure(count: int, output: Path, environment: dict[str, str]) -> list[dict[str, int]]:
    """Return bytes of each of `count` workers that train side by side: `Pss`, `own`, and `data` of the dataset."""
    words = ["run", "--task", "hopper-medium", "--model", "dt", "--preset", "paper", "--source", "d4rl"]
    words += ["--seeds", f"0-{count - 1}", "--jobs", str(count), "--output", str(output)]
    words += ["--set", "training.log_every=1", "--accelerator", "cpu"]
    command = [sys.executable, "-m", "dtbench", *words]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        try:
            while len(list(output.rglob("progress.json"))) < count:
                if running.poll() is not None:
                    sys.exit(f"{' '.join(command)} ended with exit code {running.returncode}")
                time.sleep(0.5)
            time.sleep(20)  # steps in which each worker sees windows from all over the data
            return [read(pid) for pid in workers(output)]
        finally:
            running.send_signal(signal.SIGTERM)


def workers(output: Path) -> list[int]:
    """Return the process ids of the workers that do runs under a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "dtbench.runs.launchers.worker" in words and str(output) in words:
            found.append(int(entry.name))
    return found


def read(pid: int) -> dict[str, int]:
    """Read a process's memory, in bytes."""
    sums = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    mapped, is_data = 0, False
    for line in Path("/proc", str(pid), "smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            is_data = line.endswith(".npy")
            continue
        key = words[0].rstrip(":")
        if key in sums:
            sums[key] += 1024 * int(words[1])
        if key == "Rss" and is_data:
            mapped += 1024 * int(words[1])
    return {"Pss": sums["Pss"], "own": sums["Private_Clean"] + sums["Private_Dirty"], "data": mapped}


if __name__ == "__main__":
    main()
