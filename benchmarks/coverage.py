"""Measure how often the intervals of the leaderboards hold the true value; write coverage.md and coverage.json.

    python benchmarks/coverage.py                          # the committed tables, about twenty minutes on one core
    python benchmarks/coverage.py --datasets 100 --out .   # a rough look

Scores are simulated for n seeds on m tasks, intervals are made of each matrix as `dtbench/results/stats.py` makes them,
and those that hold the true value are counted. The true value is the population's: what the measure tends to as the
number of seeds grows. rliable draws one resample after another, too slow for so many intervals; here all resamples
of a matrix are drawn at once (`tests/results/test_coverage.py` compares the two).

Score shapes, each with mean 0 and standard deviation 1 before it is scaled:

- normal;
- skewed: exponential, a few seeds far above the others;
- two-peaked: three of ten seeds fail, and form a peak 2 standard deviations below the others.

Tasks are alike (one distribution of scores), or differ in level by up to six of the seeds' standard deviations, as the
tasks of a suite do. All tasks of a simulation are equally noisy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from dtbench.results import stats

SEEDS, TASKS = (3, 4, 5, 7, 10), (1, 2, 3, 6, 9)
#: Numbers of tasks on which two models are compared.
PAIR_TASKS = (1, 3, 9)
#: Of a task's scores over seeds, on the 0–1 scale. Some scores of the better tasks are above 1.
CENTRE, SPREAD = 0.6, 0.15
#: The distance of the lowest and the highest task where tasks differ, in the seeds' standard deviations.
LEVELS = 6.0
#: By how much the better one of two models is better, in the seeds' standard deviations.
SHIFT = 1.0
POPULATION = 200_000

Array = NDArray[np.float64]


def _two_peaked(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Return draws from 0.3 · N(−1.4, 0.4²) + 0.7 · N(0.6, 0.4²), which has mean 0 and variance 1."""
    return np.where(rng.random(size) < 0.3, -1.4, 0.6) + 0.4 * rng.standard_normal(size)


SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "skewed": lambda rng, size: rng.exponential(size=size) - 1,
    "two-peaked": _two_peaked,
}
MEASURES: dict[str, Callable[[Array], Array]] = {
    **stats.AGGREGATES,
    "profile": lambda scores: (scores > CENTRE).mean((-2, -1)),
}
#: `stretched` is what `stats.py` does; the others are measured for comparison.
CONSTRUCTIONS = ("percentile", "further quantiles", "stretched")


@dataclass(frozen=True)
class Case:
    """A kind of simulated results: `seeds` runs on each of `tasks` tasks, with scores of one shape."""

    seeds: int
    tasks: int
    shape: str
    differ: bool = False

    def sample(self, rng: np.random.Generator, seeds: int | None = None) -> Array:
        """Return (seeds, tasks) scores."""
        levels = LEVELS * np.linspace(-0.5, 0.5, self.tasks) if self.differ else np.zeros(self.tasks)
        return CENTRE + SPREAD * (levels + SHAPES[self.shape](rng, (seeds or self.seeds, self.tasks)))

    def generator(self, seed: int) -> np.random.Generator:
        """Return this case's own random numbers."""
        return np.random.default_rng([seed, self.seeds, self.tasks, list(SHAPES).index(self.shape), self.differ])


def resamples(scores: Array, repetitions: int, rng: np.random.Generator) -> Array:
    """Return (repetitions, seeds, tasks): runs drawn anew within each task, as rliable draws them."""
    seeds, tasks = scores.shape
    return scores[rng.integers(seeds, size=(repetitions, seeds, tasks)), np.arange(tasks)]


def intervals(values: Array, points: Array, seeds: int, tasks: int) -> Array:
    """Return (constructions, 2, measures) from the measures' values (measures, repetitions) on the resamples."""
    tail = scipy.stats.norm.cdf(-stats.expansion(seeds, tasks) * scipy.stats.norm.ppf(0.975))
    ends = np.quantile(values, [0.025, 0.975, tail, 1 - tail], axis=-1)
    return np.stack([ends[:2], ends[2:], stats.expanded(points, ends[:2], seeds, tasks)])


def _all_measures(scores: Array) -> Array:
    return np.array([measure(scores) for measure in MEASURES.values()])


def coverage(case: Case, datasets: int, repetitions: int, seed: int = 0) -> Array:
    """Return (constructions, measures): the shares of intervals that hold the true value."""
    rng = case.generator(seed)
    truth = _all_measures(case.sample(rng, POPULATION))
    hits = np.zeros((len(CONSTRUCTIONS), len(MEASURES)))
    for _ in range(datasets):
        scores = case.sample(rng)
        values = _all_measures(resamples(scores, repetitions, rng))
        found = intervals(values, _all_measures(scores), case.seeds, case.tasks)
        hits += (found[:, 0] <= truth) & (truth <= found[:, 1])
    return hits / datasets


