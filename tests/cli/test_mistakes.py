"""Mistakes that users make: each gets one sentence that names the thing, exit code 2, and no traceback."""

from __future__ import annotations

import json
import shlex
import textwrap
from pathlib import Path

import pytest

from tests.commands import RUN, TASK, dtbench, main

R = f"run --suite d4rl-short --preset smoke --source local --task {TASK} --output {{tmp}}/out"
SUITE = """
name: mine
version: 1
description: One task.
sources: [local]
tasks:
  - id: hopper-medium
    env_id: Hopper-v5
    sources: {local: hopper-medium}
    reference: {table: d4rl, random: -20.3, expert: 3234.3}
    return_scale: 1000
    score_target: 3600
"""
#: What is changed in the suite above, and what the message must name.
BROKEN_SUITES = {
    "version: 1": ("version: one", "version"),
    "version: 1 ": ("", "version"),
    "name: mine": ("name: ../../x", "name"),
    "name: mine ": ("name: [a]", "name"),
    "sources: [local]": ("sources: [nowhere]", "source"),
    "sources: [local] ": ("sources: local", "sources"),
    "tasks:": ("tasks: 3\nother:", "tasks"),
    "  - id: hopper-medium": ("  - id: a/b", "id"),
    "  - id: hopper-medium ": ("  - id: 3", "id"),
    "return_scale: 1000": ("return_scale: 0", "return_scale"),
    "return_scale: 1000 ": ("return_scale: .nan", "return_scale"),
    "score_target: 3600": ("score_target: much", "score_target"),
    "score_target: 3600 ": ("score_target: 3600\n    max_episode_steps: 0", "max_episode_steps"),
    "score_target: 3600  ": ("score_target: 3600\n    trajectory_ratio: 2", "trajectory_ratio"),
    "score_target: 3600   ": ("score_target: 3600\n    top_fraction: 0", "top_fraction"),
    "score_target: 3600    ": ("score_target: 3600\n    targets: 3", "targets"),
    "score_target: 3600     ": ("score_target: 3600\n    colour: red", "colour"),
    "random: -20.3": ("random: 3234.3", "random"),
    "random: -20.3 ": ("random: .inf", "random"),
    "env_id: Hopper-v5": ("env_id: Hoper-v5", "Hoper-v5"),
    "{local: hopper-medium}": ("[local]", "sources"),
    "{local: hopper-medium} ": ("{local: hoper-medium}", "hoper-medium"),
}
PLUGINS = """
    import torch
    from dataclasses import dataclass
    from dtbench.models.base import OfflineModule
    from dtbench.models.bc import BehaviourCloning

    class NoConfig(OfflineModule):
        pass

    @dataclass
    class Options:
        size: int = 3

        def __post_init__(self):
            if self.size > 9:
                raise ValueError("size may be 9 at most")

    class Checks(BehaviourCloning):
        Config = Options

    class NotBuilt(BehaviourCloning):
        def __init__(self, config, dims, seed=0):
            super().__init__(config, dims, seed)
            self.layer = torch.nn.Linear(-1, 2)

    function = print
"""

