"""Datasets that are rolled out in processes of their own: nothing of them outlives the build, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dtbench.data.behaviours.roll_out import Shard, roll_out
from dtbench.data.episodes import Block
from dtbench.data.sources import local, workers
from dtbench.errors import DataError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
DATASET = "key-to-door"  # its environment is fast
STEPS = 100_000_000  # more than a test waits for
WORDS = ["data", "build", "sanity", "--task", DATASET, "--steps", str(STEPS), "--workers", "2"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def building(home):
    """Start the build of a dataset in a process group of its own; kill what is left of it afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dtbench", *WORDS],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def folder_of(home):
    return home / "datasets" / "local"


def wait_until(is_so, process):
    deadline = time.monotonic() + 100
    while not is_so():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_begun(home):
    return any(folder_of(home).glob(".*.building"))


def has_a_shard(home):
    return any(file.stat().st_size > 100_000 for file in folder_of(home).glob(".*.building/observations.npy"))


MOMENTS = {"as the workers start": has_begun, "as the first shard is written": has_a_shard}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("everybody", [True, False], ids=["to the whole group", "to the parent"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_build_leaves_nothing(home, building, number, everybody, moment):
    """Neither a traceback, nor a folder, nor a process: the workers hold the pipe that is read to its end here."""
    wait_until(lambda: MOMENTS[moment](home), building)
    (os.killpg if everybody else os.kill)(building.pid, number)
    _, message = building.communicate(timeout=60)
    assert building.returncode == 128 + number
    assert "Traceback" not in message
    assert message.strip().splitlines()[-1].startswith(f"dtbench: interrupted by {number.name}")
    assert list(folder_of(home).iterdir()) == []


def test_workers_end_with_a_killed_parent_and_the_next_build_tidies_up(home, building):
    wait_until(lambda: has_a_shard(home), building)
    building.kill()
    _, message = building.communicate(timeout=60)  # returns when no process holds the pipe any more
    assert "Traceback" not in message
    assert has_begun(home)
    local.build(DATASET, steps=300)
    assert [path.name for path in folder_of(home).iterdir()] == [f"{DATASET}-r1-300-s0"]


def kill_one_worker():
    """Kill a process that runs the workers' module and whose parent we are; `[s]` spares this very shell."""
    ours = "ps -ww -o pid=,args= --ppid $PPID"
    script = f"{ours} | awk '/dtbench.data.sources.worker[s]/ {{print $1; exit}}' | xargs kill -9"
    subprocess.run(["sh", "-c", script], check=True)


def shards(count):
    return local.plan_shards(DATASET, count * local.SHARD_STEPS, 0)


def test_a_killed_worker_gives_a_sentence():
    if subprocess.run(["sh", "-c", "command -v ps"], capture_output=True).returncode:
        pytest.skip("no ps")
    with workers.rolled_out(shards(4), 1) as blocks:
        next(blocks)
        kill_one_worker()
        with pytest.raises(DataError, match=r"worker process was killed by SIGKILL.*fewer --workers"):
            list(blocks)


def test_blocks_come_in_the_order_of_the_shards_and_equal_those_made_here():
    planned = local.plan_shards("hopper-medium-replay", 2_400, 0)
    with workers.rolled_out(planned, 3) as blocks:
        found = list(blocks)
    assert len(found) == len(planned)
    for shard, block in zip(planned, found, strict=True):
        wanted = Block.joined(roll_out(shard))
        for field in Block.__dataclass_fields__:
            ours, theirs = getattr(block, field), getattr(wanted, field)
            assert ours.dtype == theirs.dtype
            assert (ours == theirs).all()


def test_an_error_in_a_worker_is_told_with_its_traceback():
    broken = Shard("hopper", -5, 100, (0,))
    with workers.rolled_out([broken], 1) as blocks, pytest.raises(RuntimeError, match=r"(?s)Traceback.*step--"):
        next(blocks)


def test_a_script_without_a_main_guard_can_build(home):
    code = f"from dtbench.data.sources import local; print(local.build('{DATASET}', steps=21_000, workers=1).num_steps)"
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, encoding="utf-8", timeout=120)
    assert (done.stdout, done.returncode) == ("21000\n", 0), done.stderr