@dataclass(frozen=True)
class PairOutcome:
    """What is found for two models, as shares of all simulated pairs.

    Attributes:
        covered: pairs whose interval of the probability of improvement holds the true value, among those with one.
        missing: pairs without an interval, because all resamples agree.
        excludes_half: pairs whose interval excludes one half.
        separable: pairs with a permutation p below 0.05.
    """

    covered: float
    missing: float
    excludes_half: float
    separable: float


def pairs(case: Case, shift: float, datasets: int, repetitions: int, seed: int = 0) -> PairOutcome:
    """Compare two models, the first better by `shift` standard deviations on each task."""
    rng = case.generator(seed)
    seeds, tasks = case.seeds, case.tasks
    ahead = shift * SPREAD
    truth = 0.5 if shift == 0 else float((case.sample(rng, POPULATION) + ahead > case.sample(rng, POPULATION)).mean())
    covered = given = excluding = separable = 0
    for _ in range(datasets):
        a, b = case.sample(rng) + ahead, case.sample(rng)
        separable += stats.permutation_test(a, b, repetitions=repetitions).is_separable
        wins = (a[:, None] > b[None]).astype(np.float64)
        if wins.min() == wins.max():
            continue
        # How often each run is in a resample, as a share of the resample's runs: (2, repetitions, tasks, seeds).
        drawn = rng.integers(seeds, size=(2, repetitions, tasks, seeds), dtype=np.uint8)
        weights = np.stack([(drawn == run).mean(-1) for run in range(seeds)], axis=-1)
        values = np.einsum("rti,ijt,rtj->r", weights[0], wins, weights[1], optimize=True) / tasks
        low, high = np.clip(intervals(values[None], wins.mean(keepdims=True).ravel(), seeds, tasks)[2, :, 0], 0, 1)
        given += 1
        covered += low <= truth <= high
        excluding += not low <= 0.5 <= high
    return PairOutcome(covered / max(given, 1), 1 - given / datasets, excluding / datasets, separable / datasets)


def arrangements(tasks: int) -> tuple[bool, ...]:
    """Return whether tasks differ in level; one task cannot."""
    return (False,) if tasks == 1 else (False, True)


def cases(seeds: int, tasks: int) -> Iterator[Case]:
    """Yield all kinds of simulated results of one size."""
    for differ in arrangements(tasks):
        for shape in SHAPES:
            yield Case(seeds, tasks, shape, differ)


Found = dict[Case, Array]
FoundPairs = dict[tuple[Case, float], PairOutcome]


def measure(datasets: int, pair_datasets: int, repetitions: int) -> tuple[Found, FoundPairs]:
    """Simulate all cases, and say on the standard error how far it is."""
    found: Found = {}
    found_pairs: FoundPairs = {}
    start = time.monotonic()
    for seeds in SEEDS:
        for tasks in TASKS:
            for case in cases(seeds, tasks):
                found[case] = coverage(case, datasets, repetitions)
                if not case.differ and tasks in PAIR_TASKS:
                    for shift in (0.0, SHIFT):
                        found_pairs[case, shift] = pairs(case, shift, pair_datasets, repetitions)
            print(f"{seeds} seeds, {tasks} tasks: {time.monotonic() - start:.0f} s", file=sys.stderr)  # noqa: T201
    return found, found_pairs


