"""A small set of results with everything that a site must cope with, and its site."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dtbench.results.schema import Result
from dtbench.results.site.dataset_page import Datasets, Facts
from tests.results import samples

#: Tries to end a script element and to open an attribute; a name from elsewhere may hold anything.
NASTY = 'note=</script><img src=x onerror="alert(1)">'
TASKS = ("hopper-medium", "walker2d-medium")
BOARDS = """
boards:
  - file: two.md
    title: Two tasks only
    suite: d4rl-short
    preset: quick
    tasks: [hopper-medium, walker2d-medium]
    models: [gpt2_dtma, gpt2_dtma gate=false, dt]
  - file: gate.md
    kind: factorial
    title: The gate
    suite: d4rl-short
    preset: quick
    factors: {gate: ["no", "yes"]}
    cells:
      - {model: gpt2_dtma, gate: "yes"}
      - {model: gpt2_dtma gate=false, gate: "no"}
    tasks: [hopper-medium, walker2d-medium]
  - file: ways.md
    kind: protocols
    suite: d4rl-short
    preset: learn
    tasks: [hopper-medium]
"""
FINGERPRINT = "f" * 64
FACTS = {
    "environment": "Hopper-v5",
    "episodes": 3,
    "steps": 60,
    "returns": {"mean": 2.0, "std": 1.0, "median": 2.0},
    "lengths": {"mean": 20.0, "std": 0.0, "median": 20.0},
    "recipe": {"level": "medium", "packages": {"gymnasium": "1.2"}},
}


def records() -> list[Result]:
    """Return two complete rows, an incomplete one, a foreign one, a failed run, and a preset with learning curves."""
    made = []
    for seed in range(3):
        made += [samples.result("dt", task, seed, 0.30 + 0.03 * seed) for task in TASKS]
        made += [samples.result("gpt2_dtma", task, seed, 0.60 + 0.03 * seed) for task in TASKS]
        made += [
            samples.changed("gate=false", model="gpt2_dtma", task=task, seed=seed, score=0.31 + 0.03 * seed)
            for task in TASKS
        ]
    made.append(samples.result("lamo", TASKS[0], 0, 0.5, model_config={"model": {"backbone": "bundled"}}))
    made.append(samples.result("their.package:Linear", TASKS[0], 0, 0.2))
    made.append(samples.changed(NASTY, model="dt", task=TASKS[0], config_hash="ha5h"))
    made.append(samples.failed("cql", "loss is <b>NaN</b>"))
    for seed in range(2):
        one = samples.result("dt", TASKS[0], seed, 0.4, preset="learn")
        assert one.scores is not None
        made.append(replace(one, scores=replace(one.scores, during_training=[(100, 0.1 + seed / 10), (200, 0.3)])))
    return made


def save(root: Path) -> Path:
    """Write the results, and one file that is none."""
    for record in records():
        samples.save(root, record)
    samples.save_raw(root, {"schema_version": 2}, samples.result("dc"))
    return root


def datasets(_: object = None) -> Datasets:
    """Say of one dataset that it is on this machine."""
    return Datasets({FINGERPRINT: Facts(FACTS, [1, 0, 2], [0.0, 1.0, 2.0, 3.0])}, {"local": "made here"})
