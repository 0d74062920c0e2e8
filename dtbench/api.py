"""The Python interface: what `import dtbench` offers beside `run`. Each function is the command of its name.

Folders of results are those of `dtbench run --output`; the examples read the published ones. Scores are normalised,
0–1 between the reference returns; tables for people show them × 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from dtbench.registry import ModelEntry
    from dtbench.results.compare import Comparison
    from dtbench.runs.acting import RunPolicy
    from dtbench.suites.suites import Suite


def load_results(folder: str | Path, *, episodes: bool = False, all_targets: bool = False) -> pd.DataFrame:
    """Read all results under a folder as a table.

    Args:
        folder: of results, `<suite>@<version>/<source>/<preset>/<model>/<task>/seed-<n>.json` below it.
        episodes: a row per episode (`target`, `episode`, `env_seed`, `return`, `length`, `normalized`) in the place of
            one per run (`status`, `score`, `return_mean`, `steps`, `train_s`, …).
        all_targets: of episodes, also those at returns that are diagnostics and not part of the score.

    Returns:
        The identity of each run (`suite`, `version`, `source`, `preset`, `model`, `label`, `config_hash`, `task`,
        `seed`) and the columns above. `label` is the leaderboard's name of the row. Unfinished runs have no score.

    Raises:
        ResultError: there is no such folder, or no result in it that can be read.

    >>> runs = load_results("leaderboards/results").set_index(["suite", "label", "task", "seed"])
    >>> round(float(runs.loc[("d4rl-short", "dt", "hopper-medium", 0)].score), 4)
    0.4282
    >>> one = load_results("leaderboards/results", episodes=True).query(
    ...     "suite == 'd4rl-short' and label == 'dt' and task == 'hopper-medium' and seed == 0"
    ... )
    >>> len(one), round(float(one["normalized"].mean()), 4)
    (10, 0.4282)
    """
    from dtbench.results import frames

    results = frames.read_all(folder)
    return frames.episodes(results, all_targets=all_targets) if episodes else frames.runs(results)


def aggregate(
    folder: str | Path, *, suite: str | None = None, tasks: Sequence[str] = (), preset: str | None = None
) -> pd.DataFrame:
    """Aggregate each model's scores over tasks and seeds, with 95 % intervals over training seeds.

    Args:
        folder: of results.
        suite, tasks, preset: only these; all by default. Different suites, sources and presets are never mixed.

    Returns:
        Four rows per complete model: `suite`, `source`, `preset`, `part` (2 and more: on other data), `model` (the
        row's label), `tasks` and `seeds` (how many), `statistic` (`iqm`, `median`, `mean`, `optimality_gap`),
        `estimate`, `low`, `high` (missing below three seeds) and `coverage`, how often an interval over this many seeds
        and tasks held the true value in simulation. A model that lacks a task has no rows.

    Raises:
        UnknownNameError: a suite, task or preset without results.
        ResultError: no results, or results that cannot be in one table.

    >>> table = aggregate("leaderboards/results", suite="d4rl-short", tasks=["hopper-medium"])
    >>> row = table.set_index(["model", "statistic"]).loc[("dt", "mean")]
    >>> bool(row.low < row.estimate < row.high)
    True
    """
    from dtbench.results import frames
    from dtbench.results.sections import Selection

    return frames.aggregates(frames.read_all(folder), Selection(suite, tuple(tasks), preset))


def compare(
    folder: str | Path,
    a: str,
    b: str,
    *,
    suite: str | None = None,
    tasks: Sequence[str] = (),
    preset: str | None = None,
) -> list[Comparison]:
    """Compare two models in every suite, source and preset that has both.

    Args:
        folder: of results.
        a, b: labels of leaderboard rows, e.g. `lamo` or `lamo backbone=scratch`.
        suite, tasks, preset: only these; all by default.

    Returns:
        Per section the difference on each task with its permutation p, P(a > b) with its interval, and the p of the
        difference of the means; `to_dict()` gives plain values.

    Raises:
        UnknownNameError: a model, suite, task or preset without results.
        ResultError: no results, or no section has both models.

    >>> (found,) = compare("leaderboards/results", "bc10", "dt", suite="d4rl-short")
    >>> found.probability_of_improvement.value > 0.5
    True
    """
    from dtbench.results.compare import compare as compare_models
    from dtbench.results.sections import Selection

    return compare_models(folder, a, b, Selection(suite, tuple(tasks), preset))


def leaderboard(
    folder: str | Path,
    *,
    suite: str | None = None,
    tasks: Sequence[str] = (),
    preset: str | None = None,
    format: str = "markdown",
) -> str:
    """Return the leaderboard of a folder of results as text.

    Args:
        folder: of results.
        suite, tasks, preset: only these; all by default.
        format: `markdown`, the whole page; `csv`, a line per number; `json`, with protocol and seeds; `latex`, tables
            for `booktabs`.

    Raises:
        UnknownNameError: a suite, task or preset without results, or another format.
        ResultError: no results, or results that cannot be in one table.

    >>> print(leaderboard("leaderboards/results", suite="d4rl-short", format="csv").splitlines()[0])
    suite,source,preset,part,model,kind,name,seeds,estimate,low,high,sd,coverage,p_against_best
    """
    from dtbench.results import exports, frames
    from dtbench.results import leaderboard as ranking
    from dtbench.results.sections import Selection

    selection = Selection(suite, tuple(tasks), preset)
    if format == "markdown":
        return ranking.render(folder, selection)
    return exports.export(frames.read_all(folder), selection, format)


def evaluate(
    run_folder: str | Path, *, targets: Sequence[float] = (), episodes: int | None = None, seed: int | None = None
) -> list[dict[str, Any]]:
    """Evaluate a finished run's weights again; its result is left as it is.

    Args:
        run_folder: `…/<task>/seed-<n>`, beside its JSON.
        targets: returns to ask for; empty takes the score target.
        episodes: per target; None takes as many as in the run.
        seed: of the environments; None takes the run's, which repeats the episodes of its result.

    Returns:
        One dict per target: target, returns, lengths, normalized, and mean and standard deviation of returns and
        normalised scores.

    Raises:
        ConfigError: the folder holds no finished run, or one that cannot be read.
    """
    from dtbench.runs.reopen import evaluate_again

    return evaluate_again(run_folder, targets=targets, episodes=episodes, seed=seed)


def open_run(run_folder: str | Path) -> RunPolicy:
    """Open a finished run as a policy that acts in a plain gymnasium loop.

    It gets the returns of the run's own evaluation where the environment has the same seed.

    Args:
        run_folder: `…/<task>/seed-<n>`, beside its JSON.

    Raises:
        ConfigError: the folder holds no finished run, or one that cannot be read.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> from dtbench.runs.execute import run
    >>> summary = run("sanity", "bc", tasks=["key-to-door"], preset="smoke", source="local", output=folder.name)
    >>> (result,) = summary.results
    >>> policy = open_run(f"{folder.name}/sanity@{result.suite.version}/local/smoke/bc/key-to-door/seed-0")
    >>> env, seed = policy.make_env(), policy.env_seeds()[0]
    >>> observation, _ = env.reset(seed=seed)
    >>> policy.reset(seed=seed)  # target=… asks for another return than the task's score target
    >>> total, done = 0.0, False
    >>> while not done:
    ...     observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
    ...     policy.observe(reward)
    ...     total, done = total + reward, terminated or truncated
    >>> total == result.scores.returns[0]
    True
    >>> folder.cleanup()
    """
    from dtbench.runs.acting import open_policy

    return open_policy(run_folder)


def list_models() -> list[ModelEntry]:
    """Return the models: ours, and those that installed packages announce (`dtbench.models` is their code).

    >>> [entry.name for entry in list_models()][:3]
    ['dt', 'gpt2_dt', 'lamo']
    """
    from dtbench.registry import models

    ours = [entry for entry in models().values() if entry.is_ours]
    return [*ours, *(entry for entry in models().values() if not entry.is_ours)]


def model(name: str) -> ModelEntry:
    """Return a model: by its name, as `package.module:Class`, or as `FILE.py:Class`.

    Raises:
        UnknownNameError: no such model, with a suggestion.
        ConfigError: a file that does not exist, or a name of none of these forms.

    >>> model("dt").title, model("dt").conditions_on_return
    ('Decision Transformer', True)
    """
    from dtbench.registry import model_entry

    return model_entry(name)


def list_suites() -> list[Suite]:
    """Return the shipped suites (`dtbench.suites` is their code).

    >>> "d4rl-short@1" in [suite.id for suite in list_suites()]
    True
    """
    from dtbench.suites.suites import load_suite, suite_names

    return [load_suite(name) for name in suite_names()]


def suite(name: str) -> Suite:
    """Return a suite: a shipped one by its name, or any by the path of its YAML file.

    Raises:
        UnknownNameError: no such suite, with a suggestion.
        ConfigError: the file is not a suite; the message names the file, the task and the field.

    >>> suite("d4rl-short").task("hopper-medium").env_id
    'Hopper-v5'
    """
    from dtbench.suites.suites import load_suite

    return load_suite(name)
