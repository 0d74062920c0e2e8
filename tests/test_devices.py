"""Models on another device than the CPU: what can be seen without one, and, where there is a CUDA GPU, on it."""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from dtbench import testing
from dtbench.data import datamodule
from dtbench.data.windows import Windows
from dtbench.errors import ConfigError
from dtbench.evaluation.rollout import EvaluationProtocol, evaluate
from dtbench.models.parts.dropout import Dropout
from dtbench.registry import MODELS
from dtbench.runs import stack_training
from dtbench.runs.folder import RunFolder
from dtbench.runs.stack import Stack
from dtbench.runs.stack_training import Seed, fit_seeds
from dtbench.runs.training import fit
from dtbench.spaces import Discrete, Frames, Spaces, Vector, unit_box
from dtbench.testing import KINDS, Subject
from tests.commands import RUN, dtbench, only_result

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
#: Switches that make another model of a registered one.
VARIANTS = [("ds4", "model.memory=episode"), ("dlstm", "model.memory=window"), ("cql", "model.value_loss=hl_gauss")]
STEPS = 12


def cases():
    for kind in KINDS:
        for name, *overrides in [*((name,) for name in MODELS), *VARIANTS]:
            with suppress(ConfigError):  # a kind that the model does not take
                Subject.find(name, overrides, KINDS[kind])
                yield pytest.param(name, overrides, kind, id="-".join((name, *overrides, kind)))


CASES = list(cases())


def moved(window, device):
    return {name: value.to(device) for name, value in window.items()}


@pytest.mark.parametrize(("name", "overrides", "kind"), CASES)
def test_every_tensor_is_made_where_the_window_is(name, overrides, kind):
    """Tensors without a device are made on `meta` here, on which nothing can be computed together with the window's."""
    module = Subject.find(name, overrides, KINDS[kind]).build()
    window = testing.windows(module)
    with torch.device("meta"):
        module.loss(moved(window, "cpu"))[0].backward()
        module.eval()
        with torch.no_grad():
            assert module.act(moved(window, "cpu")).device.type == "cpu"
            module.encode(window["observations"][:, 0])
            state = module.initial_state(len(window["rewards"]))
            if state is not None:
                last = {key: value[:, -2:] for key, value in window.items()}
                actions, state = module.act_step(last, state)
                assert {part.device.type for part in (actions, *state)} == {"cpu"}


class FixedOrder(Callback):
    """Note whether cuDNN is bound to kernels that add in a fixed order."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_end(self, *_) -> None:
        self.seen.append(torch.backends.cudnn.deterministic)


@pytest.mark.parametrize("stacked", [False, True])
def test_trainings_add_in_a_fixed_order(stacked, tmp_path):
    noted = FixedOrder()
    case = Subject.find("dt", ["training.steps=2", "hardware.accelerator=cpu"])
    modules = [case.build(seed) for seed in range(1 + stacked)]
    folders = [RunFolder(tmp_path / str(seed)) for seed in range(len(modules))]
    for folder in folders:
        folder.create()
    data = [testing.data_module(tmp_path, module, 2) for module in modules]
    if not stacked:
        fit(modules[0], data[0], case.config, folders[0], [noted])
    else:
        whole = stack_training.training_trainer

        def with_note(config, folders, callbacks, *rest, **options):
            return whole(config, folders, [*callbacks, noted], *rest, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stack_training, "training_trainer", with_note)
            fit_seeds([Seed(*parts) for parts in zip(modules, data, folders, strict=True)], case.config)
    assert noted.seen == [True, True]
    assert not torch.backends.cudnn.deterministic


# --- on a GPU


@pytest.fixture
def exact(monkeypatch):
    """Turn off TF32, with which cuDNN computes convolutions and recurrent cells in less than float32 by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@needs_gpu
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("name", "overrides", "kind"), CASES)
def test_a_gpu_computes_what_a_cpu_does(name, overrides, kind):
    """In float32: what differs is the order of sums."""
    module = Subject.find(name, overrides, KINDS[kind]).build().eval()
    window = testing.windows(module)
    with torch.no_grad():
        here = module.act(moved(window, "cpu"))
        there = module.to("cuda").act(moved(window, "cuda"))
    assert there.device.type == "cuda"
    assert torch.allclose(there.cpu(), here, rtol=0, atol=1e-5)


class Stop(Callback):
    """Interrupt the training before a step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 7:
            raise InterruptedError


def train(subject: Subject, folder: Path, *callbacks: Callback):
    """Train from the folder's checkpoint on; return the module and its losses by step."""
    module = subject.build()
    with suppress(InterruptedError):
        fit(module, testing.data_module(folder, module, STEPS), subject.config, RunFolder(folder), [*callbacks])
    (*_, last) = sorted(folder.glob("csv/part-*/metrics.csv"))
    with last.open() as content:
        return module, {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(content)}


def on_gpu(*overrides: str) -> list[str]:
    usual = ["training.log_every=1", "training.checkpoint_every=6", f"training.steps={STEPS}"]
    return [*usual, "hardware.accelerator=gpu", *overrides]


