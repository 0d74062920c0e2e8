"""Checkpoints of other programs, damaged ones and malicious ones are one sentence, and nothing in them runs."""

from __future__ import annotations

import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.models.bc import BehaviourCloning
from dtbench.models.checkpoint import load_checkpoint
from dtbench.models.dt import DecisionTransformer
from dtbench.testing import build_model, fit_steps


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit_steps(build_model("bc"), folder, 2, checkpoint_every=2)
    return folder / "latest.ckpt"


def refused(read, path) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "weights_only" not in message  # PyTorch's own advice is to run the file's code
    return message


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated(checkpoint, tmp_path, share):
    whole = checkpoint.read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(whole[: int(share * len(whole))])
    for read in (load_checkpoint, BehaviourCloning.from_checkpoint):
        assert "is not a readable checkpoint" in refused(read, path)


def test_altered_inside(checkpoint, tmp_path):
    whole = bytearray(checkpoint.read_bytes())
    start = whole.find(b"data.pkl") + 60
    whole[start : start + 40] = bytes(40)
    path = tmp_path / "altered.ckpt"
    path.write_bytes(whole)
    refused(BehaviourCloning.from_checkpoint, path)


@pytest.mark.parametrize("content", [b"", b"\x80", b"not a checkpoint", b"PK\x03\x04", b'{"json": true}', bytes(1000)])
def test_foreign_bytes(tmp_path, content):
    path = tmp_path / "foreign.ckpt"
    path.write_bytes(content)
    refused(load_checkpoint, path)


def test_missing_files_and_folders(tmp_path):
    assert "There is no checkpoint" in refused(load_checkpoint, tmp_path / "absent.ckpt")
    refused(load_checkpoint, tmp_path)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("was-run").write_text, ("",))

    path = tmp_path / "evil.ckpt"
    for content in (Evil(), {"state_dict": Evil()}):
        torch.save(content, path)
        assert "more than tensors" in refused(load_checkpoint, path)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"state_dict": None},
        {"state_dict": {}},
        {"state_dict": {"network.0.weight": torch.ones(1)}},
        {"hyper_parameters": None},
        {"hyper_parameters": {"config": {}, "dims": 3, "seed": 0}},
        {"hyper_parameters": {"config": {}, "dims": {}, "seed": "x"}},
    ],
)
def test_checkpoints_of_other_programs(checkpoint, tmp_path, change):
    path = tmp_path / "other.ckpt"
    torch.save({**torch.load(checkpoint, weights_only=True), **change}, path)
    refused(BehaviourCloning.from_checkpoint, path)
    torch.save([1, 2], path)
    assert "holds a list" in refused(BehaviourCloning.from_checkpoint, path)


def test_a_checkpoint_of_another_model(checkpoint):
    with pytest.raises(ConfigError, match="Unknown key of model 'states'"):
        DecisionTransformer.from_checkpoint(checkpoint)
