"""Runs that cannot hurt each other or be lost: signals, kills, locks, broken files, crashes, full disks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from lightning.fabric.loggers import csv_logs

from dtbench import atomic
from dtbench.errors import ResultError
from dtbench.results.schema import DONE, FAILED, INTERRUPTED
from dtbench.runs import live
from dtbench.runs.folder import Busy, RunFolder
from dtbench.runs.launchers import local
from dtbench.runs.plan import RunRequest, plan_runs
from dtbench.runs.work import numbered
from tests.commands import (
    LONG,
    RESULTS,
    RUN,
    TASK,
    command,
    dtbench,
    environment,
    main,
    only_result,
    process,
    results,
    start,
    wait_until,
    workers_of,
)
from tests.results import samples

TWO = (*RUN, "--model", "dt", *LONG, "--seeds", "0,1", "--jobs", "2", "--output")


def folder_of(output: Path, model: str = "dt", seed: int = 0) -> RunFolder:
    return RunFolder(output / "d4rl-short@1" / "local" / "smoke" / model / TASK / f"seed-{seed}")


def changed_folder(output: Path, seed: int = 0) -> RunFolder:
    """The folder of a run whose configuration was changed with `--set`."""
    (path,) = (output / "d4rl-short@1" / "local" / "smoke").glob(f"*/{TASK}/seed-{seed}")
    return RunFolder(path)


# --- signals


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_scheduler_or_a_closed_terminal_stops_a_command_as_ctrl_c_does(tmp_path, number):
    with start(*TWO, tmp_path) as child:
        wait_until(lambda: len(list(tmp_path.rglob("latest.ckpt"))) == 2)
        child.send_signal(number)
        _, text = child.communicate(timeout=60)
    assert child.returncode == 128 + number, text
    assert "Traceback" not in text
    last = text.strip().splitlines()[-1]
    assert last == f"dtbench: interrupted by {number.name}; the same command continues where this one stopped."
    assert [result.status for result in results(tmp_path).values()] == [INTERRUPTED, INTERRUPTED]
    assert workers_of(tmp_path) == []


@pytest.mark.alone
@pytest.mark.slow
def test_workers_end_with_a_command_that_was_killed(tmp_path):
    with start(*TWO, tmp_path) as child:
        wait_until(lambda: len(list(tmp_path.rglob("latest.ckpt"))) == 2)
        child.kill()
        child.wait()
        wait_until(lambda: not workers_of(tmp_path), seconds=3)


@pytest.mark.alone
@pytest.mark.parametrize("words", [("leaderboard", samples.RECORDED), ("list", "suites"), (*RUN, "-m", "dt")])
@pytest.mark.parametrize("after", [0.15, 0.6])
def test_every_command_can_be_interrupted_from_its_first_moments(tmp_path, words, after):
    options = ("--output", tmp_path) if "run" in words else ()
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    bare = time.monotonic() - begun  # before Python itself has started, no program can say anything
    with start(*words, *options) as child:
        time.sleep(bare + after)
        child.send_signal(signal.SIGINT)
        _, text = child.communicate(timeout=60)
    assert child.returncode in (0, 130), text  # 0: it was over before
    assert "Traceback" not in text
    if child.returncode:
        assert text.strip().splitlines()[-1].startswith("dtbench: interrupted by SIGINT")


@pytest.mark.alone
def test_a_launcher_that_fails_stops_its_workers_first(tmp_path, monkeypatch):
    plans = plan_runs(RunRequest(models=["dt"], preset="smoke", tasks=[TASK], output=tmp_path, source="local"))

    def fail(self, running):
        if workers_of(tmp_path):
            raise RuntimeError("the display is broken")

    monkeypatch.setattr(live.Display, "show", fail)
    with pytest.raises(RuntimeError, match="the display is broken"):
        local.run_all(numbered([[plan] for plan in plans]), 1)
    assert workers_of(tmp_path) == []
    assert only_result(tmp_path).status == INTERRUPTED


# --- one run, one worker


def test_a_run_is_locked_while_it_is_worked_on(tmp_path):
    folder = RunFolder(tmp_path / "seed-0")
    assert not folder.is_locked()
    with folder.lock():
        code = f"from dtbench.runs.folder import *; print(RunFolder(Path({str(folder.path)!r})).is_locked())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "True"
        with pytest.raises(Busy), RunFolder(folder.path).lock():
            pass
    assert not folder.is_locked()
    (folder.path / "x").mkdir()
    folder.clear()
    assert [entry.name for entry in folder.path.iterdir()] == [folder.lock_file.name]


@pytest.mark.alone
@pytest.mark.slow
def test_two_commands_share_the_work_and_never_train_the_same_run(tmp_path):
    longer = (
        "--set",
        "training.steps=1500",
        "--set",
        "training.log_every=50",
    )  # the second command needs time to start
    words = (*RUN, "--model", "dt", *LONG, *longer, "--seeds", "0,1", "--jobs", "1", "--output", tmp_path)
    with start(*words) as first:
        wait_until(lambda: list(tmp_path.rglob("latest.ckpt")))
        with start(*words) as second:
            _, text = second.communicate(timeout=200)
        _, other = first.communicate(timeout=200)
    assert (first.returncode, second.returncode) == (0, 0), text + other
    assert "another command is working on it" in text
    assert [result.status for result in results(tmp_path).values()] == [DONE, DONE]
    for seed in (0, 1):  # one training each: a second one would have begun another part of the loss curve
        assert len(list(changed_folder(tmp_path, seed).path.glob("csv/part-*"))) == 1


# --- files that were cut, overwritten or filled with something else


def damage(file: Path, how: str) -> None:
    if how == "empty":
        file.write_bytes(b"")
    elif how == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "random":
        file.write_bytes(os.urandom(4096))
    elif how == "another kind":
        file.write_text("[]") if file.suffix == ".json" else torch.save({"a": 1}, file)


@pytest.mark.parametrize("how", ["empty", "cut", "random", "another kind"])
@pytest.mark.parametrize("name", ["run.json", "training.json", "final.ckpt", "plan.json"])
def test_a_damaged_file_is_set_aside_and_the_run_is_done_again(tmp_path, name, how, capsys):
    dtbench(*RUN, "--model", "bc", "--output", tmp_path)
    expected = only_result(tmp_path).scores
    folder = folder_of(tmp_path, "bc")
    (folder.path.with_suffix(".json")).unlink()
    file = folder.path / name
    if name == "plan.json":  # written by launchers only
        file.write_text("{}")
    damage(file, how)
    capsys.readouterr()
    dtbench(*RUN, "--model", "bc", "--output", tmp_path)
    assert only_result(tmp_path).status == DONE
    assert only_result(tmp_path).scores == expected
    if name != "plan.json":
        assert (folder.path / f"{name}.unreadable").exists()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, shared_home):
    """An interrupted run with a checkpoint to go on from."""
    output = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTBENCH_HOME", str(shared_home))
        with start(*RUN, "--model", "bc", *LONG, "--output", output) as child:
            wait_until(lambda: list(output.rglob("latest.ckpt")))
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=60)
    return output


@pytest.mark.slow
@pytest.mark.parametrize("how", ["empty", "cut", "random", "another kind"])
def test_a_damaged_checkpoint_starts_the_training_afresh(tmp_path, interrupted, how):
    output = tmp_path / "results"
    shutil.copytree(interrupted, output)
    damage(changed_folder(output).latest, how)
    dtbench(*RUN, "--model", "bc", *LONG, "--output", output)
    assert only_result(output).status == DONE
    assert changed_folder(output).latest.with_name("latest.ckpt.unreadable").exists()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.txt"
    atomic.write_text(file, "größer\n")
    assert file.read_bytes() == "größer\n".encode()

    def fail_half_way():
        with atomic.replacing(file) as temporary:
            assert temporary.parent == tmp_path  # a rename there is atomic
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert file.read_text(encoding="utf-8") == "größer\n"
    assert list(tmp_path.iterdir()) == [file]


def test_everything_beside_a_result_is_renamed_into_place(tmp_path, monkeypatch):
    """Whatever is written in a run's folder, but for the logs, is written under another name first."""
    replaced = set()
    original = Path.replace

    def replace(self, target):
        replaced.add(Path(target).name)
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    dtbench(*RUN, "--model", "bc", "--output", tmp_path)
    here = {entry.name for entry in folder_of(tmp_path, "bc").path.iterdir()} - {"csv", "tensorboard", "run.lock"}
    assert here <= replaced
    assert {"latest.ckpt", "final.ckpt", "run.json", "training.json", "progress.json"} <= replaced


