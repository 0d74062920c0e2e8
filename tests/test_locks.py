"""Locks are files in one folder that explains itself."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from dtbench import locks
from dtbench.errors import ConfigError
from dtbench.locks import lock, lock_file, lock_if_free


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_nothing_is_left_beside_what_is_locked(tmp_path, home):
    with lock(tmp_path / "data"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert "may be deleted when no dtbench is running" in (home / "locks" / "README.txt").read_text(encoding="utf-8")


def test_paths_of_one_name_have_locks_of_their_own(tmp_path):
    with lock(tmp_path / "a" / "data"), lock(tmp_path / "b" / "data"), lock_if_free(tmp_path / "a" / "data") as is_free:
        assert not is_free
    with lock_if_free(tmp_path / "a" / ".." / "a" / "data") as is_free:
        assert is_free


@pytest.mark.parametrize("name", ["x" * 255, "Daten – größer", "a b:c?", "lone\udcff"])
def test_any_name_can_be_locked(tmp_path, name):
    with lock(tmp_path / name):
        assert lock_file(tmp_path / name).name.isascii()


def test_a_process_that_waits_reports_it_and_continues_afterwards(tmp_path, monkeypatch):
    done, said, reported = [], [], threading.Event()

    def report(message, **_):
        said.append(message)
        reported.set()

    monkeypatch.setattr(locks.err, "print", report)

    def second():
        with lock(tmp_path / "data"):
            done.append("second")

    waiting = threading.Thread(target=second)
    with lock(tmp_path / "data"):
        waiting.start()
        assert reported.wait(60)
        assert not done
    waiting.join(60)
    assert said == [f"waiting for another process that works on {tmp_path / 'data'}"]
    assert done == ["second"]


def test_a_killed_process_holds_no_lock(tmp_path):
    code = "import sys, time; from pathlib import Path; from dtbench.locks import lock\n"
    code += "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    words = [sys.executable, "-c", code, str(tmp_path / "data")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout.readline() == "held\n"
        with lock_if_free(tmp_path / "data") as is_free:
            assert not is_free
        process.kill()
    with lock_if_free(tmp_path / "data") as is_free:
        assert is_free


def test_a_home_that_cannot_be_written_is_named(home):
    home.write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"locks cannot be written .*set DTBENCH_HOME"), lock(home / "data"):
        pass
