"""Records: written whole or not at all, read with checks, never lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dtbench.errors import ResultError
from dtbench.results import provenance
from dtbench.results.files import read_or_set_aside, read_result, scan, write_result
from dtbench.results.schema import new_result
from tests.results import samples


def test_round_trip_and_path(tmp_path):
    path = samples.save(tmp_path, samples.result(seed=3))
    assert path.relative_to(tmp_path).as_posix() == "d4rl-short@1/local/quick/dt/hopper-medium/seed-3.json"
    assert read_result(path) == samples.result(seed=3)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_is_an_error_and_leaves_the_old_result(tmp_path, monkeypatch, step):
    """Footgun 23: a runner that swallows "could not save" loses hours and exits 0."""
    path = samples.save(tmp_path, samples.result())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(ResultError, match="No space left"):
        write_result(path, samples.result(score=0.9))
    assert read_result(path) == samples.result()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ResultError, match="not a number"):
        samples.save(tmp_path, samples.result(score=float("nan")))
    bad = samples.result()
    bad["training"]["final_loss"] = float("inf")
    with pytest.raises(ResultError, match="could not be written"):
        samples.save(tmp_path, bad)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("section", "field"),
    [("task", "fingerprint"), ("model", "weights"), ("scores", "normalized"), ("evaluation", "env_seeds")],
)
def test_missing_fields_are_named(tmp_path, section, field):
    bad = samples.result()
    del bad[section][field]
    with pytest.raises(ResultError, match=rf"{section}\.{field} is missing"):
        samples.save(tmp_path, bad)


def test_unreadable_results_are_named_and_set_aside(tmp_path, capsys):
    path = samples.save(tmp_path, samples.result())
    samples.save(tmp_path, samples.result(seed=1))
    path.write_text('{"half": ')
    results, unreadable = scan(tmp_path)
    assert [result["seed"] for result in results] == [1]
    assert len(unreadable) == 1
    assert "seed-0.json" in unreadable[0]
    assert read_or_set_aside(path) is None
    assert not path.exists()
    assert path.with_suffix(".json.unreadable").exists()
    assert "set aside" in capsys.readouterr().err


MALFORMED = {
    "scores.returns of another kind": (("scores", "returns"), 5, "scores must hold returns"),
    "episodes missing": (("scores", "lengths"), [10], "one entry per episode"),
    "a target without episodes": (("scores", "per_target"), {"1.0": {}}, r"per_target\[1.0\] must hold"),
    "targets in a list": (("scores", "per_target"), [1], "must map targets"),
    "a truth value as a score": (("scores", "normalized"), [True, 0.1], "not a number"),
    "no data": (("task", "fingerprint"), None, "task.fingerprint must be text"),
    "no reference": (("task", "reference"), {}, "table, random and expert"),
    "a seed in words": (("seed",), "one", "seed must be a whole number"),
}


@pytest.mark.parametrize(("keys", "value", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_value_of_another_kind_is_named_and_left_out(tmp_path, keys, value, message):
    """None of them may reach the tables, where it would be a traceback."""
    path = samples.save(tmp_path, samples.result())
    samples.save(tmp_path, samples.result(seed=1))
    content = samples.result()
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match=message):
        read_result(path)
    results, unreadable = scan(tmp_path)
    assert [result["seed"] for result in results] == [1]
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


def test_another_schema_is_refused(tmp_path):
    path = samples.save(tmp_path, samples.result())
    path.write_text(json.dumps({**samples.result(), "schema_version": 99}))
    with pytest.raises(ResultError, match="schema 99"):
        read_result(path)


def test_errors_name_no_folder():
    """A failed run's traceback is published with the results."""
    code = f"{Path(provenance.__file__).parents[1]}/runner.py"
    text = (
        f'File "{code}", line 3\n  File "/home/me/venv/lib/python3.11/site-packages/torch/nn/linear.py", line 1\n'
        "OSError: no /data/of me/x.npy, ~/gpt2/config.json or local/hopper; see https://a.org/b/c, 1/2"
    )
    error = {"type": "OSError", "message": "no file /home/me/x.yaml", "traceback": text}
    kept = new_result(samples.result(), "failed", provenance.now(), error=error)["error"]
    assert kept["message"] == "no file x.yaml"
    assert 'File "dtbench/runner.py", line 3\n  File "torch/nn/linear.py"' in kept["traceback"]
    assert kept["traceback"].endswith("config.json or local/hopper; see https://a.org/b/c, 1/2")
    assert "/home" not in kept["traceback"]


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
    assert json.dumps(content)
    assert content["packages"]["torch"]
