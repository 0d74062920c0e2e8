"""The small search that chose the presets `quick` and `learn`: the same number of trials for every model.

    python benchmarks/budgets.py measure [MODEL ...]     how long a step takes here, on one idle thread
    python benchmarks/budgets.py search [MODEL ...]      run the trials; an interrupted search continues
    python benchmarks/budgets.py table                   write budgets.md

A trial is a batch size, a learning rate and, for sequence models, the initial weights; it trains for as many steps as
fit into `SECONDS`. Its figure is the mean normalised score over two tasks. All trials are made with the first seed, the
better half of them again with the second; the best of that half over both seeds is taken. Neither seed is published.
Runs lie under `--output` (default `budget-runs`), what the table needs in `budgets.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dtbench
from dtbench import atomic
from dtbench.locks import lock

TASKS = {"d4rl-short": "hopper-medium", "d4rl-long": "pointmaze-dtma-medium"}
SEEDS = (100, 101)
#: Training time of a trial on one idle thread.
SECONDS = 40.0
MEASURED_STEPS = 150
HERE = Path(__file__).parent
#: A model's scores: trial → {"steps": n, task: {seed: score × 100, or None if the run failed}}.
Scores = Mapping[str, Mapping[str, Any]]
RECORD, TABLE = HERE / "budgets.json", HERE / "budgets.md"


#: The models whose trials were made later, on another processor.
LATER = ("ds4", "dmamba", "dlstm", "edt", "reinformer", "tt", "q_transformer")
PROCESSOR = (
    f"The trials of {', '.join(f'`{name}`' for name in LATER)} ran in float32, on a processor without bfloat16 units;",
    "those of the others in bfloat16. There the physics of hopper-medium round differently, so that its data differ",
    "from those of the others; the steps per second were measured on one processor for all.",
)
DECAY = (
    "`quick` has 1.4 times the chosen steps, and `learn` eight times those of `quick`. In both, every rate falls",
    "linearly to 0 after its warm-up (`optimizer.decay: linear`), which the trials did not have. It was tried with",
    "`gpt2_dtma` alone, with the settings of `quick` and seeds 100 and 101. There it scored 34.5 and 46.7 (with a",
    "constant rate 29.9 and 45.0) on hopper-medium, 56.5 and 42.0 (26.8 and 18.9) on walker2d-medium, 60.8 and 36.8",
    "(19.8 and 52.7) on pointmaze-dtma-medium; the training loss was lower in all six pairs.",
)


@dataclass(frozen=True)
class Trial:
    """One choice; `init` is None for models without that option."""

    batch_size: int
    learning_rate: float
    init: str | None = None

    @property
    def name(self) -> str:
        parts = [f"batch {self.batch_size}", f"rate {self.learning_rate:g}"]
        return ", ".join([*parts, f"{self.init} initial weights"] if self.init else parts)

    def overrides(self, model: str, steps: int) -> list[str]:
        chosen = [
            f"training.batch_size={self.batch_size}",
            f"training.steps={steps}",
            f"optimizer.learning_rate={self.learning_rate}",
            f"optimizer.warmup_steps={0 if model == 'cql' else steps // 10}",
            "optimizer.decay=none",  # whatever the preset chose since
        ]
        if model == "gpt2_dt":
            chosen.append("model.alignment_steps=15")
        if model == "cql":
            chosen.append(f"model.policy_learning_rate={self.learning_rate}")
        return [*chosen, f"model.init={self.init}"] if self.init else chosen


SEQUENCE_TRIALS = (
    Trial(64, 1e-3, "published"),
    Trial(64, 1e-3, "small"),
    Trial(32, 3e-3, "small"),
    Trial(32, 1e-3, "small"),
    Trial(16, 1e-3, "small"),
    Trial(16, 3e-4, "small"),
)
#: Of sequence models that have one kind of initial weights.
PUBLISHED_TRIALS = tuple(Trial(batch, rate) for batch in (64, 32, 16) for rate in (3e-4, 1e-3))
CQL_TRIALS = tuple(Trial(batch, rate) for batch in (256, 64, 32) for rate in (3e-4, 1e-3))
CLONING_TRIALS = tuple(Trial(batch, rate) for batch in (256, 64) for rate in (3e-4, 1e-3, 3e-3))
TRIALS = {
    **dict.fromkeys(("dt", "gpt2_dt", "lamo", "gpt2_dtma", "dc"), SEQUENCE_TRIALS),
    **dict.fromkeys(("ds4", "dmamba", "dlstm", "edt", "reinformer"), SEQUENCE_TRIALS),
    **dict.fromkeys(("tt", "q_transformer"), PUBLISHED_TRIALS),
    "cql": CQL_TRIALS,
    **dict.fromkeys(("bc", "bc10"), CLONING_TRIALS),
}


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "search", "table"))
    parser.add_argument("models", nargs="*")
    parser.add_argument("--output", type=Path, default=Path("budget-runs"))
    parser.add_argument("--jobs", type=int, default=None)
    options = parser.parse_intermixed_args()
    models = options.models or list(TRIALS)
    if options.what == "measure":
        measure(models, options.output / "measure")
    elif options.what == "search":
        search(models, options.output / "search", options.jobs)
    else:
        atomic.write_text(TABLE, table(read()))


def read() -> dict[str, Any]:
    """Return what was measured so far: `steps_per_s` by model and batch size, `scores` by model and trial."""
    empty: dict[str, Any] = {"steps_per_s": {}, "scores": {}}
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else empty


def keep(kind: str, model: str, key: str, value: Any) -> None:
    """Add a figure to the record; another search may do so at the same time."""
    with lock(RECORD):
        content = read()
        content[kind].setdefault(model, {})[key] = value
        atomic.write_text(RECORD, json.dumps(content, indent=1, sort_keys=True) + "\n")


def measure(models: Iterable[str], output: Path) -> None:
    """Train a few steps of each model with each batch size, one at a time, and keep the steps per second."""
    for model in models:
        for batch_size in sorted({trial.batch_size for trial in TRIALS[model]}):
            overrides = [f"training.batch_size={batch_size}", f"training.steps={MEASURED_STEPS}"]
            options = {"tasks": ["hopper-medium"], "seeds": SEEDS[:1], "preset": "quick", "existing": "rerun"}
            done = dtbench.run(
                "d4rl-short",
                [model],
                output=output,
                jobs=1,
                overrides=[*overrides, "training.checkpoint_every=50", "evaluation.episodes=1"],
                **options,
            )
            training = done.results[0].training
            if training is not None:
                keep("steps_per_s", model, str(batch_size), training.steps_per_s)


def steps_of(model: str, trial: Trial) -> int:
    """Return how many steps fit into the budget, rounded down to two digits."""
    steps = SECONDS * float(read()["steps_per_s"][model][str(trial.batch_size)])
    unit = 10 ** max(0, math.floor(math.log10(steps)) - 1)
    return int(steps // unit * unit)


def search(models: Iterable[str], output: Path, jobs: int | None) -> None:
    """Run the trials of the models, and keep the scores.

    All of them are run with the first seed, the better half with the second.
    """
    first, second = SEEDS
    for model in models:
        for trial in TRIALS[model]:
            run(model, trial, first, output, jobs)
        half = better_half(read()["scores"][model])
        for trial in TRIALS[model]:
            if trial.name in half:
                run(model, trial, second, output, jobs)


def run(model: str, trial: Trial, seed: int, output: Path, jobs: int | None) -> None:
    """Run a trial with one seed on both tasks, and keep the scores."""
    steps = steps_of(model, trial)
    kept = read()["scores"].get(model, {}).get(trial.name, {})
    for suite, task in TASKS.items():
        done = dtbench.run(
            suite,
            [model],
            tasks=[task],
            seeds=[seed],
            preset="quick",
            output=output,
            jobs=jobs,
            overrides=trial.overrides(model, steps),
        )
        result = done.results[0]
        score = None if result.scores is None else round(100 * result.score, 2)
        kept = {**kept, task: {**kept.get(task, {}), str(seed): score}}
    keep("scores", model, trial.name, {**kept, "steps": steps})


def better_half(trials: Scores) -> list[str]:
    """Return the names of the better half of the trials by what they gave with the first seed."""
    ranked = sorted(trials, key=lambda name: -figure(trials[name], SEEDS[:1]))
    return ranked[: len(ranked) // 2]


def figure(scores: Mapping[str, Any], seeds: Sequence[int]) -> float:
    """Return a trial's mean score over these seeds, both tasks weighing equally; −∞ if one of its runs failed."""
    found = [scores[task][str(seed)] for task in TASKS.values() for seed in seeds]
    return -math.inf if None in found else statistics.fmean(found)


