"""Seeds that are trained as one: each equals its lone run, resumes, ends and fails like it."""

from __future__ import annotations

import csv
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from dtbench import testing
from dtbench.cli.app import app
from dtbench.errors import ConfigError
from dtbench.evaluation import callback, rollout
from dtbench.models.checkpoint import load_checkpoint
from dtbench.models.dt import DecisionTransformer
from dtbench.models.parts.dropout import Dropout
from dtbench.results.schema import DONE, FAILED, INTERRUPTED, ErrorRecord
from dtbench.runs import job, work
from dtbench.runs.folder import Busy, RunFolder
from dtbench.runs.plan import RunRequest, plan_runs
from dtbench.runs.stack import Stack, StackLoader, clip_each
from dtbench.runs.stack_training import Seed, fit_seeds
from tests.commands import LONG, RUN, TASK, dtbench, process, results, start, wait_until, workers_of

#: Measured after 50 steps at a rate of 1e-3: losses 5e-7 of their size, weights 4e-6 (biases of keys, whose gradient is
#: rounding only), actions 7e-7. The other seed's masks or windows would change a loss by 1e-2 and more.
SAME_LOSS, SAME_WEIGHT, SAME_ACTION = 1e-5, 1e-4, 1e-4
STEPS = 50

BUNDLED = ("model.backbone=bundled", "model.layers=4", "model.heads=4", "model.width=128")
CASES = [
    ("dt",),
    ("dc",),
    ("dmamba",),
    ("bc", "model.dropout=0.1"),
    ("gpt2_dtma", "model.gate_data=held_out"),
    # With the alignment of trajectories and words. At the usual rate this training is unstable: in a lone run, too, a
    # change in the last bit of one weight grows to 0.1 of the loss within 20 steps.
    ("gpt2_dt", *BUNDLED, "optimizer.learning_rate=1e-5"),
    ("lamo",),
]


def subject(name: str, *overrides: str, steps: int = STEPS) -> testing.Subject:
    usual = ("training.log_every=1", "training.checkpoint_every=6", "hardware.accelerator=cpu")
    return testing.Subject.find(name, [*usual, f"training.steps={steps}", *overrides])


def fit(case: testing.Subject, folder: Path, numbers=(0, 1)) -> list[Seed]:
    """Train seeds as one from their checkpoints in `folder/seed-<n>` on; return them trained."""
    steps, seeds = case.config.training.steps, []
    for number in numbers:
        module = case.build(number)
        data = testing.data_module(folder.parent, module, steps, number)
        seeds.append(Seed(module, data, RunFolder(folder / f"seed-{number}")))
        seeds[-1].folder.create()
    fit_seeds(seeds, case.config)
    return seeds


def losses(seed: Seed) -> dict[int, float]:
    """Return step → logged loss of all parts of a training."""
    found = {}
    for file in sorted(seed.folder.path.glob("csv/part-*/metrics.csv")):
        with file.open() as content:
            found |= {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(content)}
    return found


def assert_same(one: Seed, other: Seed) -> None:
    """Assert that two trainings of a seed had the same losses and ended at the same weights, within the tolerance."""
    assert losses(one) == pytest.approx(losses(other), rel=SAME_LOSS)
    assert one.module.final_loss == pytest.approx(other.module.final_loss, rel=SAME_LOSS)
    for (name, weight), (_, expected) in zip(
        one.module.named_parameters(), other.module.named_parameters(), strict=True
    ):
        assert torch.allclose(weight, expected, rtol=0, atol=SAME_WEIGHT), name
    window = testing.windows(one.module)
    with torch.no_grad():
        acted, expected = (seed.module.eval().act(window) for seed in (one, other))
    assert torch.allclose(acted, expected, rtol=0, atol=SAME_ACTION)


@pytest.mark.parametrize(("name", "overrides"), [(name, overrides) for name, *overrides in CASES], ids=lambda v: str(v))
def test_each_seed_equals_its_lone_run(name, overrides, tmp_path):
    case = subject(name, *overrides, steps=12 if name == "gpt2_dt" else STEPS)
    stacked = fit(case, tmp_path / "stack")
    for number, seed in enumerate(stacked):
        (lone,) = fit(case, tmp_path / "lone", [number])
        assert_same(seed, lone)
        of_stack, of_lone = (RunFolder(tmp_path / kind / f"seed-{number}") for kind in ("stack", "lone"))
        assert (
            load_checkpoint(of_stack.final)["state_dict"].keys() == load_checkpoint(of_lone.final)["state_dict"].keys()
        )
        assert json.loads(of_stack.training.read_text())["stacked_seeds"] == [0, 1]
        assert json.loads(of_lone.training.read_text())["stacked_seeds"] is None
        loaded = case.model.from_checkpoint(of_stack.final)
        assert loaded.seed == number
        kept = [sorted(entry.name for entry in folder.path.iterdir()) for folder in (of_stack, of_lone)]
        assert kept[0] == kept[1]


