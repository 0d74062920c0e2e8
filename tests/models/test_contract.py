"""Every registered model keeps the contract, and models that break one rule fail exactly that check."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from dtbench.errors import ConfigError, UnknownNameError
from dtbench.registry import MODELS
from dtbench.testing import CHECKS, KINDS, ContractError, Subject, check_model, run_checks
from dtbench.testing.checks import require_equal_weights, train_in_two_processes
from tests.commands import dtbench, main
from tests.models import broken

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Two processes take about 17 s to start: two kinds of models are enough for every change, and CI alone trains the
#: others, one after the other in the same two processes.
IN_TWO_PROCESSES = {"dt", "bc"}
BY_NAME = {check.name: check for check in CHECKS}


DEFAULT = "vector/continuous"
#: CQL's critics of continuous actions are MLPs over vectors; Trajectory Transformer's tokens are numbers of a vector.
REFUSED = {("cql", "frames/continuous"), ("tt", "frames/continuous"), ("tt", "frames/discrete")}

#: Switches that make another model of a registered one.
VARIANTS = [
    ("gpt2_dtma", "model.gate=false"),
    ("dmamba", "model.memory=episode"),
    ("dlstm", "model.memory=window"),
    ("cql", "model.value_loss=hl_gauss"),
    # The Decision Transformer's own cloning, small.
    ("bc10", "model.states=window", "model.dropout=0.1", "model.layers=3"),
]


def variants():
    """Yield every model, as its name and overrides, and those that switches make of one."""
    yield from ((name,) for name in MODELS)
    yield from VARIANTS


def cases():
    for name, *overrides in variants():
        for check in CHECKS:
            if check.name != "two-processes" or (name in IN_TWO_PROCESSES and not overrides):
                yield pytest.param(name, overrides, check, id="-".join((name, *overrides, check.name)))


@pytest.mark.parametrize(("name", "overrides", "check"), cases())
def test_contract(name, overrides, check, tmp_path):
    check.run(Subject.find(name, overrides), tmp_path)


def others_in_two_processes():
    """Yield what CI alone trains in two processes: a name, overrides, and the kind of task."""
    for name, *overrides in variants():
        if name not in IN_TWO_PROCESSES or overrides:
            yield name, tuple(overrides), DEFAULT
    for kind in KINDS:
        for name in ("dt", "cql"):
            if (name, kind) not in REFUSED and kind != DEFAULT:
                yield name, (), kind


OTHERS = {"-".join((name, *words, kind)): (name, words, kind) for name, words, kind in others_in_two_processes()}


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, Path]:
    """Train the others, one after the other, in the same two processes; return where."""
    here = tmp_path_factory.mktemp("others")
    folders = {case: here / case.replace("/", "-") for case in OTHERS}
    train_in_two_processes(
        {folders[case]: Subject.find(name, words, KINDS[kind]) for case, (name, words, kind) in OTHERS.items()}
    )
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS)
def test_other_models_in_two_processes(case, others):
    require_equal_weights(others[case])


@pytest.mark.slow
def test_a_model_that_drifts_apart_is_found_behind_a_sound_one(tmp_path):
    train_in_two_processes(
        {tmp_path / model.__name__: Subject.find(model) for model in (broken.Sound, broken.DriftsApart)}
    )
    require_equal_weights(tmp_path / "Sound")
    with pytest.raises(ContractError, match="drift apart"):
        require_equal_weights(tmp_path / "DriftsApart")


def cases_of_other_kinds():
    """Yield every model on frames and discrete actions.

    CI alone tries what depends on the kind less, and trains all models.
    """
    for kind in KINDS:
        for name in MODELS if kind != DEFAULT else ():
            for check in CHECKS:
                if (name, kind) in REFUSED or check.name == "two-processes":
                    continue
                slow = check.name not in ("act", "reaction", "causality", "padding", "learning")
                slow |= check.name == "learning" and name not in ("dt", "cql")
                marks = [pytest.mark.slow] if slow else []
                yield pytest.param(name, kind, check, id=f"{name}-{kind}-{check.name}", marks=marks)


@pytest.mark.parametrize(("name", "kind", "check"), cases_of_other_kinds())
def test_contract_on_other_kinds_of_tasks(name, kind, check, tmp_path):
    check.run(Subject.find(name, (), KINDS[kind]), tmp_path)


@pytest.mark.parametrize(("name", "kind"), sorted(REFUSED))
def test_a_kind_that_a_model_does_not_take_is_refused(name, kind):
    with pytest.raises(ConfigError, match="takes vectors as observations, and the task shows stacks of 2 frames"):
        Subject.find(name, (), KINDS[kind])


def verdicts(monkeypatch, model, folder, *names: str, overrides=()) -> dict[str, tuple[bool | None, str]]:
    """Run the named checks, all but the slow one by default; return what each found."""
    chosen = [BY_NAME[name] for name in names] or [check for check in CHECKS if check.name != "two-processes"]
    monkeypatch.setattr("dtbench.testing.CHECKS", chosen)
    outcomes = run_checks(Subject.find(model, overrides), folder)
    return {outcome.check.name: (outcome.passed, outcome.message) for outcome in outcomes}


@pytest.mark.parametrize("context", [1, 2, 5])
def test_a_sound_model_passes_at_every_context_length(monkeypatch, tmp_path, context):
    found = verdicts(monkeypatch, broken.Sound, tmp_path, overrides=[f"training.context_length={context}"])
    assert all(passed for passed, _ in found.values()), found
    assert ("no padding" in found["padding"][1]) is (context == 1)


@pytest.mark.parametrize(
    ("model", "failing", "message"),
    [
        (broken.WrongShape, "act", r"act must return shape \(B, action size\) = \(6, 2\), not shape \(6, 1\)"),
        (broken.WrongType, "act", r"float32, not torch.float64: end it with .float\(\)"),
        (broken.Noisy, "act", "other actions for the same window"),
        (broken.Constant, "reaction", "the same in every state"),
        (broken.ReadsItsOwnAction, "causality", "the last step's own action"),
        (broken.LooksAhead, "causality", "looks ahead"),
        (broken.ReadsPadding, "padding", "act reads padded steps"),
        (broken.LearnsFromPadding, "padding", "The loss depends on padded steps"),
        (broken.CountsItsSteps, "state", "In step 1 of an episode act_step chooses other actions than act"),
        (broken.StatesOfNobody, "state", "a tuple of tensors with a row per episode"),
        (broken.NeverLearns, "learning", "does not learn"),
        (broken.ForgetsWhatItLearnt, "saving", "acts differently"),
        (broken.HiddenState, "resuming", "other losses than an uninterrupted one"),
        (broken.UnseededWeights, "seeding", "Two trainings of the same seed differ"),
        (broken.UnseededLoss, "seeding", "Two trainings of the same seed differ"),
        (broken.StacksAMask, "stacking", r"torch\.vmap cannot take `loss`"),
        (broken.StacksAnotherRate, "stacking", "has other losses than alone"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_rule_fails_exactly_its_check(monkeypatch, tmp_path, model, failing, message):
    found = verdicts(monkeypatch, model, tmp_path, overrides=["training.context_length=5"])
    assert found[failing][0] is False
    assert re.search(message, found[failing][1])
    assert "\n" not in found[failing][1]
    for name, (passed, said) in found.items():
        if name != failing:
            assert passed is (None if failing in BY_NAME[name].needs else True), (name, said)


def test_what_a_model_raises_is_named_with_its_line(monkeypatch, tmp_path):
    ((passed, message),) = verdicts(monkeypatch, broken.Crashes, tmp_path, "learning").values()
    assert passed is False
    line = 1 + Path(broken.__file__).read_text(encoding="utf-8").splitlines().index(
        '        raise ValueError("no idea how")'
    )
    assert message == f"broken.py, line {line} raised ValueError: no idea how"


@pytest.mark.slow
def test_two_processes_must_not_drift_apart(monkeypatch, tmp_path):
    ((passed, message),) = verdicts(monkeypatch, broken.DriftsApart, tmp_path, "two-processes").values()
    assert (passed, message) == (False, "The weights of two processes drift apart.")


def test_a_class_that_another_process_cannot_import_is_left_out(monkeypatch, tmp_path):
    class Local(broken.Sound):
        pass

    ((passed, message),) = verdicts(monkeypatch, Local, tmp_path, "two-processes").values()
    assert passed
    assert "cannot import this class" in message


def test_check_model_raises_the_first_broken_promise(tmp_path):
    with pytest.raises(ContractError, match=r"^act: act must return shape"):
        check_model(broken.WrongShape, tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'lamo'"):
        check_model("lammo", tmp_path)


@pytest.fixture
def no_second_process(monkeypatch):
    monkeypatch.setattr("dtbench.testing.CHECKS", [check for check in CHECKS if check.name != "two-processes"])


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example, as a user copies it."""
    for suffix in ("py", "yaml"):
        shutil.copy(EXAMPLES / f"my_model.{suffix}", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_model", raising=False)
    return "my_model:LinearPolicy"


@pytest.mark.usefixtures("no_second_process")
def test_the_example_passes(example):
    assert Subject.find(example).config.training.context_length == 1  # from the .yaml beside it
    lines = dtbench("check-model", example).strip().splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * (len(CHECKS) - 1)


@pytest.mark.slow
def test_the_example_passes_in_two_processes(example, monkeypatch, tmp_path):
    ((passed, message),) = verdicts(monkeypatch, example, tmp_path / "check", "two-processes").values()
    assert passed, message


@pytest.mark.usefixtures("no_second_process")
def test_the_command_says_what_is_wrong_and_exits_with_1():
    text = dtbench("check-model", "tests.models.broken:WrongShape", expect=1)
    lines = text.strip().splitlines()
    assert lines[0].startswith("WRONG act")
    assert [line.split()[1] for line in lines if line.startswith("–")] == [
        "reaction",
        "causality",
        "padding",
        "state",
        "saving",
    ]
    rows = json.loads(dtbench("check-model", "tests.models.broken:Constant", "--json", expect=1))
    assert [row["check"] for row in rows if not row["passed"]] == ["reaction"]
    assert set(rows[0]) == {"check", "passed", "message"}


def test_a_wrong_name_exits_with_2(capsys):
    assert main("check-model", "dtt") == 2
    assert main("check-model", "tests.models.broken:Nothing") == 2
    assert main("check-model", "tests.models.broken:SoundConfig") == 2
    assert main("check-model", "bc", "--set", "model.widht=3") == 2
    assert main("check-model", "bc", "--spaces", "sound") == 2
    assert capsys.readouterr().err.count("\n") == 5


def test_a_model_of_vectors_is_refused_on_frames(example, capsys):
    assert main("check-model", example, "--spaces", "frames/discrete") == 2
    said = capsys.readouterr().err
    assert "takes vectors as observations" in said
    assert said.count("\n") == 1


def test_a_check_leaves_no_trace_in_pytorch(tmp_path):
    threads = torch.get_num_threads()
    BY_NAME["act"].run(Subject.find("bc"), tmp_path)
    assert torch.get_num_threads() == threads