def test_a_full_disk_is_named_in_one_sentence(tmp_path):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system does not let users make namespaces, which a small file system needs")
    dtbench(*RUN, "--model", "bc", "--output", tmp_path / "warm")  # the data are built
    small = tmp_path / "small"
    small.mkdir()
    line = " ".join(command(*RUN, "--model", "gpt2_dt", "--set", "model.width=256", *LONG, "--output", small))
    script = f"mount -t tmpfs -o size=1m none {small} && {line}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=environment())
    assert done.returncode in (1, 2), done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("run.json", 1),
        ("latest.ckpt", 1),
        ("final.ckpt", 1),
        ("training.json", 1),
        ("metrics.csv", 1),
        ("seed-0.json", 2),
    ],
)
def test_a_disk_that_fills_at_any_file_is_a_sentence_and_the_same_line_goes_on(
    tmp_path, monkeypatch, capsys, name, code
):
    words = (*RUN, "--model", "bc", "--set", "training.checkpoint_every=5", "--output", tmp_path)
    replacing, save = atomic.replacing, csv_logs._ExperimentWriter.save
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def replace(path):
        if path.name == name:
            raise full
        return replacing(path)

    def write(self):
        if name == "metrics.csv":
            raise full
        save(self)

    monkeypatch.setattr(atomic, "replacing", replace)
    monkeypatch.setattr(csv_logs._ExperimentWriter, "save", write)
    assert main(*words) == code
    printed = capsys.readouterr().err
    assert "No space left on device" in printed
    assert "Traceback" not in printed
    monkeypatch.undo()
    assert main(*words) == 0
    assert only_result(tmp_path).status == DONE


