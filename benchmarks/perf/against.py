"""How many times as fast as an earlier commit: steps of both, in turn, on one thread of one core.

    python benchmarks/perf/against.py 02e11bc [WHAT ...] [--precision auto] [--rounds 12]

WHAT is a model's name (a training step) or `evaluation`; all of them by default. Each version runs in a process of its
own, and only one of them works at a time. The ratio is that of the medians; beside it stands that of the least times.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from dtbench.hardware import FLOAT32, fast_precision

ROOT = Path(__file__).resolve().parents[2]
STEPPER = Path(__file__).with_name("stepper.py")
WHATS = ("dt", "gpt2_dt", "lamo", "gpt2_dtma", "dc", "cql", "evaluation")


class Side:
    """One version of dtbench that repeats one thing on request.

    Attributes:
        seconds: of each repetition so far.
    """

    def __init__(self, tree: Path, what: str, precision: str, core: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, STEPPER, what, precision],
            env=environment,
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, {core})
        self.seconds: list[float] = []
        self.repeat(3)
        self.seconds = []

    def repeat(self, times: int) -> None:
        """Let it work, and wait for it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        self.seconds += json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End its process."""
        self.process.communicate()


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("what", nargs="*", default=WHATS)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_intermixed_args()
    precision = fast_precision(gpu=False) if options.precision == "auto" else options.precision
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", options.commit], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder)  # of our own repository; `filter` is not in Python 3.11.0 to 3.11.3
        say(f"against {options.commit} in {FLOAT32}; now in {precision}; median (least) in ms")
        for what in options.what:
            compare(what, Path(folder), precision, options.rounds)


def compare(what: str, earlier: Path, precision: str, rounds: int) -> None:
    """Print one line of the comparison."""
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    sides = Side(earlier, what, FLOAT32, core), Side(ROOT, what, precision, core)
    for _ in range(rounds):
        for side in sides:
            side.repeat(1 if what == "evaluation" else 4)
    (before, least_before), (now, least_now) = ((statistics.median(s.seconds), min(s.seconds)) for s in sides)
    for side in sides:
        side.close()
    say(
        f"{what:10}  {1000 * before:7.1f} ({1000 * least_before:.1f})  {1000 * now:7.1f} ({1000 * least_now:.1f})  "
        f"{before / now:.2f} times as fast ({least_before / least_now:.2f})"
    )


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
