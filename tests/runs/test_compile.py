"""`hardware.compile`: the same training in compiled steps, and one sentence where it cannot work."""

from __future__ import annotations

import csv
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from dtbench import testing
from dtbench.config import HardwareConfig
from dtbench.errors import ConfigError
from dtbench.models.checkpoint import load_checkpoint
from dtbench.runs.folder import RunFolder
from dtbench.runs.preflight import check_hardware
from dtbench.runs.training import fit
from tests.commands import RUN, dtbench

STEPS = 12
#: Compiled code adds in another order and contracts products and sums; twelve steps at a rate of 1e-3 let float32's
#: rounding of 6e-8 grow. Measured: 1.4e-7 (dt) and 2.0e-7 (lamo).
SAME = 1e-5


class Stop(Callback):
    """Interrupt the training before a step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 7:
            raise InterruptedError


def train(name: str, folder: Path, compile_: str, *callbacks: Callback) -> dict[int, float]:
    """Train a model on the contract's small data from the folder's checkpoint on; return its losses by step."""
    changes = (f"hardware.compile={compile_}", "training.log_every=1", "training.checkpoint_every=6")
    subject = testing.Subject.find(name, [*changes, f"training.steps={STEPS}", "hardware.accelerator=cpu"])
    module = subject.build()
    with suppress(InterruptedError):
        fit(module, testing.data_module(folder, module, STEPS), subject.config, RunFolder(folder), [*callbacks])
    (*_, last) = sorted(folder.glob("csv/part-*/metrics.csv"))
    with last.open() as content:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(content)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dt", "lamo"])  # lamo draws several masks for one tensor
def test_compiled_steps_equal_eager_ones(name, tmp_path):
    eager, compiled = (train(name, tmp_path / kind, kind) for kind in ("off", "default"))
    assert sorted(eager) == list(range(STEPS))
    assert compiled == pytest.approx(eager, rel=SAME)
    weights = [load_checkpoint(tmp_path / kind / "final.ckpt")["state_dict"] for kind in ("off", "default")]
    assert weights[0].keys() == weights[1].keys()


@pytest.mark.slow
def test_compiled_and_eager_trainings_continue_each_other(tmp_path):
    eager = train("dt", tmp_path / "eager", "off")
    for first, then in (("off", "default"), ("default", "off"), ("default", "default")):
        folder = tmp_path / f"{first}-{then}"
        train("dt", folder, first, Stop())
        assert not (folder / "final.ckpt").exists()
        resumed = train("dt", folder, then)
        assert resumed == pytest.approx({step: eager[step] for step in range(6, STEPS)}, rel=SAME)


def test_a_model_without_a_part_to_compile_says_so(tmp_path, capsys):
    (tmp_path / "d").mkdir()
    subject = testing.Subject.find("bc", ["hardware.compile=default", "training.steps=2"])
    module = subject.build()
    fit(module, testing.data_module(tmp_path, module, 2), subject.config, RunFolder(tmp_path / "d"))
    assert "BehaviourCloning has nothing to compile" in capsys.readouterr().err


def test_it_is_not_part_of_a_runs_identity(tmp_path):
    dtbench(*RUN, "--model", "bc", "--output", tmp_path)
    for value in ("default", "off"):
        text = dtbench(*RUN, "--model", "bc", "--output", tmp_path, "--set", f"hardware.compile={value}")
        assert "1 of 1 runs are finished already" in text


def check(**hardware: str) -> None:
    check_hardware([SimpleNamespace(config=SimpleNamespace(hardware=HardwareConfig(**hardware)))])


def test_cuda_graphs_without_cuda_are_one_sentence():
    with pytest.raises(ConfigError, match=r"CUDA graphs.*do not train on a CUDA GPU; use hardware.compile=default"):
        check(accelerator="cpu", compile="graphs")


def test_compiling_needs_a_compiler_and_pythons_headers(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler.*no-compiler is not found"):
        check(accelerator="cpu", compile="default")
    monkeypatch.setenv("CXX", sys.executable)  # anything that exists
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(ConfigError, match="Python's headers"):
        check(accelerator="cpu", compile="default")


def test_compiled_code_draws_the_masks_of_the_eager_code():
    """The operator of dropout masks, which `torch.compile` does not look into, draws what plain code draws."""
    from dtbench.models.parts.dropout import keep_mask, keep_mask_like

    torch.manual_seed(3)
    expected = [keep_mask(torch.Size((4, 5)), 0.3) for _ in range(3)]
    torch.manual_seed(3)
    assert all(torch.equal(keep_mask_like(torch.empty(4, 5), 0.3, torch.empty(0)), mask) for mask in expected)
