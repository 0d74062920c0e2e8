"""Records: written whole or not at all, read with checks, never lost."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dtbench.errors import ResultError
from dtbench.results import files, leaderboard, provenance
from dtbench.results.files import read_or_set_aside, read_result, scan, write_result
from dtbench.results.schema import ErrorRecord, Result
from tests import commands
from tests.results import samples


def test_round_trip_and_path(tmp_path):
    path = samples.save(tmp_path, samples.result(seed=3))
    assert path.relative_to(tmp_path).as_posix() == "d4rl-short@1/local/quick/dt/hopper-medium/seed-3.json"
    assert read_result(path) == samples.result(seed=3)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_is_an_error_and_leaves_the_old_result(tmp_path, monkeypatch, step):
    """A runner that only warns "could not save" loses hours of work and exits with 0."""
    path = samples.save(tmp_path, samples.result())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(ResultError, match="No space left"):
        write_result(path, samples.result(score=0.9))
    assert read_result(path) == samples.result()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ResultError, match=r"scores\.returns\[0\] must be a finite number, not 'nan'"):
        samples.save(tmp_path, samples.result(score=float("nan")))
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("section", "field"),
    [("task", "fingerprint"), ("model", "initial_weights"), ("scores", "normalized"), ("evaluation", "env_seeds")],
)
def test_missing_fields_are_named(tmp_path, section, field):
    bad = samples.result().to_dict()
    del bad[section][field]
    path = samples.save_raw(tmp_path, bad, samples.result())
    with pytest.raises(ResultError, match=rf"seed-0\.json: {section}\.{field} is missing"):
        read_result(path)


def test_unreadable_results_are_named_and_set_aside(tmp_path, capsys):
    path = samples.save(tmp_path, samples.result())
    samples.save(tmp_path, samples.result(seed=1))
    path.write_text('{"half": ')
    results, unreadable = scan(tmp_path)
    assert [result.seed for result in results] == [1]
    assert len(unreadable) == 1
    assert "seed-0.json" in unreadable[0]
    assert read_or_set_aside(path) is None
    assert not path.exists()
    assert path.with_suffix(".json.unreadable").exists()
    assert "set aside" in capsys.readouterr().err


SCORES = {"returns": [1, 2], "lengths": [1, 1], "normalized": [0.1, 0.2]}
MALFORMED = {
    "a number for a list": (("scores", "returns"), 5, "scores.returns must be a list, not 5"),
    "episodes missing": (("scores", "lengths"), [10], r"lengths must have one entry per episode \(2\), not 1"),
    "a target without episodes": (("scores", "per_target"), {"1.0": {}}, r"per_target\[1.0\].returns is missing"),
    "a target in words": (("scores", "per_target"), {"far": SCORES}, r"per_target\[far\] must be named by"),
    "targets in a list": (("scores", "per_target"), [1], "scores.per_target must be an object"),
    "a truth value as a score": (("scores", "normalized"), [True, 0.1], r"normalized\[0\] must be a finite number"),
    "a score that overflows": (("scores", "returns"), [10**400, 0], r"returns\[0\] must be a finite number, not 1000"),
    "a length of zero": (("scores", "lengths"), [0, 1], r"scores.lengths\[0\] must be at least 1, not 0"),
    "no data": (("task", "fingerprint"), None, "task.fingerprint is missing although the status is ok"),
    "no reference": (("task", "reference"), {}, "task.reference.table is missing"),
    "a scale without width": (("task", "reference", "random"), 3234.3, "task.reference: random and expert must differ"),
    "a seed in words": (("seed",), "one", "seed must be a whole number, not 'one'"),
    "a huge seed": (("seed",), 10**100, "seed must fit into 64 bits, not 1000"),
    "a negative seed": (("seed",), -1, "seed must be at least 0, not -1"),
    "a seed of the environments missing": (("evaluation", "env_seeds"), [1], r"one entry per episode \(2\), not 1"),
    "a wrong version": (("suite", "version"), 1.0, "suite.version must be a whole number, not 1.0"),
    "another status": (("status",), "fine", "status must be one of ok, failed, interrupted, not 'fine'"),
    "an error in words": (("error",), "bad", "error must be an object, not 'bad'"),
    "a wrong kind in the training": (("training", "steps"), "10", "training.steps must be a whole number, not '10'"),
    "no Unicode": (("model", "name"), "\ud800", "model.name holds a character that is not valid Unicode"),
    "no Unicode in the configuration": (("model", "config"), {"model": {"text": ["\ud800"]}}, "not valid Unicode"),
    "a configuration in a list": (("model", "config"), [], "model.config must be an object"),
    "a schema in words": (("schema_version",), "2", "schema_version is '2'; this version of dtbench reads 1 and 2"),
    "another schema": (("schema_version",), 99, "schema_version is 99; this version of dtbench reads 1 and 2"),
}


@pytest.mark.parametrize(("keys", "value", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_value_of_another_kind_is_named_and_left_out(tmp_path, keys, value, message):
    """None of them may reach the tables, where it would be a traceback."""
    path = samples.save(tmp_path, samples.result())
    samples.save(tmp_path, samples.result(seed=1))
    content = samples.result().to_dict()
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=message):
        read_result(path)
    results, unreadable = scan(tmp_path)
    assert [result.seed for result in results] == [1]
    assert len(unreadable) == 1


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_is_read_strictly(tmp_path, constant):
    path = samples.save(tmp_path, samples.result())
    path.write_text(path.read_text().replace('"final_loss": 0.1', f'"final_loss": {constant}'))
    with pytest.raises(ResultError, match=f"holds {constant}, which is not JSON"):
        read_result(path)


def test_a_copied_file_is_not_one_more_seed(tmp_path):
    path = samples.save(tmp_path, samples.result(seed=0))
    path.with_name("seed-1.json").write_bytes(path.read_bytes())
    results, unreadable = scan(tmp_path)
    assert len(results) == 1
    assert unreadable == [
        "d4rl-short@1/local/quick/dt/hopper-medium/seed-1.json holds the result of "
        "d4rl-short@1/local/quick/dt/hopper-medium/seed-0.json; move it there or delete it."
    ]


def test_an_absurd_score_is_named_and_does_not_stop_the_statistics(tmp_path):
    samples.save(tmp_path, samples.result(seed=0))
    samples.save(tmp_path, samples.result(seed=1, score=1e6))
    results, left_out = scan(tmp_path)
    assert [result.seed for result in results] == [0]
    assert left_out == [
        "d4rl-short@1/local/quick/dt/hopper-medium/seed-1.json: its score is 1e+06 times the expert's; its returns or "
        "reference scores are wrong."
    ]


def test_errors_name_no_folder():
    """A failed run's traceback is published with the results."""
    code = f"{Path(provenance.__file__).parents[1]}/runner.py"
    text = (
        f'File "{code}", line 3\n  File "/home/me/venv/lib/python3.11/site-packages/torch/nn/linear.py", line 1\n'
        "OSError: no /data/of me/x.npy, ~/gpt2/config.json or local/hopper; see https://a.org/b/c, 1/2"
    )
    kept = provenance.without_folders(text)
    assert 'File "dtbench/runner.py", line 3\n  File "torch/nn/linear.py"' in kept
    assert kept.endswith("config.json or local/hopper; see https://a.org/b/c, 1/2")
    assert "/home" not in kept
    error = ErrorRecord.from_exception(OSError("no file /home/me/x.yaml"))
    assert (error.type, error.message) == ("OSError", "no file x.yaml")
    process = ErrorRecord("WorkerEnded", "killed", signal="SIGKILL", log_tail=["reading /home/me/x.yaml"])
    assert process.log_tail == ["reading x.yaml"]


