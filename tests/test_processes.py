"""A worker process ends with the process that started it, however that one ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(os.name != "posix", reason="signals and parent ids are POSIX's"),
]

#: Started as `python -c PARENT <code of the child> <descriptor>`: starts the child and waits to be killed.
PARENT = """
import os, subprocess, sys, time
child, pipe = sys.argv[1], int(sys.argv[2])
subprocess.Popen([sys.executable, "-c", child, str(pipe), str(os.getpid())], pass_fds=[pipe])
time.sleep(600)
"""
CHILD = """
import os, signal, sys, time
pipe = int(sys.argv[1])
{before}
from dtbench.processes import end_with_parent
end_with_parent({parent})
try:
    os.write(pipe, b"ready ")
    time.sleep(600)
    time.sleep(600)
except KeyboardInterrupt:
    os.write(pipe, b"cleaned up")
"""


def read_until(pipe: int, wanted: bytes | None) -> bytes:
    """Read until `wanted` arrived, or (None) until every process that holds the other end is gone."""
    found = b""
    while wanted is None or wanted not in found:
        readable, _, _ = select.select([pipe], [], [], 60)
        assert readable, f"after {found!r} neither a word nor the end of the child"
        part = os.read(pipe, 100)
        if not part:
            break
        found += part
    return found


@pytest.mark.parametrize("parent", ["None", "int(sys.argv[2])"])
@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("", b""),
        ("del os.pidfd_open" if hasattr(os, "pidfd_open") else "", b""),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", b""),
        ("signal.signal(signal.SIGTERM, signal.default_int_handler)", b"cleaned up"),
        # As while the interpreter is taken down: no other thread runs until a call into C returns.
        ("import ctypes; signal.signal(signal.SIGTERM, lambda *_: ctypes.PyDLL(None).sleep(100))", b""),
    ],
    ids=["as it is", "by polling", "SIGTERM ignored", "SIGTERM handled", "no thread can run"],
)
def test_the_child_of_a_killed_parent_ends(before, expected, parent):
    ours, theirs = os.pipe()
    child = CHILD.format(before=before, parent=parent)
    process = subprocess.Popen([sys.executable, "-c", PARENT, child, str(theirs)], pass_fds=[theirs])
    os.close(theirs)
    try:
        assert read_until(ours, b"ready ") == b"ready "
        process.kill()
        process.wait()
        assert read_until(ours, None) == expected
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_parent_that_ended_before_is_noticed():
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    code = f"from dtbench.processes import end_with_parent; end_with_parent({dead.pid}); import time; time.sleep(600)"
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == -signal.SIGTERM


def test_the_child_of_a_living_parent_is_left_alone():
    code = (
        "from dtbench.processes import end_with_parent; end_with_parent(); import time; time.sleep(1); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout.strip()) == (0, "alive")
