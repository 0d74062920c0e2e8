"""One run in several processes: on two nodes, and with a rank that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dtbench.config import HardwareConfig
from dtbench.hardware import is_first_rank
from dtbench.results.files import read_result
from dtbench.results.schema import FAILED
from tests.commands import (
    RESULTS,
    RUN,
    dtbench,
    environment,
    free_port,
    main,
    only_result,
    parent_of,
    process,
    start,
    wait_until,
    workers_of,
)

pytestmark = pytest.mark.alone

DDP = ("--accelerator", "cpu", "--strategy", "ddp")


@pytest.mark.slow
def test_two_nodes_under_torchrun_train_one_run(tmp_path):
    """The two nodes are two torchruns, which meet at a port of this machine."""
    words = [*RUN, "--model", "dt", *DDP, "--set", "evaluation.every=5", "--set", "evaluation.episodes=3"]
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    meet += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "test", "--local-addr", "127.0.0.1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *meet, "-m", "dtbench"]
    command = [*torchrun, *words, "--num-nodes", "2", "--output", str(tmp_path / "nodes")]
    nodes = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    printed = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(printed)
    assert sum("Leaderboard: " in text for text in printed) == 1  # one process reports
    together = only_result(tmp_path / "nodes")
    assert together.training.world_size == 2
    done = process(*words, "--devices", "2", "--output", tmp_path / "devices")
    assert done.returncode == 0, done.stderr
    side_by_side = only_result(tmp_path / "devices")
    assert together.training.final_loss == side_by_side.training.final_loss
    assert together.scores == side_by_side.scores


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run_as_failed_within_a_minute(tmp_path, rank):
    words = (*RUN, "--model", "bc", *DDP, "--devices", "2", "--set", "training.steps=1000000")
    with start(*words, "--set", "training.log_every=1", "--output", tmp_path) as command:
        wait_until(lambda: list(tmp_path.rglob("progress.json")))
        wait_until(lambda: len(workers_of(tmp_path)) == 2)
        # The first rank starts the other one.
        first, second = sorted(workers_of(tmp_path), key=lambda pid: parent_of(pid) in workers_of(tmp_path))
        os.kill((first, second)[rank], signal.SIGKILL)
        killed = time.monotonic()
        _, text = command.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert command.returncode == 1, text
    result = only_result(tmp_path)
    assert result.status == FAILED
    assert result.error is not None
    assert "Traceback" not in text
    wait_until(lambda: not workers_of(tmp_path), 10)


def test_several_runs_on_several_nodes_are_refused(tmp_path, capsys):
    words = (*RUN, "--model", "dt", "--seeds", "0-1", *DDP, "--num-nodes", "2", "--output", tmp_path)
    assert main(*words) == 2
    assert "train one run at a time, and 2 are planned" in capsys.readouterr().err
    assert "2 runs to do" in dtbench(*words, "--dry-run")


#: What a batch script of Slurm finds in its environment, where `sbatch --ntasks 2` was asked for.
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "wrap",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.mark.slow
def test_a_batch_script_of_slurm_trains_on_two_devices_by_itself(tmp_path, monkeypatch):
    for name, value in BATCH_SCRIPT.items():
        monkeypatch.setenv(name, value)
    done = process(*RUN, "--model", "bc", *DDP, "--devices", "2", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert only_result(tmp_path).training.world_size == 2


@pytest.mark.parametrize("tasks", [1, 2])
def test_tasks_of_slurm_with_a_device_each_train_for_themselves(tmp_path, monkeypatch, tasks):
    for name, value in {**BATCH_SCRIPT, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": str(tasks)}.items():
        monkeypatch.setenv(name, value)
    assert main(*RUN, "--model", "bc", "--seeds", "0-1", "--output", tmp_path) == 0
    assert [read_result(path).training.world_size for path in tmp_path.glob(RESULTS)] == [1, 1]


def test_several_runs_of_one_srun_on_two_devices_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert main(*RUN, "--model", "bc", "--seeds", "0-1", *DDP, "--devices", "2", "--output", tmp_path) == 2
    assert "train one run at a time, and 2 are planned" in capsys.readouterr().err


def test_who_is_first(monkeypatch):
    for name in ("RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    alone, pair = HardwareConfig(), HardwareConfig(devices=2)
    assert is_first_rank(pair)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_first_rank(pair)
    monkeypatch.setenv("SLURM_PROCID", "0")  # of a batch script, whose process Lightning gave a second one
    assert not is_first_rank(pair)
    monkeypatch.setenv("RANK", "0")
    assert is_first_rank(pair)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert not is_first_rank(pair)
    assert is_first_rank(alone)  # a job of its own among several of one srun