def test_a_clock_that_jumps_back_harms_nothing(tmp_path, monkeypatch, capsys):
    times = iter(f"2026-01-01T00:{minute:02}:00+00:00" for minute in range(59, 0, -1))
    for module in ("dtbench.results.provenance", "dtbench.results.schema", "dtbench.runs.folder"):
        monkeypatch.setattr(f"{module}.now", lambda: next(times))
    words = (*RUN, "--model", "bc", "--output", tmp_path)
    assert main(*words) == 0
    result = only_result(tmp_path)
    assert result.provenance.finished < result.provenance.started
    monkeypatch.undo()
    assert main(*words, "--seeds", "0-1", "--dry-run") == 0
    assert "1 runs to do" in capsys.readouterr().out
    assert main("status", tmp_path) == 0


# --- processes that die

CRASHES = """
    import os, signal, sys, time
    from dtbench.models.bc import BehaviourCloning

    class Exits(BehaviourCloning):
        def loss(self, batch):
            print("last words", flush=True)
            os._exit(7)

    class Killed(BehaviourCloning):
        def loss(self, batch):
            os.kill(os.getpid(), signal.SIGKILL)

    class SysExit(BehaviourCloning):
        def loss(self, batch):
            sys.exit(5)

    class Rich(BehaviourCloning):
        def loss(self, batch):
            raise ValueError("[/red] expected [batch, time, dim]")

    class Nan(BehaviourCloning):
        def loss(self, batch):
            loss, metrics = super().loss(batch)
            return loss * float("nan"), metrics
"""