def table(content: dict[str, Any]) -> str:
    """Write what was tried and what it gave, model by model, the best in bold."""
    tasks = list(TASKS.values())
    lines = [
        "# What was tried for the presets `quick` and `learn`",
        "",
        f"Written by `python benchmarks/budgets.py table`. Each model had {len(SEQUENCE_TRIALS)} trials of as many "
        f"steps as fit into {SECONDS:.0f} s on one idle thread.",
        f"Scores × 100 on {tasks[0]} and {tasks[1]}, with seed {SEEDS[0]}, and for the better half of the trials with "
        f"seed {SEEDS[1]}.",
        "The last column is the mean over tasks and seeds; the best of those with both seeds is bold, and was taken.",
        "",
        *DECAY,
        "",
        *PROCESSOR,
        "",
        "Two seeds of ten episodes say little: the choice guards against settings that fail; it is no finding.",
    ]
    for model in TRIALS:
        if model in content["scores"]:
            lines += ["", f"## {model}", "", *_rows(content["scores"][model], tasks)]
    return "\n".join(lines) + "\n"


def _rows(trials: Scores, tasks: Sequence[str]) -> list[str]:
    rows = [f"| trial | steps | {' | '.join(tasks)} | mean |", "|---|---:|---:|---:|---:|"]
    best = max(better_half(trials), key=lambda name: figure(trials[name], SEEDS))
    for name, scores in trials.items():
        seeds = [seed for seed in SEEDS if str(seed) in scores[tasks[0]]]
        cells = [", ".join(_cell(scores[task][str(seed)]) for seed in seeds) for task in tasks]
        mean = f"**{figure(scores, seeds):.1f}**" if name == best else f"{figure(scores, seeds):.1f}"
        rows.append(f"| {name} | {scores['steps']:,} | {' | '.join(cells)} | {mean} |")
    return rows


def _cell(score: float | None) -> str:
    return "failed" if score is None else f"{score:.1f}"


if __name__ == "__main__":
    main()
