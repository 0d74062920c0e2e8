"""Factors of a model and their interactions: a full factorial of two levels each, over runs paired by their seed.

A *cell* is a row of the leaderboard with one level of each factor; every combination of levels has one cell. Tasks may
be grouped by a further factor with two levels (the *task factor*, e.g. short and long horizons). Runs of one seed are
paired across cells: they see the same windows and are evaluated in the same environments.

For each seed and task, an effect of model factors is a *contrast* of the cells' scores:

    main effect of F      mean of the cells at F's second level − mean of those at its first
    interaction F × G     effect of F at G's second level − effect of F at its first: a difference of differences
    F × G × H             F × G at H's second level − F × G at its first

and the effect is the mean of its contrasts over seeds and tasks: each task weighs equally. An interaction with the task
factor is the mean contrast on the tasks of its second level minus that on those of its first. The main effect of the
task factor would compare the tasks' reference scores, which is no question about models; it is left out.

**The test** flips the signs of units (`stats.sign_flip_test`). These are

- for effects of model factors, the contrasts of seed × task. Runs on different tasks have different data and
  environments, and are independent even with the same seed, as everywhere in the statistics of this project;
- for interactions with the task factor, those of seed × pair of tasks: the contrast on a task of the second level minus
  that on its partner of the first, in the order in which the tasks are listed. With unequal numbers of tasks, the mean
  contrast of the second level minus that of the first, one unit per seed.

Why a unit's sign is arbitrary if there is no effect:

- Main effects: if F makes no difference, exchanging its levels in all cells of a seed and task changes nothing but the
  contrast's sign. This is exact whatever runs of one seed have in common, e.g. a model and its twin the initial
  weights. Exchanging runs within single cells would break such a dependence and give too small a p.
- Interactions: if effects add up, they cancel out of the contrast, and what is left are the runs' deviations, half of
  them with a minus. They are symmetric about zero, and the test is exact, if deviations have the same distribution in
  all cells of a seed and task; otherwise it is as good as a test of a mean is. Subtracting the partner's contrast also
  cancels an effect that both tasks share. Leaving it in would be valid, but take the test's power.

Where the effects of single tasks differ and cancel out, the test is conservative. p is two-sided and at least 2 / 2ᴺ
for N units: five seeds give 0.062 on one task, 0.002 on two tasks or pairs, 0.000002 on four.

**The interval** is that of the mean of the units (`stats.mean_estimates`): units are resampled over seeds, each task or
pair by itself, and the interval is expanded for few seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from dtbench.errors import ConfigError, UnknownNameError
from dtbench.results import stats

#: How an effect's name joins its factors.
_TIMES = " × "
#: The scope of effects over all tasks.
_ALL = "all"

Scores = NDArray[np.float64]
#: (model's label, task) → seed → mean normalised score.
Cells = Mapping[tuple[str, str], Mapping[int, float]]


@dataclass(frozen=True)
class Design:
    """A full factorial with two levels per factor.

    Attributes:
        factors: factor → its two levels; an effect is the second minus the first.
        cells: label of a leaderboard row → its level of each factor.
        tasks: the tasks, each weighing equally.
        task_factor: name of the factor that groups the tasks; None for none.
        task_levels: its two levels → their tasks, partners in the same place.
        interactions: interactions of three or more factors to compute; those of two are always computed.

    Raises:
        ConfigError: no full factorial, or a name that is not declared.
    """

    factors: Mapping[str, tuple[str, str]]
    cells: Mapping[str, Mapping[str, str]]
    tasks: tuple[str, ...]
    task_factor: str | None = None
    task_levels: Mapping[str, tuple[str, ...]] | None = None
    interactions: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        """Check that each combination of levels has one cell."""
        if not self.factors:
            raise ConfigError("factors must name at least one.")
        if self.task_factor in self.factors:
            raise ConfigError(f"{self.task_factor!r} is a factor of the models and of the tasks; rename one.")
        for scope, tasks in self.scopes.items():
            if not tasks:
                raise ConfigError(f"{'tasks' if scope == _ALL else scope} must name at least one task.")
        if _ALL in (self.task_levels or {}):
            raise ConfigError(f"a level of {self.task_factor!r} cannot be called {_ALL!r}, which stands for all tasks.")
        for name, (first, second) in self.factors.items():
            if first == second:
                raise ConfigError(f"the factor {name!r} has the level {first!r} twice.")
        seen: dict[tuple[str, ...], str] = {}
        for label, levels in self.cells.items():
            place = tuple(self._level(label, levels, name) for name in self.factors)
            if place in seen:
                raise ConfigError(f"the cells {seen[place]!r} and {label!r} have the same levels; a factor is missing.")
            seen[place] = label
        for place in product(*self.factors.values()):
            if place not in seen:
                missing = ", ".join(f"{name}={level}" for name, level in zip(self.factors, place, strict=True))
                raise ConfigError(f"no cell has {missing}; a factorial needs every combination of levels.")
        for named in self.interactions:
            if len(named) < 2 or len(set(named)) < len(named):
                raise ConfigError(f"the interaction {_TIMES.join(named)!r} must name different factors, at least two.")
            for name in named:
                if name not in self.all_factors:
                    raise UnknownNameError("factor", name, self.all_factors)

    def _level(self, label: str, levels: Mapping[str, str], name: str) -> str:
        if name not in levels:
            raise ConfigError(f"the cell {label!r} has no level of {name!r}.")
        unknown = [other for other in levels if other not in self.factors]
        if unknown:
            raise ConfigError(f"the cell {label!r}: {UnknownNameError('factor', unknown[0], self.factors)}")
        if levels[name] not in self.factors[name]:
            raise ConfigError(
                f"the cell {label!r}: {UnknownNameError(f'level of {name}', levels[name], self.factors[name])}"
            )
        return levels[name]

    @property
    def all_factors(self) -> list[str]:
        """The model's factors and the task factor."""
        return [*self.factors, *([self.task_factor] if self.task_factor else [])]

    @property
    def scopes(self) -> dict[str, tuple[str, ...]]:
        """Name → tasks, for all tasks and for each level of the task factor."""
        return {_ALL: self.tasks, **(self.task_levels or {})}

    @property
    def effects(self) -> list[tuple[str, ...]]:
        """The effects to compute, each by its factors: main effects, interactions of two, and the named ones."""
        pairs = combinations(self.all_factors, 2)
        order = {name: place for place, name in enumerate(self.all_factors)}
        named = [tuple(sorted(names, key=order.__getitem__)) for names in self.interactions]
        return list(dict.fromkeys([*((name,) for name in self.factors), *pairs, *named]))

    def signs(self, names: Sequence[str]) -> Scores:
        """Return (cells,) the weights of the cells in the contrast of model factors."""
        products = [
            np.prod([1 if levels[name] == self.factors[name][1] else -1 for name in names])
            for levels in self.cells.values()
        ]
        return np.array(products, dtype=np.float64) / 2 ** (len(self.factors) - len(names))


