"""Signals at random moments over a small sweep: no orphan, no lost result, and the same leaderboard in the end.

`DTBENCH_SIGNALS=60 pytest tests/runs/test_random_signals.py` is the long form; CI sends a few.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from dtbench.results.leaderboard import render
from dtbench.results.schema import DONE
from tests.commands import RUN, process, results, start, wait_until, workers_of

pytestmark = pytest.mark.alone

COUNT = int(os.environ.get("DTBENCH_SIGNALS", "5"))
SWEEP = (*RUN, "--model", "dt,bc", "--seeds", "0,1", "--jobs", "2")
SWEEP += ("--set", "training.steps=300", "--set", "training.checkpoint_every=20", "--output")
KINDS = ("SIGTERM", "SIGHUP", "SIGINT", "SIGKILL", "SIGKILL to all")
#: A sweep takes about this long here, from the start of Python to the last result.
LONGEST_S = 20.0


def without_times(board: str) -> str:
    """Drop what differs from run to run: speed, and how the results came about."""
    return re.sub(r"### (Models|Provenance)\n.*?(?=\n### |\n## |\Z)", "", board, flags=re.DOTALL)


def disturb(output: Path, kind: str, after: float) -> int | None:
    """Start the sweep, send one signal at a random moment, and return the exit code (None: it was over before)."""
    with start(*SWEEP, output) as child:
        try:
            child.wait(after)
            return None
        except Exception:  # noqa: BLE001 - it is still running, as intended
            workers = workers_of(output)
        if kind == "SIGKILL to all":
            for pid in (child.pid, *workers):
                os.kill(pid, signal.SIGKILL)
        else:
            child.send_signal(getattr(signal, kind))
        _, text = child.communicate(timeout=60)
    assert "Traceback" not in text, text
    wait_until(lambda: not workers_of(output), seconds=3)
    return child.returncode


@pytest.mark.slow
def test_signals_at_random_moments_lose_nothing(tmp_path):
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    done = process(*SWEEP, quiet)
    assert done.returncode == 0, done.stderr
    generator, finished, sent = random.Random(0), {}, 0
    deadline = time.monotonic() + 30 * COUNT + 120
    round_number = 0
    while sent < COUNT:
        assert time.monotonic() < deadline
        output = disturbed / str(round_number)
        kind = KINDS[sent % len(KINDS)]
        code = disturb(output, kind, generator.uniform(0.1, LONGEST_S))
        now = {name: result for name, result in results(output).items() if result.status == DONE}
        assert finished.items() <= now.items(), "a finished result was lost or changed"
        finished = now
        if code is None:
            round_number, finished = round_number + 1, {}
            continue
        sent += 1
        expected = -signal.SIGKILL if "KILL" in kind else 128 + getattr(signal, kind)
        assert code in (expected, 0), (kind, code)  # 0: the signal came as it ended
    for output in sorted(disturbed.iterdir()):
        done = process(*SWEEP, output)
        assert done.returncode == 0, done.stderr
        assert workers_of(output) == []
        one, other = results(quiet), results(output)
        assert one.keys() == other.keys()
        for name, result in one.items():
            assert result.scores == other[name].scores
            assert result.training.final_loss == other[name].training.final_loss
        assert without_times(render(quiet)) == without_times(render(output))
        assert [file for file in output.rglob(".*") if file.is_file()] == []  # no half-written file is left