def test_provenance_names_no_folder(monkeypatch):
    words = [
        "dtbench",
        "run",
        "--output",
        "/home/somebody/results",
        "--config=/etc/x.yaml",
        "--set",
        "model.backbone=/a/gpt2",
        "../../somebody/seeds.yaml",
    ]
    monkeypatch.setattr("sys.argv", words)
    assert provenance.command() == "dtbench run --output results --config=x.yaml --set model.backbone=gpt2 seeds.yaml"
    content = provenance.provenance(provenance.now())
    assert content.packages["torch"]


def test_results_of_the_first_schema_are_read():
    """They were written by the first versions of dtbench; their files stay as they are."""
    results, unreadable = scan(samples.RECORDED)
    assert (len(results), unreadable) == (11, [])
    for result in results:
        assert result.model.initial_weights
        assert (result.model.changes == []) is result.model.is_preset_config
        assert ":" not in result.task.env_id
        assert Result.from_dict(result.to_dict(), "again") == result


def test_the_first_schema_is_upgraded():
    old = samples.result().to_dict()
    old |= {"schema_version": 1}
    old["model"]["weights"] = old["model"].pop("initial_weights")
    for section, key in (("model", "changes"), ("task", "return_scale"), ("task", "kept_trajectories")):
        del old[section][key]
    del old["training"]["checkpoint_sha256"]
    old["task"]["env_id"] = "dtbench.mazes:dtbench/PointMaze-large-v0"
    expected = samples.result(task_env_id="dtbench/PointMaze-large-v0")
    assert Result.from_dict(old, "old") == expected
    old["model"]["is_preset_config"] = False
    assert Result.from_dict(old, "old").model.changes is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_losses_and_settings_are_stored_as_text(tmp_path, value):
    content = samples.result(model_config={"model": {"rate": value, "pair": (1, value)}})
    content = replace(content, training=replace(content.training, final_loss=value))
    path = samples.save(tmp_path, content)
    stored = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert stored["training"]["final_loss"] == str(value)
    read = read_result(path)
    assert math.isnan(read.training.final_loss) if math.isnan(value) else read.training.final_loss == value
    assert read.model.config == {"model": {"rate": str(value), "pair": [1, str(value)]}}


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def test_a_failed_run_can_always_be_written(tmp_path):
    config = {"model": {"scale": np.float32(0.5), "path": Path("x"), "rate": float("nan"), 3: {1, }}}  # fmt: skip
    begun = samples.unfinished(samples.result(model_config=config, status="interrupted", model_initial_weights=None))
    for error in (ValueError("a \udcff byte [/red]"), Unprintable()):
        path = samples.save(tmp_path, begun.failed(ErrorRecord.from_exception(error)))
        read = read_result(path)
        assert read.status == "failed"
        assert read.error.type == type(error).__name__
    assert read.model.config["model"] == {"scale": 0.5, "path": repr(Path("x")), "rate": "nan", "3": "{1}"}
    assert read_result(samples.save(tmp_path, begun.interrupted())).status == "interrupted"


