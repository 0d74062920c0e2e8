"""A signal that arrives inside a destructor, where Python swallows what is raised, still stops the process."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal
from dtbench.signals import Stopped, raise_if_stopped, raise_on_signals

class Handle:
    def __del__(self):
        {destructor}

raise_on_signals()
handle = Handle()
del handle
try:
    raise_if_stopped()
    print("not stopped")
except Stopped as stopped:
    print(stopped)
"""


def outcome_of(destructor):
    words = [sys.executable, "-c", SCRIPT.format(destructor=destructor)]
    return subprocess.run(words, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_amid_a_destructor_leaves_no_traceback_and_is_raised_later(name):
    outcome = outcome_of(f"os.kill(os.getpid(), signal.{name})")
    assert (outcome.stdout, outcome.stderr) == (f"{name}\n", "")


def test_an_error_amid_a_destructor_is_still_shown():
    outcome = outcome_of("raise ValueError('lost')")
    assert outcome.stdout == "not stopped\n"
    assert "ValueError: lost" in outcome.stderr