@dataclass(frozen=True)
class Effect:
    """One effect on some tasks.

    Attributes:
        name: its factors.
        scope: the tasks: `all`, a level of the task factor, or both levels for an interaction with it.
        seeds: over how many seeds; these have every cell on every task of the scope.
        estimate: on the 0–1 scale.
        test: of the null hypothesis that it is nil.
    """

    name: str
    scope: str
    seeds: int
    estimate: stats.Estimate
    test: stats.Permutation


def effects(design: Design, cells: Cells) -> list[Effect]:
    """Compute the effects of a design, each on all tasks and on those of each level of the task factor.

    An effect whose tasks lack a cell is left out (`gaps` lists what is missing): nothing is averaged over gaps.
    """
    scores = {scope: complete_scores(design, cells, tasks) for scope, tasks in design.scopes.items()}
    across = " − ".join(reversed(list(design.task_levels or {})))
    found = []
    for names in design.effects:
        scopes = {across: _ALL} if design.task_factor in names else {scope: scope for scope in scores}
        for shown, scope in scopes.items():
            of_scope = scores[scope]
            if of_scope is not None:
                found.append(_effect(_TIMES.join(names), shown, units(design, names, of_scope)))
    return found


def units(design: Design, names: Sequence[str], scores: Scores) -> Scores:
    """Return the units of an effect, whose mean is the effect.

    Args:
        names: its factors; the task factor asks for the scores of all tasks.
        scores: (cells, seeds, tasks) in the order of the design.

    Returns:
        (seeds, tasks), (seeds, pairs) or (seeds, 1).
    """
    contrasts = np.einsum("cst,c->st", scores, design.signs([name for name in names if name != design.task_factor]))
    if design.task_factor not in names or design.task_levels is None:
        return contrasts
    first, second = (
        contrasts[:, [design.tasks.index(task) for task in tasks]] for tasks in design.task_levels.values()
    )
    if first.shape == second.shape:
        return second - first
    return (second.mean(1) - first.mean(1))[:, None]


def _effect(name: str, scope: str, units: Scores) -> Effect:
    """Return the mean of units, its interval and its test."""
    (estimate,) = stats.mean_estimates(units[None])
    return Effect(name, scope, len(units), estimate, stats.sign_flip_test(units))


def complete_scores(design: Design, cells: Cells, tasks: Sequence[str]) -> Scores | None:
    """Return (cells, seeds, tasks) scores of the seeds that have every cell on every task; None if there is none."""
    columns = [[cells.get((label, task), {}) for task in tasks] for label in design.cells]
    seeds = sorted(set.intersection(*(set(scores) for column in columns for scores in column)))
    if not seeds:
        return None
    return np.array([[[scores[seed] for scores in column] for seed in seeds] for column in columns])


def gaps(design: Design, cells: Cells) -> dict[tuple[str, str], list[int]]:
    """Return what is missing: (label, task) → the seeds that other cells have; empty where no run is finished."""
    seeds = {seed for scores in cells.values() for seed in scores}
    missing: dict[tuple[str, str], list[int]] = {}
    for label, task in product(design.cells, design.tasks):
        found = cells.get((label, task), {})
        lacking = sorted(seeds - set(found))
        if lacking or not found:
            missing[label, task] = lacking if found else []
    return missing