NAMES = {
    f"{R} --model gpt2_dmta": "did you mean 'gpt2_dtma'",
    f"{R} --model ''": "Name at least one model",
    f"{R}": "Name at least one model",
    f"{R} --model DT": "Unknown model 'DT'",
    f"{R} --model dt,bx": "Unknown model 'bx'",
    "run --model dt --suite d4rl-shrot": "did you mean 'd4rl-short'",
    "run --model dt --suite {tmp}/missing.yaml": "missing.yaml",
    "run --model dt --suite {tmp}": "Unknown suite",
    "run --model dt --suite ''": "Unknown suite",
    "run --model dt --preset quik": "did you mean 'quick'",
    "run --model dt --preset ../suites/sanity": "preset",
    "run --model dt --preset ''": "preset",
    "run --model dt --task hopper-medum": "did you mean 'hopper-medium'",
    "run --model dt --source minary": "did you mean 'minari'",
    "run --model dt --source d4rl": "cannot be reached",
    "run --model dt --source minari --task hopper-medium": "hopper-medium",
    f"{R} --model dt --launcher slurm": "Unknown launcher 'slurm'",
    f"{R} --model dt --existing overwrite": "skip, rerun or fail",
    f"{R} --model dt --seeds one": "not a list of seeds",
    f"{R} --model dt --seeds 0,0": "distinct",
    f"{R} --model dt --seeds=-1": "seeds",
    f"{R} --model dt --seeds 5-3": "is empty",
    f"{R} --model dt --seeds ''": "not a list of seeds",
    f"{R} --model dt --seeds 1.5": "not a list of seeds",
    f"{R} --model dt --seeds 0-99999999": "at most 10,000",
    f"{R} --model dt --seeds 99999999999": "2³²",
    f"{R} --model dt --jobs 0": "--jobs",
    f"{R} --model dt --jobs many": "--jobs",
    f"{R} --model dt --devices 0": "--devices",
    f"{R} --model dt --accelerator tpuu": "tpuu",
    f"{R} --model dt --accelerator gpu": "accelerator=gpu",
    f"{R} --model dt --precision 13": "hardware.precision",
    f"{R} --model dt --set hardware.strategy=dpp": "strategy=dpp",
    f"{R} --model dt --output {{tmp}}/file": "is a file",
    f"{R} --model dt --output {{tmp}}/file/inside": "file",
    f"{R} --model dt --output /proc/nowhere": "/proc/nowhere",
}
MODELS = {
    f"{R} --model {{tmp}}/plugins.py:Nothing": "Nothing",
    f"{R} --model {{tmp}}/plugins.py:NoConfig": "Config",
    f"{R} --model {{tmp}}/plugins.py:function": "subclass",
    f"{R} --model {{tmp}}/plugins.py:NotBuilt": "NotBuilt",
    f"{R} --model {{tmp}}/plugins.py:Checks --set model.size=10": "size may be 9 at most",
    f"{R} --model {{tmp}}/plugins.py": "Class",
    f"{R} --model {{tmp}}/plugins.py:": "Class",
    f"{R} --model {{tmp}}/missing.py:Model": "missing.py",
    f"{R} --model {{tmp}}/syntax.py:Model": "syntax.py",
    f"{R} --model {{tmp}}/imports.py:Model": "no_such_package",
    f"{R} --model {{tmp}}/raises.py:Model": "on purpose",
    f"{R} --model {{tmp}}:Model": "not a .py file",
    f"{R} --model {{tmp}}/file:Model": "file",
    f"{R} --model no_module:Model": "no_module",
    f"{R} --model json:loads": "subclass",
    f"{R} --model :Model": "Model",
    f"{R} --model dtbench.models.dt:Nope": "Nope",
}
SETTINGS = {
    ("dt", "training.stepz=1"): "did you mean 'steps'",
    ("dt", "trainig.steps=1"): "did you mean 'training'",
    ("dt", "model.widht=3"): "did you mean 'width'",
    ("dt", "training.steps=abc"): "training.steps",
    ("dt", "training.steps=1.5"): "training.steps",
    ("dt", "training.steps=0"): "training.steps",
    ("dt", "training.steps=-1"): "training.steps",
    ("dt", "training.steps"): "section.key=value",
    ("dt", "=3"): "section.key=value",
    ("dt", "training=3"): "training",
    ("dt", "training.batch_size=0"): "training.batch_size",
    ("dt", "training.context_length=0"): "training.context_length",
    ("dt", "training.log_every=0"): "training.log_every",
    ("dt", "training.checkpoint_every=0"): "training.checkpoint_every",
    ("dt", "training.context_length=50000"): "GB",
    ("dt", "model.width=1000000"): "GB",
    ("dt", "optimizer.learning_rate=nan"): "optimizer.learning_rate",
    ("dt", "optimizer.learning_rate=inf"): "optimizer.learning_rate",
    ("dt", "optimizer.learning_rate=-1"): "optimizer.learning_rate",
    ("dt", "optimizer.learning_rate=0"): "optimizer.learning_rate",
    ("dt", "optimizer.learning_rate=fast"): "optimizer.learning_rate",
    ("dt", "optimizer.betas=[0.9]"): "optimizer.betas",
    ("dt", "optimizer.betas=[0.9,1.0]"): "optimizer.betas",
    ("dt", "optimizer.betas=0.9"): "optimizer.betas",
    ("dt", "optimizer.eps=0"): "optimizer.eps",
    ("dt", "optimizer.weight_decay=nan"): "optimizer.weight_decay",
    ("dt", "optimizer.weight_decay=-1"): "optimizer.weight_decay",
    ("dt", "optimizer.gradient_clip=-1"): "optimizer.gradient_clip",
    ("dt", "optimizer.warmup_steps=-1"): "optimizer.warmup_steps",
    ("dt", "evaluation.episodes=0"): "evaluation.episodes",
    ("dt", "evaluation.every=-1"): "evaluation.every",
    ("dt", "evaluation.all_targets=perhaps"): "evaluation.all_targets",
    ("dt", "data.steps=0"): "data.steps",
    ("dt", "data.normalize_states=perhaps"): "data.normalize_states",
    ("dt", "hardware.devices=0"): "hardware.devices",
    ("dt", "hardware.num_nodes=0"): "hardware.num_nodes",
    ("dt", "model.layers=0"): "model.layers",
    ("dt", "model.layers=1001"): "model.layers must be at most 1000",
    ("dt", "model.heads=0"): "model.heads",
    ("dt", "model.heads=3"): "heads",
    ("dt", "model.width=0"): "model.width",
    ("dt", "model.activation=swish"): "activation",
    ("dt", "model.dropout=1"): "model.dropout",
    ("dt", "model.dropout=-0.1"): "model.dropout",
    ("dt", "model.dropout=nan"): "model.dropout",
    ("dt", "model.tanh=maybe"): "model.tanh",
    ("dc", "model.window=0"): "model.window",
    ("bc", "model.layers=0"): "model.layers",
    ("bc", "model.top_fraction=0"): "model.top_fraction",
    ("bc", "model.top_fraction=2"): "model.top_fraction",
    ("cql", "model.discount=1"): "model.discount",
    ("cql", "model.target_rate=0"): "model.target_rate",
    ("cql", "model.temperature=0"): "model.temperature",
    ("cql", "model.policy_learning_rate=0"): "model.policy_learning_rate",
    ("cql", "model.sampled_actions=0"): "model.sampled_actions",
    ("cql", "model.penalty_weight=nan"): "model.penalty_weight",
    ("cql", "model.value_loss=l1"): "model.value_loss must be one of mse, hl_gauss",
    ("cql", "model.value_bins=1"): "model.value_bins",
    ("q_transformer", "model.bins=1"): "model.bins",
    ("q_transformer", "model.n_step=0"): "model.n_step",
    ("tt", "model.bins=1"): "model.bins",
    ("tt", "model.discretizer=kmeans"): "model.discretizer",
    ("tt", "model.beam_width=0"): "model.beam_width",
    ("tt", "model.k_act=0"): "model.k_act",
    ("tt", "model.cdf_act=2"): "model.cdf_act",
    ("tt", "model.plan_context=1"): "model.plan_context",
    ("tt", "training.context_length=1"): "training.context_length",
    ("gpt2_dt", "model.backbone=./missing"): "./missing",
    ("gpt2_dt", "model.backbone=no/such-model"): "no/such-model",
    ("gpt2_dt", "model.backbone='a b c'"): "a b c",
    ("gpt2_dt", "model.backbone='synthetic(states=1)'"): "states",
    ("gpt2_dt", "model.backbone='synthetic(colour=1)'"): "colour",
    ("gpt2_dt", "model.embedding=conv"): "model.embedding",
    ("gpt2_dt", "model.head=conv"): "model.head",
    ("gpt2_dt", "model.reinit_heads=[99]"): "model.reinit_heads",
    ("gpt2_dt", "model.alignment=some"): "model.alignment",
    ("gpt2_dt", "model.alignment_centres=0"): "model.alignment_centres",
    ("gpt2_dt", "model.alignment_steps=0"): "model.alignment_steps",
    ("dt", "model.init=tiny"): "model.init must be one of published, small",
    ("lamo", "model.trained=all"): "model.trained",
    ("lamo", "model.lora_rank=0"): "model.lora_rank",
    ("lamo", "model.lora_dropout=1.5"): "model.lora_dropout",
    ("lamo", "model.language_weight=-1"): "model.language_weight",
    ("lamo", "model.language_weight=1"): "model.language_weight",
    ("lamo", "model.text_batch=0"): "model.text_batch",
    ("lamo", "model.text_context=1"): "model.text_context",
    ("gpt2_dtma", "model.gate_every=1"): "model.gate_every",
    ("gpt2_dtma", "model.gate_data=x"): "model.gate_data",
}
FILES = {
    f"{R} --model dt --config {{tmp}}/missing.yaml": "missing.yaml",
    f"{R} --model dt --config {{tmp}}": "{tmp}",
    f"{R} --model dt --config {{tmp}}/broken.yaml": "not readable YAML",
    f"{R} --model dt --config {{tmp}}/list.yaml": "must hold a mapping",
    f"{R} --model dt --config {{tmp}}/binary": "binary",
    f"{R} --model dt --config {{tmp}}/unknown.yaml": "did you mean 'training'",
    "run --model dt --suite {tmp}/broken.yaml": "not readable YAML",
    "run --model dt --suite {tmp}/list.yaml": "must hold a mapping",
    "run --model dt --suite {tmp}/unknown.yaml": "unknown.yaml",
}
COMMANDS = {
    "nowhere": "No such command",
    "run --colour red": "No such option",
    "list nothing": "No such command",
    "show suite d4rl": "Unknown suite 'd4rl'",
    "show suite": "Missing argument",
    "show model td": "Unknown model 'td'",
    "show model dt --preset learned": "Unknown preset",
    "show model dt --task nowhere": "Unknown task",
    "show model dt --set model.widht=3": "did you mean 'width'",
    "leaderboard {tmp}/nowhere": "There is no folder",
    "leaderboard {tmp}/empty": "holds no results",
    "leaderboard {tmp}/file": "file",
    "leaderboard {results} --check": "--check needs --out",
    "leaderboard": "Name the folder of results (DIR), or --boards FILE",
    "leaderboard --protocols": "Name the folder of results",
    "leaderboard {results} --protocols --preset paper": "Unknown preset",
    "leaderboard {results} --boards {tmp}/boards.yaml": "--boards takes no DIR",
    "leaderboard --boards {tmp}/boards.yaml --protocols": "--boards takes no DIR",
    "leaderboard --boards {tmp}/boards.yaml --out {tmp}/a.md": "--boards takes no DIR",
    "leaderboard --boards {tmp}/boards.yaml --task hopper-medium": "--boards takes no DIR",
    "leaderboard --boards {tmp}/missing.yaml": "missing.yaml",
    "leaderboard --boards {tmp}": "{tmp}",
    "leaderboard --boards {tmp}/broken.yaml": "not readable YAML",
    "leaderboard --boards {tmp}/unknown.yaml": "Unknown key 'trainig'",
    "leaderboard {results} --task hoper-medium": "did you mean 'hopper-medium'",
    "leaderboard {results} --preset paper": "Unknown preset",
    "leaderboard {results} --suite nowhere": "Unknown suite",
    "leaderboard {results} --out /proc/nowhere/board.md": "/proc/nowhere",
    "leaderboard {results} --out {tmp}": "{tmp}",
    "compare {results} dt": "Missing argument",
    "compare {results} bc td": "Unknown model",
    "compare {tmp}/nowhere bc dt": "There is no folder",
    "evaluate {tmp}/nowhere": "not the folder of a run",
    "evaluate {tmp}/file": "not the folder of a run",
    "evaluate {run} --episodes 0": "--episodes",
    "evaluate {run} --target much": "--target",
    "evaluate {run} --target nan": "target",
    "evaluate {run} --seed=-1": "--seed",
    "record {run}": "--out",
    "record {tmp}/nowhere --out {tmp}/a.gif": "not the folder of a run",
    "record {run} --out {tmp}/a.txt": "a.txt",
    "analyze attention {tmp}/nowhere": "no finished run",
    "analyze attention {run}": "no attention",
    "analyze markov-heads {run}": "without GPT-2's attention",
    "analyze markov-heads {tmp}/nowhere": "nowhere",
    "analyze markov-heads {tmp}/empty": "config.json",
    "analyze markov-heads {tmp}/file": "file",
    "analyze markov-heads {tmp}/broken.safetensors": "broken.safetensors",
    "analyze markov-heads bundled --plot {tmp}/a.xyz": "a.xyz",
    "backbone synthetic --output {tmp}/empty": "exists already",
    "backbone synthetic --output {tmp}/b --states 1": "--states",
    "backbone synthetic --output {tmp}/b --temperature 0": "temperature",
    "backbone synthetic --output {tmp}/b --temperature nan": "temperature",
    "backbone synthetic --output {tmp}/b --steps 0": "--steps",
    "backbone text {tmp}/missing.txt --output {tmp}/b": "missing.txt",
    "backbone text {tmp}/empty --output {tmp}/b": "holds no .txt",
    "backbone text {tmp}/binary --output {tmp}/b": "binary",
    "backbone text {tmp}/short.txt --output {tmp}/b": "short.txt",
    "data info hoper-medium": "did you mean 'hopper-medium'",
    "data info hopper-medium --steps 77": "is not built",
    "data info hopper-medium --steps 0": "--steps",
    "data info hopper-medium-v2": "is not imported",
    "data info D4RL/pen/human-v2": "D4RL/pen/human-v2",
    "data verify hoper-medium": "did you mean 'hopper-medium'",
    "data build kitchen": "can be built locally",
    "data build nowhere": "Unknown suite",
    "data build d4rl-short --task nowhere": "Unknown task",
    "data build d4rl-short --format csv": "--format",
    "data build d4rl-short --workers 0": "--workers",
    "data fetch nowhere": "Unknown suite or dataset",
    "data fetch hopper-medium-v2": "cannot be reached",
    "data fetch d4rl-short --source local": "Unknown source",
    "data import {tmp}/missing.hdf5 --as hopper-medium-v2": "missing.hdf5",
    "data import {tmp}/binary --as hopper-medium-v2": "binary",
    "data import {tmp}/file --as hopper-medium-v9": "hopper-medium-v9",
    "data import {tmp}/hostile.pkl --as hopper-medium-v2": "hostile.pkl",
    "data import {tmp}/empty --as D4RL/pen/human-v2": "Minari dataset: it has no folder",
    "data export hopper-medium --format csv": "--format",
    "data export hopper-medium --steps 4000 --format d4rl": "--out",
    "data export hopper-medium --steps 77 --format minari": "is not built",
    "check-model nowhere": "Unknown model",
    "check-model {tmp}/plugins.py:NoConfig": "Config",
}
MISTAKES = {
    **NAMES,
    **MODELS,
    **{f"{R} --model {model} --set {shlex.quote(word)}": text for (model, word), text in SETTINGS.items()},
    **FILES,
    **COMMANDS,
}