@needs_gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("name", "overrides", "kind"), CASES)
def test_a_training_on_a_gpu_is_resumed_on_it(name, overrides, kind, precision, tmp_path):
    case = Subject.find(name, on_gpu(f"hardware.precision={precision}", *overrides), KINDS[kind])
    module, whole = train(case, tmp_path / "whole")
    assert sorted(whole) == list(range(STEPS))
    train(case, tmp_path / "parts", Stop())
    resumed, rest = train(case, tmp_path / "parts")
    # On an H100 repeated trainings were equal to the last bit; other windows or masks change a loss by 1e-2 and more.
    assert rest == pytest.approx({step: whole[step] for step in range(6, STEPS)}, rel=1e-4)
    assert resumed.final_loss == pytest.approx(module.final_loss, rel=1e-4)


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_the_same_on_a_gpu(kind, tmp_path):
    module = Subject.find("dt", (), KINDS[kind]).build()
    options = testing.data_module(tmp_path, module, 1).options
    store = testing.small_store(tmp_path / "again", module.spaces)
    here, there = Windows(store, options), Windows(store, options).to(torch.device("cuda"))
    starts = torch.arange(here.num_steps)
    expected, found = here.gather(starts), there.gather(starts)
    assert expected.keys() == found.keys()
    for name, value in found.items():
        assert value.device.type == "cuda"
        assert torch.allclose(value.cpu().double(), expected[name].double(), rtol=0, atol=1e-6)


@needs_gpu
@pytest.mark.parametrize("kind", ["vector/continuous", "frames/discrete"])
def test_a_dataset_that_does_not_fit_stays_on_the_cpu(kind, tmp_path, monkeypatch):
    case = Subject.find("dt", on_gpu(), KINDS[kind])
    _, fitting = train(case, tmp_path / "fits")
    monkeypatch.setattr(datamodule, "_GPU_SHARE", 0.0)
    _, too_large = train(case, tmp_path / "too large")
    assert too_large == pytest.approx(fitting, rel=1e-3)


@needs_gpu
@pytest.mark.parametrize("compile_", ["default", "graphs"])
@pytest.mark.parametrize("name", ["dt", "gpt2_dtma"])
def test_compiled_steps_train_on_a_gpu(name, compile_, tmp_path, monkeypatch):
    """Without dropout, whose masks compiled code draws in its own way."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x)
    eager, compiled = (
        train(Subject.find(name, on_gpu(f"hardware.compile={kind}")), tmp_path / kind)[1] for kind in ("off", compile_)
    )
    assert compiled == pytest.approx(eager, rel=1e-3)


@needs_gpu
@pytest.mark.parametrize("name", MODELS)
def test_a_stack_on_a_gpu_has_the_losses_of_one_on_a_cpu(name, monkeypatch):
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x)
    modules = [Subject.find(name).build(seed) for seed in (0, 1)]
    if not modules[0].stackable:
        pytest.skip("its seeds are trained one by one")
    windows = [testing.windows(module, seed=seed) for seed, module in enumerate(modules)]
    batch = {key: torch.stack([window[key] for window in windows]) for key in windows[0]}
    stack = Stack(modules)
    expected = stack.losses(batch, 0)[0].detach()
    found = stack.to("cuda").losses(moved(batch, "cuda"), 0)[0]
    found.sum().backward()
    assert torch.allclose(found.detach().cpu(), expected, rtol=1e-4)


@needs_gpu
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("name", "overrides"), [("dt", ()), ("edt", ()), ("tt", ()), ("cql", ()), ("ds4", ("model.memory=episode",))]
)
def test_a_gpu_evaluates_as_a_cpu(name, overrides):
    """Episodes of 30 steps in Hopper, before rounding has grown."""
    spaces = Spaces(Vector(11), unit_box(3), 30)
    module = Subject.find(name, overrides, spaces).build().eval()
    zeros = torch.zeros(11).numpy()
    protocol = EvaluationProtocol("Hopper-v5", 30, 1000.0, zeros, zeros + 1)
    here = evaluate(module, protocol, 3000.0, 3, seed=0)
    there = evaluate(module.to("cuda"), protocol, 3000.0, 3, seed=0, device="cuda")
    assert there.seeds == here.seeds
    assert there.lengths == here.lengths
    assert there.returns == pytest.approx(here.returns, rel=1e-2)


@needs_gpu
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["dt", "q_transformer"])
def test_frames_are_evaluated_on_a_gpu(name):
    pytest.importorskip("ale_py")
    spaces = Spaces(Frames(4, 84, 84), Discrete(4), 20)
    module = Subject.find(name, (), spaces).build().eval()
    nothing = torch.zeros(1).numpy()
    protocol = EvaluationProtocol("dtbench/Atari-Breakout-v0", 20, 1.0, nothing, nothing + 1)
    here = evaluate(module, protocol, 90.0, 2, seed=0)
    there = evaluate(module.to("cuda"), protocol, 90.0, 2, seed=0, device="cuda")
    assert (there.lengths, there.returns) == (here.lengths, here.returns)


@needs_gpu
def test_evaluate_repeats_a_run_on_its_gpu(tmp_path):
    dtbench(*RUN, "--accelerator", "gpu", "--model", "dt", "--output", tmp_path)
    result = only_result(tmp_path)
    assert result.training.device == torch.cuda.get_device_name(0)
    (folder,) = tmp_path.glob("*@*/*/*/*/*/seed-0")
    (row,) = json.loads(dtbench("evaluate", folder, "--json"))
    assert row["returns"] == result.scores.returns