def test_in_bfloat16_it_equals_the_lone_run_as_far_as_that_goes(tmp_path):
    """Three digits: measured 5e-3 of a loss after 50 steps."""
    curves = {}
    for precision in ("bf16-mixed", "32-true"):
        case = subject("dt", f"hardware.precision={precision}", steps=12)
        stacked = fit(case, tmp_path / precision)
        for number, seed in enumerate(stacked):
            (lone,) = fit(case, tmp_path / f"lone-{precision}", [number])
            assert losses(seed) == pytest.approx(losses(lone), rel=2e-2)
        curves[precision] = losses(stacked[0])
    # The whole curve: a single loss of the two may agree by chance.
    assert curves["bf16-mixed"] != pytest.approx(curves["32-true"], rel=SAME_LOSS)


def test_on_other_devices_masks_are_pytorchs_own(monkeypatch):
    """A GPU's path, taken on a CPU: the seeds draw different masks, the same ones in every repetition of a step."""
    monkeypatch.setattr(Dropout, "forward", nn.Dropout.forward)
    case = subject("dt")
    stack = Stack([case.build(0), case.build(0)])  # equal weights: what differs is the masks
    window = testing.windows(stack.seeds[0])
    batch = {name: torch.stack([value, value]) for name, value in window.items()}
    with pytest.raises(RuntimeError, match="random"):
        stack.losses(batch, 3)  # on a CPU nothing else may draw
    monkeypatch.setattr(Stack, "device", torch.device("cuda"))
    (first, again), other = [stack.losses(batch, 3)[0] for _ in range(2)], stack.losses(batch, 4)[0]
    assert first[0] != first[1]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Break(Exception):
    """Ends a training, as a user's Ctrl-C."""


def interrupt(monkeypatch, step: int) -> None:
    """Let stacks, and lone trainings of `dt`, end before a step."""

    def before(whole):
        def method(self, *args):
            if (args[1] if isinstance(self, Stack) else self.step) == step:
                raise Break
            return whole(self, *args)

        return method

    monkeypatch.setattr(Stack, "losses", before(Stack.losses))
    monkeypatch.setattr(DecisionTransformer, "loss", before(DecisionTransformer.loss))


TOGETHER, ALONE, ONE_ALONE = [(0, 1)], [(0,), (1,)], [(0,)]


@pytest.mark.parametrize(
    ("first", "then", "stacked"),
    [
        pytest.param(TOGETHER, TOGETHER, [0, 1], id="a stack goes on"),
        pytest.param(TOGETHER, ALONE, None, id="its seeds go on alone"),
        pytest.param(ALONE, TOGETHER, [0, 1], id="lone runs go on as a stack"),
        pytest.param(ONE_ALONE, TOGETHER, None, id="seeds at different steps go on alone"),
    ],
)
def test_resumed_it_ends_where_an_uninterrupted_one_does(first, then, stacked, tmp_path, monkeypatch):
    case = subject("dt", steps=16)
    whole = fit(case, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, 15)
        for numbers in first:
            with suppress(Break):
                fit(case, tmp_path / "parts", numbers)
    assert (tmp_path / "parts" / "seed-0" / "latest.ckpt").exists()
    resumed = [seed for numbers in then for seed in fit(case, tmp_path / "parts", numbers)]
    for seed, expected in zip(resumed, whole, strict=True):
        assert_same(seed, expected)
        if first == then == TOGETHER:
            assert all(map(torch.equal, seed.module.parameters(), expected.module.parameters()))
        assert json.loads(seed.folder.training.read_text())["stacked_seeds"] == stacked
        assert not seed.folder.latest.exists()


