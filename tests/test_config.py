"""Layers of configuration: which wins, which mistakes are refused and how, and when two configurations are equal."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dtbench.config import ModelSettings, RunConfig, compose, from_dict, load_preset, preset_names, task_layers
from dtbench.errors import ConfigError, UnknownNameError
from dtbench.registry import MODELS, model_entry
from dtbench.suites.suites import load_suite, suite_names


def build(*overrides: str, model: str = "gpt2_dtma", preset: str = "quick", file=None) -> RunConfig:
    entry, suite = model_entry(model), load_suite("d4rl-short")
    layer, task = load_preset(preset), suite.tasks[0]
    return compose(entry.settings, preset=layer, suite=suite, task=task, file=file, overrides=overrides)


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("suite", suite_names())
def test_every_shipped_configuration_loads(model, preset, suite):
    entry, loaded = model_entry(model), load_suite(suite)
    settings = entry.settings
    for task in {task_layers(task, settings): task for task in loaded.tasks}.values():
        config = compose(settings, preset=load_preset(preset), suite=loaded, task=task)
        assert from_dict(config.to_dict(), settings.config).hash() == config.hash()


def test_options_that_came_later_are_hashed_where_they_are_used():
    hashes = {build("optimizer.decay=linear", *extra).hash() for extra in ([], ["optimizer.decayed=maps"])}
    hashes |= {build("optimizer.decay=linear", f"evaluation.actions={how}").hash() for how in ("greedy", "sampled")}
    assert len(hashes) == 3


def test_settings_of_a_domain_go_over_those_they_stand_beside(tmp_path):
    """Model, its domain, preset, its domain, suite: each later one wins, and only a suite of the domain sees them."""

    @dataclass
    class Settings:
        a: int = 0
        b: int = 0
        c: int = 0
        d: int = 0
        e: int = 0

    (tmp_path / "config.yaml").write_text("model: {a: 1, b: 1, c: 1, d: 1, e: 1}", encoding="utf-8")
    (tmp_path / "sea.yaml").write_text("model: {b: 2, c: 2, d: 2, e: 2}", encoding="utf-8")
    preset = {"config": {"model": {"c": 3, "d": 3, "e": 3}}, "domains": {"sea": {"models": {"m": {"model": {"d": 4}}}}}}
    suite = load_suite("d4rl-short")
    for domain, expected in (("sea", [1, 2, 3, 4, 5]), ("", [1, 1, 3, 3, 5]), ("land", [1, 1, 3, 3, 5])):
        of_domain = replace(suite, domain=domain, config={"model": {"e": 5}})
        settings = ModelSettings("m", Settings, tmp_path / "config.yaml")
        found = compose(settings, preset=preset, suite=of_domain, task=suite.tasks[0]).model
        assert [found.a, found.b, found.c, found.d, found.e] == expected


def test_settings_of_a_task_go_over_the_models_and_under_the_preset(tmp_path):
    @dataclass
    class Settings:
        a: int = 0
        b: int = 0
        c: int = 0

    (tmp_path / "config.yaml").write_text("model: {a: 1, b: 1, c: 1}", encoding="utf-8")
    (tmp_path / "tasks.yaml").write_text("hopper-medium-replay: {model: {b: 2, c: 2}}", encoding="utf-8")
    suite, settings = load_suite("d4rl-short"), ModelSettings("m", Settings, tmp_path / "config.yaml")
    found = {}
    for task in suite.tasks[:2]:
        config = compose(settings, preset={"config": {"model": {"c": 3}}}, suite=suite, task=task)
        found[task.id] = (config.model.a, config.model.b, config.model.c)
    assert found == {"hopper-medium": (1, 1, 3), "hopper-medium-replay": (1, 2, 3)}
    first, second = (replace(task, id=name, models={}) for task, name in zip(suite.tasks, found, strict=False))
    assert task_layers(first, settings) != task_layers(second, settings)
    assert task_layers(first, settings) == task_layers(replace(first, id="another"), settings)


def test_dt_defaults_are_the_papers():
    """From kzl/decision-transformer, gym/experiment.py."""
    config = build(model="dt", preset="paper")
    model = config.model
    assert (model.layers, model.heads, model.width, model.activation, model.dropout) == (3, 1, 128, "relu", 0.1)
    assert (config.training.context_length, config.training.batch_size, config.training.steps) == (20, 64, 100_000)
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.warmup_steps) == (1e-4, 1e-4, 10_000)
    assert optimizer.gradient_clip == 0.25
    assert config.evaluation.episodes == 100


def test_gpt2_dtma_defaults_are_the_papers():
    """From Markov-Head-Offline-RL: run.sh, experiment.py."""
    config = build(preset="paper")
    assert (config.model.backbone, config.model.gate_every, config.model.dropout) == ("gpt2", 20, 0.1)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-4, 1e-5)
    assert config.optimizer.warmup_steps == 2500
    assert config.evaluation.episodes == 20


def test_the_papers_own_optimiser_for_its_mazes():
    """experiment-pointmaze/examples/pointmaze/run_dt_maze.py and dt_policy_trainer.py."""
    entry, suite = model_entry("gpt2_dtma"), load_suite("d4rl-long")
    file, paper = entry.defaults.with_name("pointmaze.yaml"), load_preset("paper")
    task = suite.task("pointmaze-dtma-large")
    config = compose(entry.settings, preset=paper, suite=suite, task=task, file=file)
    windows, batch, epochs, every = 1000 * 300, 256, 40, 20
    iterations = -(-windows * 4 // 5 // batch)
    gate_steps = -(-iterations // every)
    assert config.training.steps == epochs * (iterations + gate_steps)
    assert (config.training.batch_size, config.model.gate_every) == (batch, every + 1)
    assert (config.optimizer.learning_rate, config.optimizer.warmup_steps) == (6e-3, 10_000)
    assert (config.model.gate_data, config.model.head, config.model.tanh) == ("held_out", "linear", False)


def test_later_layers_win(tmp_path):
    assert build(preset="paper").training.steps == 100_000
    preset_steps = load_preset("quick")["models"]["gpt2_dtma"]["training"]["steps"]
    assert build().training.steps == preset_steps
    file = tmp_path / "mine.yaml"
    file.write_text("training: {steps: 7}\n")
    assert build(file=file).training.steps == 7
    assert build("training.steps=9", file=file).training.steps == 9


def test_seedlike_zero_and_false_are_values(tmp_path):
    """`if value:` instead of `if value is not None:` would lose them."""
    config = build("data.normalize_states=False", "optimizer.gradient_clip=0", "optimizer.warmup_steps=0")
    assert config.data.normalize_states is False
    assert config.optimizer.gradient_clip == 0
    assert config.optimizer.warmup_steps == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepz=3", "did you mean 'steps'"),
        ("trainig.steps=3", "did you mean 'training'"),
        ("model.widht=3", "did you mean 'width'"),
        ("training.steps=abc", "could not be converted to Integer"),
        ("training.steps=-1", "must be positive"),
        ("optimizer.warmup_steps=-1", "must not be negative"),
        ("optimizer.decay=steps", "must be one of none, linear, cosine"),
        ("training.steps", "section.key=value"),
        ("training=3", "not a subclass"),
        ("training=[1]", "training"),
        ("model=null", "model must hold the model's settings"),
        ("training.steps=${nowhere}", "nowhere"),
        ("optimizer.betas=[0.9]", "betas"),
    ],
)
def test_mistakes_get_one_sentence(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "override", "message"),
    [
        ("dt", "model.dropout=2.0", r"model.dropout must lie in \[0, 1\), not 2.0."),
        ("dt", "model.dropout=nan", r"model.dropout must lie in \[0, 1\), not nan."),
        ("dt", "model.width=0", "model.width must be positive, not 0."),
        ("dt", "model.layers=-1", "model.layers must be positive, not -1."),
        ("dt", "model.heads=0", "model.heads must be positive, not 0."),
        ("dt", "model.heads=3", "model.width must be a multiple of model.heads=3, not 128."),
        ("dt", "model.activation=relo", "model.activation must be one of relu, gelu, gelu_new, not 'relo'."),
        ("dc", "model.width=0", "model.width must be positive, not 0."),
        ("dc", "model.window=0", "model.window must be positive, not 0."),
        ("ds4", "model.states=3", "model.states must be positive and even, not 3."),
        ("dmamba", "model.expand=0", "model.expand must be positive, not 0."),
        ("dlstm", "model.memory=long", "model.memory must be one of episode, window, not 'long'."),
        ("dlstm", "model.heads=2", "model.heads must be 1, because recurrent mixers have no heads, not 2."),
        ("gpt2_dt", "model.embedding=cnn", "model.embedding must be one of linear, mlp, not 'cnn'."),
        ("gpt2_dt", "model.head=cnn", "model.head must be one of linear, mlp, not 'cnn'."),
        ("gpt2_dt", "model.reinit_heads=[0,-1]", "model.reinit_heads must be .*"),
        ("gpt2_dt", "model.language_weight=-1", "model.language_weight must not be negative, not -1.0."),
        ("gpt2_dt", "model.language_weight=inf", "model.language_weight must be a finite number, not inf."),
        ("gpt2_dt", "model.text_batch=0", "model.text_batch must be positive, not 0."),
        ("gpt2_dt", "model.text_context=1", "model.text_context must be at least 2, not 1."),
        ("gpt2_dt", "model.alignment=l2", "model.alignment must be one of cosine, reference, none, not 'l2'."),
        ("gpt2_dt", "model.alignment_weight=-0.1", "model.alignment_weight must not be negative, not -0.1."),
        ("gpt2_dt", "model.alignment_centres=0", "model.alignment_centres must be positive, not 0."),
        ("lamo", "model.trained=none", "model.trained must be one of lora, full, frozen, not 'none'."),
        ("lamo", "model.lora_rank=0", "model.lora_rank must be positive, not 0."),
        ("lamo", "model.lora_alpha=0", "model.lora_alpha must be positive, not 0."),
        ("lamo", "model.lora_dropout=1", r"model.lora_dropout must lie in \[0, 1\), not 1.0."),
        ("gpt2_dtma", "model.gate_every=1", "model.gate_every must be 0 or at least 2, not 1."),
        ("gpt2_dtma", "model.gate_every=-2", "model.gate_every must be 0 or at least 2, not -2."),
        ("gpt2_dtma", "model.gate_data=other", "model.gate_data must be one of same, held_out, not 'other'."),
        ("gpt2_dtma", "model.held_out_share=1", r"model.held_out_share must lie in \(0, 1\), not 1.0."),
        ("cql", "model.discount=1", r"model.discount must lie in \[0, 1\), not 1.0."),
        ("cql", "model.target_rate=0", r"model.target_rate must lie in \(0, 1\], not 0.0."),
        ("cql", "model.temperature=0", "model.temperature must be positive, not 0.0."),
        ("cql", "model.sampled_actions=0", "model.sampled_actions must be positive, not 0."),
        ("cql", "model.clip_difference_min=nan", "model.clip_difference_min must be a finite number, not nan."),
        ("bc", "model.top_fraction=0", r"model.top_fraction must lie in \(0, 1\], not 0.0."),
        ("bc", "model.layers=0", "model.layers must be positive, not 0."),
        ("bc", "optimizer.learning_rate=0", "optimizer.learning_rate must be positive, not 0.0."),
        ("bc", "optimizer.learning_rate=nan", "optimizer.learning_rate must be a finite number, not nan."),
        ("bc", "optimizer.weight_decay=-inf", "optimizer.weight_decay must be a finite number, not -inf."),
        ("bc", "optimizer.gradient_clip=inf", "optimizer.gradient_clip must be a finite number, not inf."),
        ("bc", "optimizer.eps=0", "optimizer.eps must be positive, not 0.0."),
        ("bc", "optimizer.betas=[0.9,1.0]", r"optimizer.betas must be two numbers in \[0, 1\), not \[0.9, 1.0\]."),
        ("bc", "optimizer.betas=[nan,0.9]", r"optimizer.betas\[0\] must be a finite number, not nan."),
        ("bc", "training.context_length=0", "training.context_length must be positive, not 0."),
        ("bc", "evaluation.episodes=0", "evaluation.episodes must be positive, not 0."),
        ("bc", "evaluation.every=-1", "evaluation.every must not be negative, not -1."),
        ("bc", "hardware.num_nodes=0", "hardware.num_nodes must be positive, not 0."),
        ("bc", "hardware.precision=13", "hardware.precision must be one of .*, not '13'."),
        ("bc", "hardware.accelerator=quantum", "hardware.accelerator must be one of .*, not 'quantum'."),
    ],
)
def test_impossible_values_are_refused_by_name(model, override, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        build(override, model=model)


def test_a_stored_configuration_is_checked_too():
    content = build(model="dt").to_dict()
    content["model"]["dropout"] = 2.0
    with pytest.raises(ConfigError, match=r"model\.dropout must lie in"):
        from_dict(content, model_entry("dt").settings.config)


def test_every_float_of_a_model_from_outside_must_be_finite():
    @dataclass
    class Nested:
        rates: list[float] = field(default_factory=lambda: [0.1])

    with pytest.raises(ConfigError, match=r"model\.rates\[1\] must be a finite number, not nan"):
        from_dict({"model": {"rates": [1.0, float("nan")]}}, Nested)


def test_a_dataclass_that_cannot_type_the_section_is_named():
    @dataclass
    class Odd:
        table: object = object()

    with pytest.raises(ConfigError, match="Odd cannot type the section `model`"):
        from_dict({}, Odd)


def test_hash_sees_what_decides_a_result_and_nothing_else():
    plain = build().hash()
    assert build("hardware.devices=2", "training.log_every=3", "training.checkpoint_every=4").hash() == plain
    decisive = ("training.steps=9", "optimizer.learning_rate=0.5", "model.width=64", "evaluation.episodes=3")
    for override in (*decisive, "hardware.precision=16-mixed", "hardware.precision=bf16-true"):
        assert build(override).hash() != plain


def test_automatic_precision_is_decided_when_the_configuration_is_composed(monkeypatch):
    """What a run was computed with is part of its identity; `auto` alone says nothing."""
    found = {}
    for chosen in ("32-true", "bf16-mixed"):
        monkeypatch.setattr("dtbench.config.fast_precision", lambda gpu, chosen=chosen: chosen)
        automatic = build("hardware.precision=auto")
        assert automatic.hardware.precision == chosen
        assert automatic.hash() == build(f"hardware.precision={chosen}").hash()
        found[chosen] = automatic.hash()
    assert found["32-true"] != found["bf16-mixed"]
    assert build("hardware.precision=bf16").hash() == found["bf16-mixed"]  # Lightning's short name


def test_unknown_names_suggest_the_right_one():
    for kind, wrong, right in (("model", "gpt2_dmta", "gpt2_dtma"), ("preset", "quik", "quick")):
        with pytest.raises(UnknownNameError, match=f"did you mean '{right}'"):
            model_entry(wrong) if kind == "model" else load_preset(wrong)
    with pytest.raises(UnknownNameError, match="did you mean 'd4rl-short'"):
        load_suite("d4rl-shrot")
    with pytest.raises(UnknownNameError, match="did you mean 'hopper-medium'"):
        load_suite("d4rl-short").task("hoper-medium")


def test_missing_and_broken_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no file"):
        build(file=tmp_path / "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("training: [unclosed\n")
    with pytest.raises(ConfigError, match="not readable YAML"):
        build(file=broken)


RESULTS = Path(__file__).parents[1] / "leaderboards" / "results"


@pytest.mark.skipif(not RESULTS.is_dir(), reason="no results are committed, or they are not in this copy")
def test_hashes_of_committed_results_still_hold():
    """Results are found again by their hash: a changed default would orphan them."""
    for path in sorted(RESULTS.glob("*/*/*/*/*/seed-0.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if not record["model"]["is_preset_config"]:
            continue
        model, suite = model_entry(record["model"]["name"]), load_suite(record["suite"]["name"])
        task = suite.task(record["task"]["id"])
        precision = record["model"]["config"]["hardware"]["precision"]  # with `auto`, this machine's may be another one
        config = compose(
            model.settings,
            preset=load_preset(record["preset"]),
            suite=suite,
            task=task,
            overrides=[f"hardware.precision={precision}"],
        )
        assert config.hash() == record["model"]["config_hash"], path