@pytest.fixture(scope="module")
def places(tmp_path_factory, shared_home):
    """The files that the mistakes are about, and a finished run."""
    tmp = tmp_path_factory.mktemp("mistakes")
    (tmp / "file").write_text("a file\n", encoding="utf-8")
    (tmp / "short.txt").write_text("short", encoding="utf-8")
    (tmp / "empty").mkdir()
    (tmp / "binary").write_bytes(bytes(range(256)))
    (tmp / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp / "broken.yaml").write_text("training: [unclosed\n", encoding="utf-8")
    (tmp / "list.yaml").write_text("- a\n- b\n", encoding="utf-8")
    (tmp / "unknown.yaml").write_text("trainig: {steps: 3}\n", encoding="utf-8")
    (tmp / "plugins.py").write_text(textwrap.dedent(PLUGINS), encoding="utf-8")
    (tmp / "syntax.py").write_text("class Model(\n", encoding="utf-8")
    (tmp / "imports.py").write_text("import no_such_package\n", encoding="utf-8")
    (tmp / "raises.py").write_text("raise RuntimeError('on purpose')\n", encoding="utf-8")
    (tmp / "hostile.pkl").write_bytes(b"cos\nsystem\n(S'touch hostile-code-ran'\ntR.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTBENCH_HOME", str(shared_home))
        patch.setenv("DTBENCH_OFFLINE", "1")
        dtbench(*RUN, "--model", "bc", "--output", tmp / "results")
    (run,) = (tmp / "results").glob("*@*/*/*/*/*/seed-0")
    return {"tmp": str(tmp), "results": str(tmp / "results"), "run": str(run)}


