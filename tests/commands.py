"""The command line as tests call it: in this process, or in one of its own."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dtbench import __main__ as program
from dtbench.cli.app import app
from dtbench.results.files import read_result
from dtbench.results.schema import Result

TASK = "hopper-medium"
#: On the CPU everywhere: a stack, a loop and an evaluation repeat a run's numbers on its own device only.
RUN = ("run", "--suite", "d4rl-short", "--preset", "smoke", "--task", TASK, "--source", "local", "--accelerator", "cpu")
#: Long enough to be interrupted in the middle, and to have a process of its own.
LONG = ("--set", "training.steps=400", "--set", "training.checkpoint_every=20", "--set", "training.log_every=1")
RESULTS = "*@*/*/*/*/*/seed-*.json"


def dtbench(*words: object, expect: int = 0) -> str:
    """Run the command line in this process and return what it printed."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == expect, done.output
    return done.output


def main(*words: object) -> int:
    """Run the whole program in this process, with its handling of errors, and return its exit code."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["dtbench", *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                program.main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def command(*words: object) -> list[str]:
    """Return the command line as a user's shell would start it."""
    return [sys.executable, "-m", "dtbench", *map(str, words)]


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with one thread per process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def process(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own and wait for it."""
    return subprocess.run(
        command(*words), env=environment(), capture_output=True, text=True, timeout=300, encoding="utf-8", **options
    )


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    """Start a command that hears Ctrl-C, even where the tests themselves run in the background of a shell."""
    hear = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command(*words),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        preexec_fn=hear,
        **options,
    )


def wait_until(holds: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def results(folder: Path) -> dict[str, Result]:
    """Read all results under a folder, by `<model>/<task>/seed-<n>`."""
    found = sorted(folder.glob(RESULTS))
    return {f"{path.parts[-3]}/{path.parts[-2]}/{path.stem}": read_result(path) for path in found}


def only_result(folder: Path) -> Result:
    """Read the one result under a folder."""
    (path,) = folder.glob(RESULTS)
    return read_result(path)


def free_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def parent_of(pid: int) -> int:
    """Return the process id of a process's parent; 0 if it has ended."""
    try:
        return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def workers_of(folder: Path) -> list[int]:
    """Return the process ids of the workers that do runs under a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if "dtbench.runs.launchers.worker" in words and any(str(folder) in word for word in words) and state != "Z":
            found.append(int(entry.name))
    return found
