"""How commands grow with the number of runs: plan, look at, repeat and rank sweeps that are finished.

    python benchmarks/perf/growth.py                     # 100, 1,000 and 10,000 runs
    python benchmarks/perf/growth.py --runs 100 1000

The results are those of the planned runs (all models, nine tasks, as many seeds as are needed), with the measurements
of one committed result in all of them; they are written to a temporary folder. Each command is a process of its own.
What is printed is processor time, imports included: on a busy machine it varies less than the time on the clock.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from dtbench.registry import MODELS
from dtbench.results.files import read_result, write_result
from dtbench.runs.plan import RunRequest, plan_runs
from dtbench.runs.record import begin

TEMPLATE = "leaderboards/results/d4rl-short@1/local/quick/dt/hopper-medium/seed-0.json"
TASKS = 9


def main() -> None:
    """Time the commands at each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1000, 10_000])
    rows = [(runs, *measure(runs)) for runs in parser.parse_args().runs]
    sys.stdout.write(
        "| runs | `run --dry-run` | `run`, all finished | `status` | `leaderboard` |\n|---:|---:|---:|---:|---:|\n"
    )
    for runs, *seconds in rows:
        sys.stdout.write(f"| {runs:,} | " + " | ".join(f"{value:.1f} s" for value in seconds) + " |\n")


def measure(runs: int) -> list[float]:
    """Return the processor time of each command on `runs` finished runs, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        output, seeds = Path(folder) / "results", f"0-{math.ceil(runs / TASKS / len(MODELS)) - 1}"
        write_results(output, runs, seeds)
        run = ["run", "--model", ",".join(MODELS), "--preset", "quick", "--source", "local", "--seeds", seeds]
        run += ["--output", str(output)]
        commands = [[*run, "--dry-run"], run, ["status", str(output), "--json"], ["leaderboard", str(output)]]
        commands[3] += ["--out", str(Path(folder) / "board.md")]
        return [processor_seconds(words) for words in commands]


def write_results(output: Path, runs: int, seeds: str) -> None:
    """Write the results of the runs that the command line plans; those beyond `runs` count as well."""
    last = int(seeds.partition("-")[2])
    request = RunRequest(models=list(MODELS), preset="quick", seeds=range(last + 1), source="local", output=output)
    measured = read_result(Path(TEMPLATE)).measured
    for plan in plan_runs(request):
        begun = begin(plan)
        task = replace(begun.task, fingerprint="0" * 16)
        result = begun.finished(
            task=task,
            initial_weights="random",
            scores=measured.scores,
            training=measured.training,
            evaluation=measured.evaluation,
        )
        write_result(plan.result_path, result)


def processor_seconds(words: list[str]) -> float:
    """Return the processor time that a command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DTBENCH_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "dtbench", *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"dtbench {' '.join(words)} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
