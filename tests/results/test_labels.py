"""The names of rows: what was changed, told from the record, the preset, or the preset's row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dtbench.config import compose, load_preset
from dtbench.registry import model_entry
from dtbench.results import changes, stats
from dtbench.results.compare import compare
from dtbench.results.files import scan
from dtbench.results.labels import row_names
from dtbench.results.pages import models_table
from dtbench.results.schema import Result
from dtbench.results.sections import sections
from dtbench.suites.suites import load_suite
from tests.results import samples


def labels(*results: Result) -> list[str]:
    return [name.label for name in row_names(results)]


def composed(model: str, *overrides: str, task: str = "hopper-medium") -> dict:
    suite = load_suite("d4rl-short")
    options = {"preset": load_preset("quick"), "suite": suite, "task": suite.task(task), "overrides": overrides}
    return compose(model_entry(model).settings, **options).to_dict()


def test_recorded_changes_name_a_row_in_every_task():
    one = samples.changed("backbone=scratch", "tanh=true", model="lamo", config_hash="a")
    other = samples.changed("backbone=scratch", "tanh=true", model="lamo", task="walker2d-medium", config_hash="b")
    assert labels(samples.result("lamo"), one, other) == ["lamo", *["lamo backbone=scratch tanh=true"] * 2]


def test_early_results_are_compared_with_the_presets_configuration():
    """They recorded no changes; the preset's own row need not be in the folder."""
    config = composed("lamo", "model.backbone=scratch", "training.steps=7", "optimizer.betas=[0.5,0.9]")
    result = samples.changed(model="lamo", model_config=config)
    assert labels(result) == ["lamo backbone=scratch optimizer.betas=[0.5,0.9] training.steps=7"]


def test_settings_that_the_preset_does_not_know_any_more_are_not_changes():
    config = composed("lamo", "model.backbone=scratch")
    config["model"]["an_old_setting"] = 3
    assert labels(samples.changed(model="lamo", model_config=config)) == ["lamo backbone=scratch"]


def test_a_model_from_outside_is_compared_with_the_presets_row():
    own = samples.result("my:Model", model_config={"model": {"rate": 1, "on": True}})
    changed = samples.changed(model="my:Model", model_config={"model": {"rate": 2, "on": False}})
    assert labels(own, changed) == ["my:Model", "my:Model rate=2 on=false"]
    assert labels(changed) == ["my:Model+xyz"]


def test_a_name_in_a_result_loads_no_code_and_no_file(monkeypatch, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('loaded')")
    monkeypatch.chdir(tmp_path)
    suite = tmp_path / "own.yaml"
    suite.write_text("not a suite")
    assert labels(samples.changed(model="evil:Model")) == ["evil:Model+xyz"]
    strange = samples.changed(model="dt", suite=samples.SuiteRecord(str(suite), 1), preset="../presets/quick")
    assert labels(strange) == ["dt+xyz"]
    (section,) = sections([strange])
    assert section.tasks == ["hopper-medium"]


def test_a_configuration_of_another_form_is_no_traceback():
    for config in ({"model": 5}, {"model": {"x": {"y": [1]}}}, {"data": None, "training": []}):
        assert labels(samples.changed(model="dt", model_config=config)) == ["dt+xyz"]


def test_many_or_long_changes_are_counted():
    four = [f"key{n}={n}" for n in range(4)]
    (label,) = labels(samples.changed(*four))
    assert label.startswith("dt 4 changes ")
    assert len(label) == len("dt 4 changes 123456")
    assert labels(samples.changed(*four, config_hash="other", task="walker2d-medium")) == [label]
    assert labels(samples.changed(*four[:3], "key3=4")) != [label]
    (long,) = labels(samples.changed(f"text={'x' * 500}"))
    assert long.startswith("dt 1 change ")
    (section,) = sections([samples.changed(*four)])
    assert section.rows[0].changes == tuple(four)


def test_one_name_never_covers_two_configurations_of_a_task():
    """The preset itself may have changed between two versions of dtbench."""
    old, new = samples.result(model_config_hash="old"), samples.result(seed=1, model_config_hash="new")
    assert labels(old, new, samples.result("lamo")) == ["dt+old", "dt+new", "lamo"]
    changed = [samples.changed("layers=2", config_hash=digits, seed=n) for n, digits in enumerate(("a", "b"))]
    assert labels(*changed) == ["dt+a", "dt+b"]
    assert labels(*changed[:1]) == ["dt layers=2"]


def test_a_precision_is_named_only_where_rows_would_share_a_name():
    """Whether a precision was asked for or is the machine's own, the page's column shows it."""
    asked = samples.changed("hardware.precision=32-true", config_hash="float32")
    variant = samples.changed("gate=false", "hardware.precision=32-true", config_hash="ungated")
    assert labels(asked, variant) == ["dt", "dt gate=false"]
    own = samples.result(seed=1, model_config_hash="float32")
    assert labels(asked, own) == ["dt", "dt"]  # of a machine whose `auto` is float32
    in_bfloat16 = replace(own.measured.training, precision="bf16-mixed")
    for task in ("hopper-medium", "walker2d-medium"):
        other = samples.result(task=task, model_config_hash="bfloat16", training=in_bfloat16)
        assert labels(asked, variant, other) == ["dt hardware.precision=32-true", "dt gate=false", "dt"]
    (section,) = sections([asked])
    assert "changed by the user: `hardware.precision=32-true`" in "\n".join(models_table(section))


def test_values_are_written_as_set_takes_them():
    before = {"model": {"on": True, "none": 1, "text": "a", "pair": [1], "rate": 1.0}}
    after = {"model": {"on": False, "none": None, "text": "b c", "pair": [1, 2], "rate": 1e-05}}
    expected = ["on=false", "none=null", 'text="b c"', "pair=[1,2]", "rate=1e-05"]
    assert changes.changes_between(before, after) == expected


#: What the preset `quick` was when the recorded results were made.
OLD_QUICK = {
    "config": {
        "data": {"steps": 100_000},
        "training": {"steps": 300, "checkpoint_every": 50, "log_every": 10},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 50},
        "evaluation": {"episodes": 10, "all_targets": False},
    },
    "models": {
        name: {"model": {"backbone": "bundled", "layers": 4, "heads": 4, "width": 128, **more}}
        for name, more in {"gpt2_dt": {}, "lamo": {"language_weight": 0.0}, "gpt2_dtma": {}}.items()
    },
}


def test_recorded_results_are_named_by_their_changes_where_their_suite_is_still_known(monkeypatch):
    """Those of the first schema do not hold their changes; d4rl-long@1 is no more."""
    monkeypatch.setattr(changes, "load_preset", lambda name: OLD_QUICK)
    found = sections(scan(samples.RECORDED)[0])
    labels = {section.suite: [row.label for row in section.rows] for section in found}
    assert not [label for label in labels["d4rl-short@1"] if "+" in label]
    assert "lamo backbone=scratch" in labels["d4rl-short@1"]
    assert "gpt2_dt+55e8527f28ad" in labels["d4rl-long@1"]


def test_a_changed_row_is_compared_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(stats.probability_of_improvement, "__defaults__", (50,))
    for seed in (0, 1):
        samples.save(tmp_path, samples.result("lamo", seed=seed, score=0.4))
        samples.save(tmp_path, samples.changed("backbone=scratch", model="lamo", seed=seed, score=0.5))
    (comparison,) = compare(tmp_path, "lamo backbone=scratch", "lamo")
    assert comparison.tasks[0].difference == pytest.approx(0.1)