def test_checkpoints_of_a_stack_are_those_of_lone_runs(tmp_path, monkeypatch):
    """Also the optimiser's state, the schedule and Lightning's counters."""
    case = subject("gpt2_dtma", steps=16)
    interrupted = {}
    for kind, parts in {"stack": [(0, 1)], "lone": [(0,), (1,)]}.items():
        for numbers in parts:
            with monkeypatch.context() as patch, suppress(Break):
                patch.setattr("dtbench.runs.training.ProgressFile.on_train_batch_end", _break_at(13))
                fit(case, tmp_path / kind, numbers)
        interrupted[kind] = [load_checkpoint(tmp_path / kind / f"seed-{number}" / "latest.ckpt") for number in (0, 1)]
    for stacked, lone in zip(*interrupted.values(), strict=True):
        assert lone["global_step"] == 12
        assert {name for name in lone if name != "callbacks"} == {name for name in stacked if name != "callbacks"}
        for name in ("epoch", "global_step", "loops", "lr_schedulers", "hyper_parameters"):
            assert stacked[name] == lone[name]
        ((one,), (other,)) = (checkpoint["optimizer_states"] for checkpoint in (stacked, lone))
        assert one["param_groups"] == other["param_groups"]
        assert one["state"].keys() == other["state"].keys()
        for number, kept in other["state"].items():
            for key, value in kept.items():
                assert torch.allclose(one["state"][number][key], value, rtol=1e-3, atol=1e-6)
        assert stacked["callbacks"]["Stopwatch"]["seconds"] > 0


