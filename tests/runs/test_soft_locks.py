"""Runs are locked on file systems without real locks, too, and a killed process does not lock one for ever."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from dtbench.errors import ResultError
from dtbench.runs import folder as module
from dtbench.runs.folder import Busy, RunFolder
from tests.commands import wait_until


class NoLocks:
    """A lock on a file system that has none."""

    error: Exception = NotImplementedError("FileSystem does not appear to support flock")

    def __init__(self, *_, **__) -> None:
        pass

    def acquire(self):
        raise self.error


@pytest.fixture(params=[NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks available")], ids=type)
def run(request, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FileLock", type("Lock", (NoLocks,), {"error": request.param}))
    return RunFolder(tmp_path / "seed-0")


def test_two_processes_do_not_get_one_run(run):
    with run.lock():
        assert run.is_locked()
        assert run.soft_lock_file.exists()
        with pytest.raises(Busy), RunFolder(run.path).lock():
            pass
    assert not run.is_locked()
    assert not run.soft_lock_file.exists()


def abandon(run: RunFolder, host: str | None = None) -> None:
    """Leave the lock of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with run.lock():
        holder = json.loads(run.holder.read_text(encoding="utf-8"))
    run.soft_lock_file.touch()
    holder |= {"pid": ended.pid} | ({} if host is None else {"host": host})
    run.holder.write_text(json.dumps(holder), encoding="utf-8")


def test_a_lock_whose_process_is_gone_is_taken_over(run):
    abandon(run)
    assert not run.is_locked()
    with run.lock():
        assert json.loads(run.holder.read_text(encoding="utf-8"))["pid"] == os.getpid()


def test_a_lock_of_another_machine_is_believed(run):
    abandon(run, host="elsewhere")
    assert run.is_locked()


def test_a_lock_that_was_just_taken_is_not_the_one_before(run):
    """Its holder has not said yet who it is."""
    abandon(run)
    os.utime(run.soft_lock_file, ns=(run.holder.stat().st_mtime_ns + 1,) * 2)
    assert run.is_locked()


def test_other_troubles_are_no_missing_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FileLock", type("Lock", (NoLocks,), {"error": OSError(errno.ENOSPC, "No space left")}))
    with pytest.raises(ResultError, match="No space left"), RunFolder(tmp_path / "seed-0").lock():
        pass


def test_who_may_only_read_sees_the_processes_of_this_machine(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)

    def refuse(self):
        raise ResultError("the folder cannot be written to")

    with folder.lock():
        monkeypatch.setattr(RunFolder, "_acquired", refuse)
        assert folder.is_locked()
        folder.holder.write_text(json.dumps({"host": "another", "pid": str(os.getpid())}))
        assert not folder.is_locked()
        monkeypatch.undo()


def test_a_lock_of_another_machine_is_taken_over_when_its_holder_shows_no_sign_of_life(run):
    abandon(run, host="elsewhere")
    long_ago = time.time() - 2 * module._STALE_S
    os.utime(run.soft_lock_file, (long_ago, long_ago))
    assert not run.is_locked()
    with run.lock():
        assert run.read_holder()["host"] == socket.gethostname()


def test_who_holds_a_soft_lock_shows_signs_of_life(run, monkeypatch):
    monkeypatch.setattr(module, "_SIGN_S", 0.01)
    with run.lock():
        os.utime(run.soft_lock_file, (0, 0))
        wait_until(lambda: run.soft_lock_file.stat().st_mtime > 0, 10)
        wait_until(lambda: run.holder.stat().st_mtime_ns >= run.soft_lock_file.stat().st_mtime_ns, 10)
    assert not run.soft_lock_file.exists()