def test_a_run_from_begin_to_end():
    whole = samples.result()
    model = replace(whole.model, initial_weights=None)
    begun = Result.begin(whole.suite, replace(whole.task, fingerprint=None), model, "quick", 0)
    assert (begun.status, begun.scores, begun.error) == ("interrupted", None, None)
    measured = {"scores": whole.scores, "training": whole.training, "evaluation": whole.evaluation}
    done = begun.finished(task=whole.task, initial_weights="random", **measured)
    assert (done.status, done.measured, done.model, done.task) == ("ok", whole.measured, whole.model, whole.task)
    assert done.score == pytest.approx(0.5)
    assert done.provenance.started <= done.provenance.finished
    bad = samples.result(score=float("nan"))
    with pytest.raises(ResultError, match=r"The run's result: scores\.returns\[0\] must be a finite number"):
        begun.finished(task=whole.task, initial_weights="random", **(measured | {"scores": bad.scores}))
    with pytest.raises(ResultError, match="dt on hopper-medium, seed 0, has no scores"):
        _ = begun.score


def nested(depth: int) -> dict:
    """A result whose configuration is nested so deeply."""
    content = samples.result(seed=9).to_dict()
    for _ in range(depth):
        content["model"]["config"] = {"model": content["model"]["config"]}
    return content


BROKEN = {
    "nested lists": ("[" * 100_000 + "]" * 100_000, "cannot be read: it is nested too deeply"),
    "nested objects": (json.dumps(nested(100)), r"model\.config\[model\] is nested too deeply"),
    "a list": ("[]", "it is not a result; it must hold a JSON object"),
    "a number of too many digits": ("1" + "0" * 5000, "cannot be read: a number in it has too many digits"),
    "bytes that are not UTF-8": (b"\xff\xfe{}", "cannot be read: it is not UTF-8"),
    "an empty file": ("", "cannot be read: it is empty"),
    "half a file": ('{"schema_version": 2,', "cannot be read: it is not JSON"),
}