def _break_at(step: int):
    def method(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == step:
            raise Break

    return method


def test_gradients_are_clipped_seed_by_seed():
    """Against PyTorch's own clipping of each seed alone: one above the limit, one below, one without numbers."""
    torch.manual_seed(0)
    scales = torch.tensor([10.0, 0.01, torch.nan, 1.0])
    shapes = [(), (3,), (2, 5)]
    stacked = [nn.Parameter(torch.zeros(len(scales), *shape)) for shape in shapes]
    for parameter in stacked:
        parameter.grad = torch.randn_like(parameter) * scales.reshape(-1, *[1] * (parameter.dim() - 1))
    lone = []
    for index in range(len(scales)):
        lone.append([nn.Parameter(torch.zeros(shape)) for shape in shapes])
        for parameter, whole in zip(lone[-1], stacked, strict=True):
            parameter.grad = whole.grad[index].clone()
        nn.utils.clip_grad_norm_(lone[-1], 0.25)
    clip_each(stacked, 0.25)
    for index, parameters in enumerate(lone):
        for parameter, whole in zip(parameters, stacked, strict=True):
            assert torch.allclose(whole.grad[index], parameter.grad, equal_nan=True)
    assert stacked[1].grad[2].isnan().all()
    assert not stacked[1].grad[[0, 1, 3]].isnan().any()


def test_a_seed_without_numbers_spoils_no_other(tmp_path):
    case = subject("dt", steps=10)
    modules = [case.build(number) for number in (0, 1)]
    with torch.no_grad():
        modules[1].head.layers[0].bias.fill_(torch.nan)
    stack = Stack(modules)
    (alone,) = fit(case, tmp_path / "lone", [0])
    loaders = [testing.data_module(tmp_path, modules[k], 10, k).train_dataloader() for k in (0, 1)]
    optimizer = stack.configure_optimizers()["optimizer"]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
    for step, batch in enumerate(StackLoader(loaders)):
        values = stack.losses(batch, step)[0]
        assert values[0].item() == pytest.approx(losses(alone)[step], rel=SAME_LOSS)
        assert values[1].isnan()
        optimizer.zero_grad()
        values.sum().backward()
        stack.configure_gradient_clipping(optimizer)
        optimizer.step()
        schedule.step()


def test_the_stack_moves_as_one():
    """Converting the stack converts its seeds, which stay views of it."""
    modules = [subject("bc").build(number) for number in (0, 1)]
    before = modules[1].network[0].weight.clone()
    stack = Stack(modules).to(torch.float64)
    weight = modules[1].network[0].weight
    assert weight.dtype == torch.float64
    assert torch.equal(weight, before.double())
    with torch.no_grad():
        stack.stacked.network[0].weight.add_(1)
    assert torch.equal(weight, before.double() + 1)


# --- runs


def plans(output: Path, *overrides: str, models=("dt",), seeds=(0, 1), **options):
    asked = {"models": models, "preset": "smoke", "tasks": [TASK], "source": "local", "seeds": seeds}
    return plan_runs(RunRequest(**asked, output=output, overrides=overrides, **options))


def statuses(output: Path) -> list[str]:
    return [result.status for result in results(output).values()]


def test_each_seed_has_the_result_of_its_lone_run(tmp_path):
    words = (*RUN, "--model", "dt", "--output")
    dtbench(*words, tmp_path / "stack", "--seeds", "0,1", "--stack-seeds")
    dtbench(*words, tmp_path / "lone", "--seeds", "0,1")
    stacked, lone = results(tmp_path / "stack"), results(tmp_path / "lone")
    assert stacked.keys() == lone.keys()
    for name, result in stacked.items():
        expected = lone[name]
        assert (result.task, result.model, result.evaluation) == (expected.task, expected.model, expected.evaluation)
        assert result.training.final_loss == pytest.approx(expected.training.final_loss, rel=SAME_LOSS)
        assert result.scores.returns == pytest.approx(expected.scores.returns, rel=1e-2)  # MuJoCo amplifies
        assert result.training.stacked_seeds == [0, 1]
        assert "stacked_seeds" not in expected.to_dict()["training"]
    assert "2 of 2 runs are finished already" in dtbench(*words, tmp_path / "stack", "--seeds", "0,1")
    assert "2 of 3 runs are finished already" in dtbench(*words, tmp_path / "stack", "--seeds", "0-2", "--stack-seeds")
    assert results(tmp_path / "stack")[f"dt/{TASK}/seed-2"].training.stacked_seeds is None  # it was alone


def test_evaluations_during_training_are_each_seeds_own(tmp_path):
    words = (*RUN, "--model", "dt", "--seeds", "0,1", "--set", "evaluation.every=5", "--output")
    dtbench(*words, tmp_path / "stack", "--stack-seeds")
    dtbench(*words, tmp_path / "lone")
    for one, other in zip(results(tmp_path / "stack").values(), results(tmp_path / "lone").values(), strict=True):
        ((first, early), (last, late)), expected = one.scores.during_training, other.scores.during_training
        assert (first, last) == (5, 10)
        assert [early, late] == pytest.approx([score for _, score in expected], rel=1e-2)
    (file,) = (tmp_path / "stack").rglob("seed-1/csv/part-0/metrics.csv")
    with file.open() as content:
        logged = [
            float(row["evaluation/normalized"]) for row in csv.DictReader(content) if row["evaluation/normalized"]
        ]
    assert logged == pytest.approx([100 * early, 100 * late])


def test_a_seed_whose_evaluation_fails_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    whole = callback.EvaluationCallback.evaluate

    def evaluate(self, module, step, device):
        if module.seed == 1:
            raise ValueError("no simulator")
        return whole(self, module, step, device)

    monkeypatch.setattr(callback.EvaluationCallback, "evaluate", evaluate)
    chosen = plans(tmp_path, "evaluation.every=5", seeds=(0, 1, 2))
    assert job.run_seeds(chosen, ["1/3", "2/3", "3/3"]) == [DONE, FAILED, DONE]
    failed = results(tmp_path)[f"{chosen[1].result_path.parts[-3]}/{TASK}/seed-1"]
    assert (failed.error.type, failed.error.message) == ("ValueError", "no simulator")
    assert failed.error.traceback


def test_a_failing_training_is_recorded_for_each_seed(tmp_path, monkeypatch):
    def explode(self, batch):
        raise ValueError("the loss exploded")

    monkeypatch.setattr(DecisionTransformer, "loss", explode)
    assert job.run_seeds(plans(tmp_path), ["1/2", "2/2"]) == [FAILED, FAILED]
    assert {result.error.message for result in results(tmp_path).values()} == {"the loss exploded"}


def test_an_interruption_is_recorded_for_all_that_had_not_ended(tmp_path, monkeypatch):
    chosen = plans(tmp_path, seeds=(0, 1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "losses", _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            job.run_seeds(chosen, ["1/3", "2/3", "3/3"])
    assert statuses(tmp_path) == [INTERRUPTED] * 3
    whole = rollout.evaluate

    def evaluate(module, protocol, target, episodes, seed, *args, **options):
        if seed == 1:
            raise KeyboardInterrupt
        return whole(module, protocol, target, episodes, seed, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(rollout, "evaluate", evaluate)
        with pytest.raises(KeyboardInterrupt):
            job.run_seeds(chosen, ["1/3", "2/3", "3/3"])
    assert statuses(tmp_path) == [DONE, INTERRUPTED, INTERRUPTED]
    assert job.run_seeds(chosen, ["1/3", "2/3", "3/3"]) == [DONE] * 3


def _raise(error: BaseException):
    def method(*args, **options):
        raise error

    return method


def test_a_stack_waits_for_each_of_its_runs(tmp_path):
    chosen = plans(tmp_path)
    with chosen[1].folder.lock(), pytest.raises(Busy):
        job.run_seeds(chosen, ["1/2", "2/2"])
    assert not chosen[0].folder.is_locked()
    (both,) = work.numbered([chosen])
    assert not both.is_locked()
    with chosen[1].folder.lock():
        assert both.is_locked()
    assert work.Work.from_dict(json.loads(json.dumps(both.to_dict()))).label == "dt · hopper-medium · seeds 0, 1"


# --- what is stacked


def test_seeds_of_one_kind_share_a_process(tmp_path, capsys):
    several = plans(tmp_path, models=("dt", "cql", "bc"), seeds=(0, 1))
    divided = work.divide(several, stack_seeds=True)
    assert [(plans[0].model.name, [plan.seed for plan in plans]) for plans in divided] == [
        ("dt", [0, 1]),
        ("cql", [0]),
        ("cql", [1]),
        ("bc", [0, 1]),
    ]
    assert capsys.readouterr().err.count("one by one") == 1
    assert [list(plans) for plans in work.divide(several, stack_seeds=False)] == [[plan] for plan in several]
    assert [numbers for w in work.numbered(divided) for numbers in w.numbers] == [f"{i}/6" for i in range(1, 7)]


def test_large_models_and_those_that_draw_texts_are_not_stacked(tmp_path):
    (large,) = plans(tmp_path, "model.width=512", seeds=(0,))
    assert work.reason_against(large).startswith("dt has 6.")
    (texts,) = plans(tmp_path, *BUNDLED, "model.language_weight=0.1", models=("lamo",), seeds=(0,))
    assert "lamo, as it is configured, cannot be stacked" in work.reason_against(texts)
    (plain,) = plans(tmp_path, models=("lamo",), seeds=(0,))
    assert work.reason_against(plain) is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["hardware.devices=2"], "on one device"),
        (["hardware.strategy=ddp"], "on one device"),
        (["hardware.precision=16-mixed"], "32-true or bf16-mixed, not 16-mixed"),
        (["hardware.compile=default"], "exclude each other"),
    ],
)
def test_hardware_that_does_not_allow_stacks_is_one_sentence(tmp_path, overrides, said):
    with pytest.raises(ConfigError, match=said):
        work.check_stackable(plans(tmp_path, *overrides))


def test_a_dry_run_shows_the_stacks(tmp_path):
    words = [*RUN, "--model", "dt", "--seeds", "0,1", "--stack-seeds", "--dry-run", "-o", str(tmp_path)]
    rows = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [row["stacked_seeds"] for row in rows] == [[0, 1], [0, 1]]
    assert dtbench(*words).count("seeds 0, 1 are trained as one") == 2


@pytest.mark.slow
def test_a_stack_in_a_worker_is_interrupted_and_continued_by_the_same_line(tmp_path):
    words = (*RUN, "--model", "dt", *LONG, "--seeds", "0,1", "--stack-seeds", "--output")
    whole = process(*words, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    with start(*words, tmp_path / "parts") as child:
        wait_until(lambda: len(list((tmp_path / "parts").rglob("latest.ckpt"))) == 2)
        child.send_signal(signal.SIGINT)
        _, text = child.communicate(timeout=60)
    assert child.returncode == 130, text
    assert statuses(tmp_path / "parts") == [INTERRUPTED, INTERRUPTED]
    resumed = process(*words, tmp_path / "parts")
    assert resumed.returncode == 0, resumed.stderr
    for one, other in zip(results(tmp_path / "whole").values(), results(tmp_path / "parts").values(), strict=True):
        assert one.scores == other.scores
        assert one.training.final_loss == other.training.final_loss
        assert one.training.stacked_seeds == other.training.stacked_seeds == [0, 1]


@pytest.mark.slow
def test_a_worker_that_dies_fails_each_of_its_runs(tmp_path):
    words = (*RUN, "--model", "dt", *LONG, "--seeds", "0,1", "--stack-seeds", "--output", tmp_path)
    with start(*words) as child:
        wait_until(lambda: len(list(tmp_path.rglob("latest.ckpt"))) == 2)
        (worker,) = workers_of(tmp_path)
        os.kill(worker, signal.SIGKILL)
        _, text = child.communicate(timeout=60)
    assert child.returncode == 1, text
    found = results(tmp_path).values()
    assert [(result.status, result.error.signal) for result in found] == [(FAILED, "SIGKILL")] * 2
    assert all(isinstance(result.error, ErrorRecord) for result in found)
