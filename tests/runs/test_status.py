"""What `dtbench status` says of a folder, what `dtbench clean` deletes, and runs as command lines."""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path

import pytest

from dtbench.runs.folder import Progress, RunFolder
from dtbench.runs.plan import RunRequest, plan_runs
from dtbench.runs.status import RunState, counts, run_states
from dtbench.runs.sweep import noted
from tests.commands import dtbench, main

TASK = "d4rl-short@1/local/smoke/bc/hopper-medium"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with two finished runs."""
    folder = tmp_path_factory.mktemp("status") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTBENCH_HOME", str(folder.parent / "home"))
        words = ("--task", "hopper-medium", "--model", "bc", "--preset", "smoke", "--source", "local")
        dtbench("run", *words, "--seeds", "0,1", "--output", folder)
    return folder


@pytest.fixture
def folder(done, tmp_path):
    """A copy of it that a test may change."""
    import shutil

    return Path(shutil.copytree(done, tmp_path / "results"))


def of(states: list[RunState], seed: int) -> RunState:
    return next(state for state in states if state.run == f"{TASK}/seed-{seed}")


def test_finished_runs_have_their_score(folder):
    states = run_states(folder)
    assert counts(states)["ok"] == len(states) == 2
    result = json.loads((folder / f"{TASK}/seed-1.json").read_text(encoding="utf-8"))
    scores = result["scores"]["normalized"]
    assert of(states, 1).score == pytest.approx(sum(scores) / len(scores))
    assert dtbench("status", folder).strip() == f"{folder}: 2 done"
    assert not (folder / "sweeps").exists() or not list((folder / "sweeps").iterdir())


def test_what_is_running_failed_interrupted_and_waiting_is_told_apart(folder):
    failed = folder / f"{TASK}/seed-1.json"
    content = json.loads(failed.read_text(encoding="utf-8"))
    content |= {"status": "failed", "error": {"type": "DtbenchError", "message": "it diverged\nat step 3"}}
    failed.write_text(json.dumps(content), encoding="utf-8")
    running, interrupted = RunFolder(folder / TASK / "seed-2"), RunFolder(folder / TASK / "seed-3")
    interrupted.create()
    interrupted.lock_file.touch()
    interrupted.latest.touch()
    sweep = folder / "sweeps" / "mine.json"
    sweep.parent.mkdir(exist_ok=True)
    sweep.write_text(json.dumps({"results": [f"{TASK}/seed-{seed}.json" for seed in range(5)]}), encoding="utf-8")
    with running.lock():
        record = json.loads((folder / TASK / "seed-0" / "run.json").read_text(encoding="utf-8"))
        running.record.write_text(json.dumps(record), encoding="utf-8")
        running.write_progress(Progress(4, 0.5, 10.0))
        states = run_states(folder)
        said = dtbench("status", folder)
    assert [of(states, seed).state for seed in range(5)] == ["ok", "failed", "running", "interrupted", "waiting"]
    assert (of(states, 2).step, of(states, 2).steps, of(states, 2).host) == (4, 10, socket.gethostname())
    assert of(states, 1).reason == "DtbenchError: it diverged at step 3"
    assert said.splitlines()[0] == f"{folder}: 1 done, 1 running, 1 failed, 1 interrupted, 1 waiting"
    assert "step 4 of 10" in said
    assert of(run_states(folder), 2).state == "waiting"  # begun, and nothing of it is left
    rows = json.loads(dtbench("status", folder, "--json"))
    assert {row["state"] for row in rows} == {"ok", "failed", "interrupted", "waiting"}


def test_a_damaged_result_and_a_damaged_list_are_no_tracebacks(folder):
    (folder / f"{TASK}/seed-1.json").write_text("{", encoding="utf-8")
    (folder / "sweeps").mkdir(exist_ok=True)
    for name, text in {"a": "[]", "b": '{"results": ["/etc/passwd", "../x.json", 3]}', "c": "\0"}.items():
        (folder / "sweeps" / f"{name}.json").write_text(text, encoding="utf-8")
    states = run_states(folder)
    assert [state.state for state in states] == ["ok", "failed"]
    assert "cannot be read" in of(states, 1).reason


def test_there_must_be_a_folder(tmp_path, capsys):
    assert main("status", tmp_path / "none") == 2
    assert main("clean", tmp_path / "none") == 2
    assert capsys.readouterr().err.count("There is no folder") == 2


def planned(folder: Path, *seeds: int):
    return plan_runs(RunRequest(models=["bc"], tasks=["hopper-medium"], preset="smoke", seeds=seeds, output=folder,
                                source="local"))  # fmt: skip


def test_an_interrupted_command_leaves_what_it_had_planned(folder):
    with pytest.raises(KeyboardInterrupt), noted(folder, planned(folder, 0, 1, 7)):
        raise KeyboardInterrupt
    assert of(run_states(folder), 7).state == "waiting"
    with noted(folder, planned(folder, 0, 1, 7)):
        pass
    assert counts(run_states(folder))["waiting"] == 0


def test_a_thousand_runs_are_counted_and_not_all_listed(folder):
    text = (folder / f"{TASK}/seed-0.json").read_text(encoding="utf-8")
    for seed in range(10, 1010):
        (folder / f"{TASK}/seed-{seed}.json").write_text(text, encoding="utf-8")
    for seed in range(10, 50):
        (folder / f"{TASK}/seed-{seed}.json").write_text("{}", encoding="utf-8")
    assert counts(run_states(folder))["ok"] == 962
    said = dtbench("status", folder).splitlines()
    assert said[0] == f"{folder}: 962 done, 40 failed"
    assert said[-1].strip() == "and 20 more (--json lists all)"


def test_cleaning_leaves_results_and_asks_first(folder, monkeypatch):
    before = (folder / f"{TASK}/seed-0.json").read_bytes()
    failed = folder / f"{TASK}/seed-1.json"
    failed.write_text(json.dumps({"status": "failed"}), encoding="utf-8")
    monkeypatch.setattr("click.confirm", lambda *_, **__: (_ for _ in ()).throw(AssertionError))
    assert main("clean", folder, "--yes", "--keep-weights") == 0
    run = RunFolder(folder / TASK / "seed-0")
    assert {path.name for path in run.path.iterdir()} == {
        "final.ckpt", "process.json", "run.json", "run.lock", "training.json",
    }  # fmt: skip
    assert json.loads(dtbench("evaluate", run.path, "--json"))
    assert (RunFolder(folder / TASK / "seed-1").path / "tensorboard").is_dir()  # it failed, and may be looked into
    assert "Deleted" in dtbench("clean", folder, "--yes")
    assert {path.name for path in run.path.iterdir()} == {"process.json", "run.lock"}
    assert (folder / f"{TASK}/seed-0.json").read_bytes() == before
    assert "nothing to delete" in dtbench("clean", folder)


def test_a_run_that_is_being_done_again_is_left_alone(folder):
    run = RunFolder(folder / TASK / "seed-0")
    with run.lock():
        dtbench("clean", folder, "--yes")
        assert run.final.is_file()


def test_saying_no_deletes_nothing(folder):
    from typer.testing import CliRunner

    from dtbench.cli.app import app

    done = CliRunner().invoke(app, ["clean", str(folder)], input="n\n")
    assert done.exit_code == 1
    assert RunFolder(folder / TASK / "seed-0").final.is_file()


def commands(output: str) -> list[str]:
    """Return the command lines among what was printed; the runner's output has both streams in it."""
    return [line for line in output.splitlines() if line.startswith("dtbench run")]


def test_command_lines_do_the_runs_that_are_left(folder, tmp_path):
    options = ("--task", "hopper-medium", "--model", "bc", "--preset", "smoke", "--source", "local")
    settings = ("--set", "training.steps=3", "--set", "model.width=8")
    words = ("run", *options, *settings, "--seeds", "0-2", "--output", tmp_path / "with space", "--dry-run", "--shell")
    lines = commands(dtbench(*words))
    assert len(lines) == 3
    dtbench(*shlex.split(lines[1])[1:])
    (result,) = (tmp_path / "with space").rglob("seed-*.json")
    assert result.name == "seed-1.json"
    changes = json.loads(result.read_text(encoding="utf-8"))["model"]["changes"]
    assert sorted(changes) == ["training.steps=3", "width=8"]
    left = commands(dtbench(*words, "--per-line", "5"))
    assert len(left) == 1
    assert left[0].count("; dtbench run") == 1  # seeds 0 and 2


def test_command_lines_are_for_a_dry_run(capsys):
    assert main("run", "--model", "bc", "--shell") == 2
    assert "--dry-run" in capsys.readouterr().err