@pytest.fixture
def crashes(tmp_path):
    (tmp_path / "crashes.py").write_text(textwrap.dedent(CRASHES), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_own_run_only(crashes):
    out = crashes / "out"
    steps = ("--set", "training.steps=100", "--set", "training.context_length=5", "--jobs", "1")
    models = "crashes:Exits,crashes:Killed,crashes:SysExit,bc"
    done = process(*RUN, "--model", models, *steps, "--output", out, cwd=crashes)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    found = {key.partition("+")[0]: result for key, result in results(out).items()}
    assert {key: result.status for key, result in found.items()} == {
        "crashes.Exits": FAILED,
        "crashes.Killed": FAILED,
        "crashes.SysExit": FAILED,
        "bc": DONE,
    }
    assert found["crashes.Exits"].error.exit_code == 7
    assert found["crashes.Exits"].error.log_tail[-1] == "last words"
    assert found["crashes.Killed"].error.signal == "SIGKILL"
    assert found["crashes.SysExit"].error.type == "SystemExit"
    assert "log.txt" in done.stderr
    board = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert "SIGKILL" in board
    assert "exit code 7" in board


def test_square_brackets_in_a_message_are_shown_and_break_nothing(crashes):
    done = process(*RUN, "--model", "crashes:Rich,bc", "--output", crashes / "out", cwd=crashes)
    assert done.returncode == 1, done.stderr
    assert "[/red] expected [batch, time, dim]" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(result.status for result in results(crashes / "out").values()) == [FAILED, DONE]


def test_a_loss_that_is_not_a_number_is_recorded(crashes):
    done = process(*RUN, "--model", "crashes:Nan", "--output", crashes / "out", cwd=crashes)
    assert done.returncode == 1, done.stderr
    result = only_result(crashes / "out")
    assert result.status == FAILED
    assert "NaN or infinite" in result.error.message


# --- what a finished run is opened with


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shared_home):
    output = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTBENCH_HOME", str(shared_home))
        dtbench(*RUN, "--model", "bc", "--output", output)
    return output


class Hostile:
    """What a pickle would run."""

    def __reduce__(self):
        return os.system, ("touch hostile-code-ran",)


@pytest.mark.parametrize("words", [("evaluate",), ("record", "--out", "x.gif"), ("analyze", "markov-heads")])
@pytest.mark.parametrize("how", ["empty", "cut", "random", "another kind", "hostile"])
def test_a_damaged_or_hostile_checkpoint_is_refused_in_one_sentence(trained, tmp_path, words, how, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = folder_of(trained, "bc")
    content = folder.final.read_bytes()
    try:
        torch.save({"state_dict": Hostile()}, folder.final) if how == "hostile" else damage(folder.final, how)
        code = main(*words, folder.path)
    finally:
        folder.final.write_bytes(content)
    text = capsys.readouterr().err
    assert code == 2, text
    assert len(text.strip().splitlines()) == 1
    assert "final.ckpt" in text
    assert "weights_only" not in text
    assert not (tmp_path / "hostile-code-ran").exists()


def test_weights_that_the_result_was_not_measured_with_are_refused(trained):
    from dtbench.errors import ConfigError
    from dtbench.runs.reopen import open_run

    folder = folder_of(trained, "bc")
    content = folder.final.read_bytes()
    other = torch.load(folder.final, weights_only=True)
    other["state_dict"] = {name: value + 1 for name, value in other["state_dict"].items()}
    try:
        torch.save(other, folder.final)
        with pytest.raises(ConfigError, match="SHA-256 differs"):
            open_run(folder.path)
    finally:
        folder.final.write_bytes(content)
    assert open_run(folder.path).record.model.name == "bc"


def test_a_result_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    done = process(*RUN, "--model", "bc", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "is a file; results need a folder" in done.stderr


def test_the_result_is_written_before_anything_is_printed(tmp_path, monkeypatch):
    from dtbench.runs import job

    def broken(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job.err, "print", broken)
    (plan,) = plan_runs(RunRequest(models=["bc"], preset="smoke", tasks=[TASK], output=tmp_path, source="local"))
    with pytest.raises((OSError, ResultError)):
        job.run_one(plan)
    assert json.loads(next(tmp_path.glob(RESULTS)).read_text())["status"] in (DONE, FAILED)