def hostile_folder(root: Path) -> Path:
    """A folder with one good result, files that cannot be read, and things that are not files."""
    path = samples.save(root, samples.result())
    for number, (content, _) in enumerate(BROKEN.values(), start=10):
        path.with_name(f"seed-{number}.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    path.with_name("seed-30.json").mkdir()
    path.with_name("seed-31.json").symlink_to("seed-31.json")
    path.with_name("seed-32.json").symlink_to("nowhere")
    path.with_name("seed-33.json").symlink_to("/dev/zero")
    os.mkfifo(path.with_name("seed-34.json"))
    (root / "loop@1").symlink_to(root)
    (root / "d4rl-short@1" / "loop").symlink_to(root / "d4rl-short@1")
    return root


def test_broken_files_are_left_out_with_one_sentence_each(tmp_path):
    results, left_out = scan(hostile_folder(tmp_path))
    assert [result.seed for result in results] == [0]
    place = "d4rl-short@1/local/quick/dt/hopper-medium/"
    for number, (_, message) in enumerate(BROKEN.values(), start=10):
        assert any(re.match(rf"{place}seed-{number}\.json:? {message}", line) for line in left_out), (message, left_out)
    expected = {30: "is not a file", 31: "cannot be read: Too many levels of symbolic links", 34: "is not a file"}
    expected |= {32: "cannot be read: No such file or directory", 33: "is not a file"}
    for number, message in expected.items():
        assert f"{place}seed-{number}.json {message}." in left_out
    assert len(left_out) == len(BROKEN) + 5
    assert str(tmp_path) not in "".join(left_out)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = samples.save(tmp_path, samples.result())
    monkeypatch.setattr(files, "_LARGEST_FILE", 100)
    with pytest.raises(ResultError, match="is too large to be a result"):
        read_result(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_without_permission_are_named(tmp_path):
    path = samples.save(tmp_path, samples.result())
    path.parent.chmod(0)
    try:
        results, left_out = scan(tmp_path)
    finally:
        path.parent.chmod(0o755)
    assert results == []
    assert left_out == ["The folder d4rl-short@1/local/quick/dt/hopper-medium cannot be read: Permission denied."]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    path = samples.save(tmp_path, samples.result())
    listdir = os.listdir

    def refuse(folder):
        if folder == path.parent:
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    assert scan(tmp_path) == (
        [],
        ["The folder d4rl-short@1/local/quick/dt/hopper-medium cannot be read: Permission denied."],
    )


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("leaderboard", "FOLDER"), 0, "## Files left out"),
        (("compare", "FOLDER", "dt", "dt"), 0, "Left out: d4rl-short@1/local/quick/dt/hopper-medium/seed-10.json"),
        (("compare", "FOLDER", "dt", "[/red]"), 2, "Unknown model in these results '[/red]'"),
        (("leaderboard", "FOLDER/d4rl-short@1"), 2, "holds no results"),
        (("leaderboard", "FOLDER/nowhere"), 2, "There is no folder"),
        (
            ("leaderboard", "FOLDER", "--out", "FOLDER/file/board.md"),
            2,
            "cannot be written: a file has the name of its folder.",
        ),
        (("leaderboard", "FOLDER", "--out", "FOLDER/loop@1", "--check"), 1, "is out of date"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_commands_on_broken_results_print_sentences(tmp_path, capfd, words, code, expected):
    hostile_folder(tmp_path)
    (tmp_path / "file").write_text("")
    assert commands.main(*(word.replace("FOLDER", str(tmp_path)) for word in words)) == code
    said = capfd.readouterr()
    assert expected in said.out + said.err
    assert "Traceback" not in said.err
    assert len([line for line in said.err.splitlines() if not line.startswith("Left out: ")]) <= 1


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    samples.save(tmp_path / "r", samples.result())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultError, match=r"board\.md cannot be written: No space left on device"):
        leaderboard.write(tmp_path / "r", tmp_path / "board.md")
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_result_that_cannot_be_set_aside_is_an_error(tmp_path):
    path = tmp_path / "seed-0.json"
    path.mkdir()
    (tmp_path / "seed-0.json.unreadable").write_text("")
    with pytest.raises(ResultError, match=r"is not a file\. It could not be set aside as seed-0\.json\.unreadable"):
        read_or_set_aside(path)


@pytest.mark.slow
def test_a_pipe_that_closes_early_ends_quietly(tmp_path):
    for seed in range(300):
        samples.save(tmp_path, samples.failed(seed=seed, message="x" * 1000))
    command = shlex.join(commands.command("leaderboard", str(tmp_path)))
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "# dtbench leaderboard\n", "")