def complain(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a mistaken command; return its last line after checking the form of what it said."""
    code = main(*words)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip() and not line.startswith("dtbench 0.")]
    assert code == 2, captured.err
    assert "Traceback" not in captured.err
    if not lines[0].startswith("Usage:"):  # click's own form has the usage above its sentence
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("dtbench: ")
        assert len(lines[0]) < 700
    return lines[-1]


def test_there_are_enough():
    assert len(MISTAKES) + len(BROKEN_SUITES) >= 150


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_code_2(line, places, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    text = complain(shlex.split(line.format(**places)), capsys)
    assert MISTAKES[line].format(**places) in text
    assert list(Path(places["tmp"]).glob("out/**/seed-*.json")) == []
    assert not (tmp_path / "hostile-code-ran").exists()


@pytest.mark.parametrize("before", BROKEN_SUITES)
def test_a_suite_with_a_wrong_field_is_refused(before, tmp_path, capsys):
    after, named = BROKEN_SUITES[before]
    assert before.strip() in SUITE
    file = tmp_path / "mine.yaml"
    file.write_text(SUITE.replace(before.strip(), after, 1), encoding="utf-8")
    words = ["run", "--suite", str(file), "--model", "bc", "--preset", "smoke", "-o", str(tmp_path / "o")]
    text = complain(words, capsys)
    assert named in text
    assert not (tmp_path / "o").exists()


def test_the_suite_without_a_mistake_runs(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(SUITE, encoding="utf-8")
    rows = json.loads(dtbench("show", "suite", file, "--json").strip())
    assert rows["tasks"][0]["id"] == "hopper-medium"
