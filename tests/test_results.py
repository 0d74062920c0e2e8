"""Records: written whole or not at all, read with checks, never lost."""

from __future__ import annotations

import json
import os

import pytest

from dtbench import provenance
from dtbench.errors import ResultError
from dtbench.results import read_or_set_aside, read_result, scan, write_result
from tests import samples


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


def test_another_schema_is_refused(tmp_path):
    path = samples.save(tmp_path, samples.result())
    path.write_text(json.dumps({**samples.result(), "schema_version": 99}))
    with pytest.raises(ResultError, match="schema 99"):
        read_result(path)


def test_provenance_names_no_folder(monkeypatch):
    words = [
        "dtbench",
        "run",
        "--output",
        "/home/somebody/results",
        "--config=/etc/x.yaml",
        "--set",
        "model.backbone=/a/gpt2",
    ]
    monkeypatch.setattr("sys.argv", words)
    assert provenance.command() == "dtbench run --output results --config=x.yaml --set model.backbone=gpt2"
    content = provenance.provenance(provenance.now())
    assert json.dumps(content)
    assert content["packages"]["torch"]