def lowest(found: Found, found_pairs: FoundPairs) -> dict[str, dict[str, dict[str, float]]]:
    """Return measure → seeds → tasks → the lowest coverage of the shipped intervals over shapes and arrangements."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name in MEASURES:
        for (seeds, tasks), shares in _by_size(found, "stretched", name).items():
            table.setdefault(name, {}).setdefault(str(seeds), {})[str(tasks)] = round(min(shares), 3)
    pairs_by_size: dict[tuple[int, int], list[float]] = {}
    for (case, _), pair in found_pairs.items():
        pairs_by_size.setdefault((case.seeds, case.tasks), []).append(pair.covered)
    by_seeds = table.setdefault("probability_of_improvement", {})
    for (seeds, tasks), shares in pairs_by_size.items():
        by_seeds.setdefault(str(seeds), {})[str(tasks)] = round(min(shares), 3)
    return table


def _by_size(found: Found, construction: str, name: str) -> dict[tuple[int, int], list[float]]:
    """Return (seeds, tasks) → shares of all cases of this size; a profile is measured where tasks are alike."""
    position = CONSTRUCTIONS.index(construction), list(MEASURES).index(name)
    shares: dict[tuple[int, int], list[float]] = {}
    for case, by_construction in found.items():
        if name != "profile" or not case.differ:
            shares.setdefault((case.seeds, case.tasks), []).append(float(by_construction[position]))
    return shares


def markdown(found: Found, found_pairs: FoundPairs, datasets: int, pair_datasets: int, repetitions: int) -> str:
    """Return the page coverage.md."""
    error = 100 * (0.95 * 0.05 / datasets) ** 0.5
    parts = [
        "# How often the intervals hold the true value",
        "Written by `python benchmarks/coverage.py`, whose first lines say what is simulated. An interval that is "
        f"called 95 % should hold the true value in 95 of 100 cases. Each share is of {datasets:,} simulated matrices "
        f"with {repetitions:,} resamples each (standard error {error:.1f} points at 95 %). A cell gives the lowest and "
        "the highest share in % over three score shapes (normal, skewed, two-peaked), with tasks that are alike and "
        "tasks that differ. **Leaderboards give the lowest share beside an interval where it is below 90 %**; between "
        "the sizes of this table, the next lower numbers of seeds and tasks count.",
        "## Intervals as they are shown",
    ]
    for name in MEASURES:
        parts += [f"### {name.replace('_', ' ')}", _table_of_ranges(found, "stretched", name)]
    parts += [
        "The profile is the share of runs above one score, here the tasks' common mean. Where all runs are on one side "
        "of it, the interval has no width and misses; with few runs on one task that is common.",
        "## Three constructions compared",
        "*Percentile*: rliable's interval as it is. *Further quantiles*: at Φ(−√(n/(n−1)) · t) instead of 2.5 % "
        "(Hesterberg, 2015). *Stretched*, which is shown above: the percentile interval, stretched about the estimate "
        "by √(n/(n−1)) · t / z. A bootstrap has no quantile beyond the lowest and the highest run, so that further "
        "quantiles gain little from three runs; from five seeds on, the two are alike.",
    ]
    for name in ("iqm", "mean"):
        for construction in CONSTRUCTIONS[:2]:
            parts += [f"### {name}, {construction}", _table_of_ranges(found, construction, name)]
    parts += [
        "## Two models: probability of improvement and permutation test",
        f"{pair_datasets:,} pairs of models per case, with scores of one shape on tasks that are alike. *Equal*: "
        f"neither is better; *better*: one is better by {SHIFT:g} standard deviation of the seeds on each task. "
        "*Covered*: intervals of P(A > B) that hold the true value, among those given. *None*: pairs without an "
        "interval, because one model won against the other in all pairs of runs. *≠ ½*: intervals that exclude one "
        "half. *p < 0.05*: by the permutation test of the mean. In %, lowest to highest over the three shapes "
        "(standard error 1 point at 5 %). Of equal models, 5 % at most should be told apart, and both keep to that. "
        "Where one model wins all pairs of runs, there is no interval but a p: sentences go by p.",
        _pair_table(found_pairs),
    ]
    return "\n\n".join(parts) + "\n"


def _span(shares: Sequence[float]) -> str:
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return low if low == high else f"{low}–{high}"


def _table_of_ranges(found: Found, construction: str, name: str) -> str:
    shares = _by_size(found, construction, name)
    rows = [[f"{seeds}", *(_span(shares[seeds, tasks]) for tasks in TASKS)] for seeds in SEEDS]
    return _table(["seeds", *(f"{tasks} task{'s' if tasks > 1 else ''}" for tasks in TASKS)], rows)


def _pair_table(found_pairs: FoundPairs) -> str:
    rows = []
    for seeds in SEEDS:
        for tasks in PAIR_TASKS:
            row = [str(seeds), str(tasks)]
            for shift in (0.0, SHIFT):
                outcomes = [found_pairs[Case(seeds, tasks, shape), shift] for shape in SHAPES]
                row += [
                    _span([getattr(outcome, field) for outcome in outcomes])
                    for field in ("covered", "missing", "excludes_half", "separable")
                ]
            rows.append(row)
    columns = ("covered", "none", "≠ ½", "p < 0.05")
    return _table(["seeds", "tasks", *(f"{kind}: {name}" for kind in ("equal", "better") for name in columns)], rows)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---:"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure and write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--datasets", type=int, default=1_000, help="simulated matrices per case")
    parser.add_argument("--pairs", type=int, default=500, help="simulated pairs of models per case")
    parser.add_argument("--repetitions", type=int, default=1_000, help="resamples per matrix")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the two files")
    chosen = parser.parse_args()
    found, found_pairs = measure(chosen.datasets, chosen.pairs, chosen.repetitions)
    setting = {"datasets": chosen.datasets, "pairs": chosen.pairs, "repetitions": chosen.repetitions}
    content = {**setting, "lowest": lowest(found, found_pairs)}
    (chosen.out / "coverage.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page = markdown(found, found_pairs, chosen.datasets, chosen.pairs, chosen.repetitions)
    (chosen.out / "coverage.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
