"""Experiment trackers without a network: what they hold afterwards, and what the result says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from dtbench.errors import ConfigError
from dtbench.results.files import read_result
from dtbench.results.schema import Result
from dtbench.runs.folder import RunFolder
from dtbench.runs.trackers import check_loggers, loggers, tracker_ids
from tests.commands import dtbench, main

WORDS = ("run", "--task", "hopper-medium", "--model", "bc", "--preset", "smoke", "--source", "local")


def trained(tmp_path: Path, logger: str) -> Result:
    dtbench(*WORDS, "--logger", logger, "--output", tmp_path / "results")
    (file,) = (tmp_path / "results").rglob("seed-0.json")
    return read_result(file)


def test_tensorboard_and_csv_are_the_default(tmp_path):
    made = loggers(RunFolder(tmp_path), ["tensorboard", "csv"])
    assert [type(logger) for logger in made] == [TensorBoardLogger, CSVLogger]
    assert tracker_ids(made) is None


def test_csv_alone(tmp_path):
    result = trained(tmp_path, "csv")
    assert result.measured.training.trackers is None
    (folder,) = (file.parent for file in tmp_path.rglob("final.ckpt"))
    assert (folder / "csv").is_dir()
    assert not (folder / "tensorboard").exists()


def test_loggers_do_not_change_what_a_run_is(tmp_path):
    one, two = (trained(tmp_path / name, name) for name in ("csv", "tensorboard"))
    assert one.model.config_hash == two.model.config_hash
    assert one.model.is_preset_config
    assert one.measured.scores == two.measured.scores


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_has_its_pip_line(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"pip install 'dtbench\[{name}\]'"):
        check_loggers(["csv", name])


def test_a_wrong_name_is_refused(tmp_path, capsys):
    assert main(*WORDS, "--logger", "tensorbord", "--output", tmp_path) == 2
    assert "hardware.loggers must be one of tensorboard, csv, wandb, mlflow, trackio" in capsys.readouterr().err


def test_mlflow_keeps_the_losses_under_the_recorded_id(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (extra mlflow)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    result = trained(tmp_path, "csv,mlflow")
    trackers = result.measured.training.trackers
    assert set(trackers) == {"mlflow"}
    client = mlflow.tracking.MlflowClient(f"file:{tmp_path / 'mlruns'}")
    run = client.get_run(trackers["mlflow"])
    assert run.info.run_name == "bc/hopper-medium/seed-0"
    assert run.data.tags["group"] == "d4rl-short@1/local/smoke"
    logged = client.get_metric_history(trackers["mlflow"], "train/loss")
    assert [point.step for point in logged] == [4, 9]


def test_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed (extra wandb)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = trained(tmp_path, "wandb")
    identity = result.measured.training.trackers["wandb"]
    (folder,) = tmp_path.rglob("offline-run-*")
    assert folder.name.endswith(identity)
    assert list(folder.glob("*.wandb"))


def test_trackio_keeps_the_losses(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio", reason="trackio is not installed (extra trackio)")
    result = trained(tmp_path, "trackio")
    assert result.measured.training.trackers == {"trackio": "bc/hopper-medium/seed-0"}
    assert list((tmp_path / "trackio").rglob("*dtbench*"))


def test_a_stack_has_a_tracker_per_seed(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed (extra mlflow)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    dtbench(*WORDS, "--seeds", "0,1", "--stack-seeds", "--logger", "mlflow", "--output", tmp_path / "results")
    found = [
        json.loads(file.read_text(encoding="utf-8")) for file in sorted((tmp_path / "results").rglob("seed-?.json"))
    ]
    identities = {record["training"]["trackers"]["mlflow"] for record in found}
    assert len(identities) == 2
