"""Four protocols: what each selects, by plain definitions; the intervals of a pool; and the page."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from dtbench.results import protocol_page, stats
from dtbench.results.bandit import BUDGETS, deployed_scores
from dtbench.results.protocols import (
    EVALUATION,
    HALVES,
    IGNORES_TARGET,
    LAST,
    NO_EVALUATIONS,
    ONE_TARGET,
    POOL_COVERAGE,
    TARGET,
    best_evaluation,
    best_on_other_half,
    pool_coverage,
    protocols,
)
from dtbench.results.schema import EpisodeScores, EvaluationRecord, Scores
from dtbench.results.sections import Selection, sections
from tests.results import samples
from tests.results.test_leaderboard import row

TASKS = ["hopper-medium", "walker2d-medium"]
EPISODES = 6


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch):
    """Enough for intervals that these tests only read."""
    monkeypatch.setattr(stats.mean_estimates, "__defaults__", (50,))


def run(model="dt", task="hopper-medium", seed=0, targets=(1000.0, 2000.0), during=(0.2, 0.9), rng=None):
    """Return a result of six episodes per target, the score target among them."""
    rng = np.random.default_rng(seed + len(task)) if rng is None else rng
    content = samples.result(model, task, seed)
    found = {
        target: EpisodeScores([target] * EPISODES, [10] * EPISODES, rng.normal(0.5, 0.2, EPISODES).tolist())
        for target in (*targets, content.task.score_target)
    }
    scored = found[content.task.score_target]
    scores = Scores(
        scored.returns,
        scored.lengths,
        scored.normalized,
        {str(target): episodes for target, episodes in found.items()},
        [(10 * number, score) for number, score in enumerate(during)] if during is not None else None,
    )
    return replace(content, scores=scores, evaluation=EvaluationRecord(EPISODES, list(range(EPISODES))))


def only_row(results, tasks=TASKS):
    (section,) = sections(results, Selection(tasks=tasks))
    (found,) = section.rows
    return found


def everything(seeds=3, **parts):
    return [run(task=task, seed=seed, **parts) for task in TASKS for seed in range(seeds)]


def matrix(results, measure):
    by_seed = {result.seed: {} for result in results}
    for result in results:
        by_seed[result.seed][result.task.id] = measure(result)
    return np.array([[by_seed[seed][task] for task in TASKS] for seed in sorted(by_seed)])


def target_means(result):
    return [np.mean(episodes.normalized) for episodes in result.scores.per_target.values()]


def test_each_protocol_selects_what_it_says():
    results = everything()
    found = protocols(only_row(results), TASKS)
    expected = {
        LAST: matrix(results, lambda result: np.mean(result.scores.normalized)),
        EVALUATION: matrix(results, lambda result: max(np.mean(result.scores.normalized), 0.9)),
        TARGET: matrix(results, lambda result: max(target_means(result))),
    }
    for name, scores in expected.items():
        assert found.outcomes[name].scores == pytest.approx(scores), name
        assert found.outcomes[name].value.value == pytest.approx(scores.mean())
        assert found.outcomes[name].added.value == pytest.approx((scores - expected[LAST]).mean())
        assert found.outcomes[name].test is None  # cannot be below the last checkpoint
    assert found.seeds == 3
    assert found.missing == {}


def test_differences_are_paired_by_seed():
    """Seeds differ by far more than the protocols do; the interval of the difference is that of the differences."""
    results = everything(seeds=5)
    found = protocols(only_row(results), TASKS)
    added = found.outcomes[TARGET].scores - found.outcomes[LAST].scores
    assert found.outcomes[TARGET].added.interval == pytest.approx(stats.mean_estimates(added[None])[0].interval)
    halves = found.outcomes[HALVES]
    assert halves.test == stats.sign_flip_test(halves.scores - found.outcomes[LAST].scores)


def test_evaluations_that_are_not_finite_do_not_count():
    assert best_evaluation(run(during=(float("nan"), 0.95, float("inf")))) == 0.95
    low = run(during=(0.01, float("nan")))
    assert best_evaluation(low) == low.score


def test_the_other_half_scores_what_one_half_chose():
    # Even episodes prefer the first arm, odd ones the second: each is scored where it looked worse.
    arms = [[0.9, 0.1, 0.7, 0.3], [0.2, 0.8, 0.4, 0.6]]
    assert best_on_other_half(arms) == pytest.approx((np.mean([0.1, 0.3]) + np.mean([0.2, 0.4])) / 2)
    assert best_on_other_half([[0.3] * 4, [0.6] * 4]) == pytest.approx(0.6)


def test_the_other_half_is_not_optimistic():
    """Targets that are equally good: the best target's mean is above theirs, the other half's is not."""
    rng = np.random.default_rng(0)
    arms = rng.normal(0.5, 0.2, size=(2000, 5, 10))
    best = [max(map(np.mean, targets)) for targets in arms]
    other = [best_on_other_half(targets.tolist()) for targets in arms]
    error = 0.2 / np.sqrt(5 * 2000)  # a score of five episodes, 2,000 times
    assert np.mean(best) > 0.5 + 10 * error
    assert np.mean(other) == pytest.approx(0.5, abs=4 * error)


def test_candidates_of_one_run_and_of_all_runs():
    results = everything()
    found = protocols(only_row(results), TASKS)
    arms = {
        (result.task.id, result.seed): [
            result.scores.per_target[key].normalized for key in sorted(result.scores.per_target, key=float)
        ]
        for result in results
    }
    for budget, outcome in enumerate(found.one_run):
        expected = [[deployed_scores(arms[task, seed])[0, budget] for task in TASKS] for seed in range(3)]
        assert outcome.scores == pytest.approx(np.array(expected))
    assert found.all_runs.candidates == [9, 9]
    for place, task in enumerate(TASKS):
        pooled = [arm for seed in range(3) for arm in arms[task, seed]]
        assert found.all_runs.by_task[:, place] == pytest.approx(deployed_scores(pooled)[0])
    best = [max(np.mean(arm) for seed in range(3) for arm in arms[task, seed]) for task in TASKS]
    assert found.all_runs.known == pytest.approx(np.mean(best))


def test_a_pool_at_one_episode_is_the_mean_and_has_nearly_students_interval():
    """With one target and one episode, nothing is selected: the value is (a)'s, the jackknife that of a mean."""
    results = everything(seeds=5, targets=())
    found = protocols(only_row(results), TASKS)
    last = found.outcomes[LAST].scores
    outcome = found.all_runs.outcomes[0]
    spread = np.sqrt((last.var(0) / 1000).sum()) / 2  # of the mean of 1,000 bandits
    assert outcome.value.value == pytest.approx(last.mean(), abs=4 * spread)
    assert outcome.added.value == pytest.approx(0, abs=4 * spread)
    error = np.sqrt((last.var(0, ddof=1) / 5).sum()) / 2
    half = (outcome.value.interval[1] - outcome.value.interval[0]) / 2
    assert half == pytest.approx(2.306 * error, rel=0.15)  # t with eight degrees of freedom
    assert outcome.test is None


def test_two_seeds_have_no_interval():
    found = protocols(only_row(everything(seeds=2)), TASKS)
    every = [*found.outcomes.values(), *found.one_run, *found.all_runs.outcomes]
    assert all(outcome.value.interval is outcome.added.interval is None for outcome in every)


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({"targets": ()}, {TARGET: ONE_TARGET}),
        ({"model": "bc"}, {TARGET: IGNORES_TARGET}),
        ({"during": None}, {EVALUATION: NO_EVALUATIONS}),
        ({"during": ()}, {EVALUATION: NO_EVALUATIONS}),
    ],
)
def test_what_records_lack_is_said(parts, missing):
    found = protocols(only_row(everything(**parts)), TASKS)
    assert found.missing == missing
    assert not set(missing) & set(found.outcomes)
    assert bool(found.one_run) == (TARGET not in missing)


def test_one_run_without_evaluations_takes_the_protocol_from_its_row():
    """It would be averaged with others of which more is known."""
    results = [
        run(task=task, seed=seed, during=None if seed == task == 0 else (0.1,)) for task in TASKS for seed in (0, 1)
    ]
    results[0] = replace(results[0], scores=replace(results[0].scores, during_training=None))
    assert EVALUATION not in protocols(only_row(results), TASKS).outcomes


def test_a_row_without_a_complete_seed_has_no_protocols():
    results = [run(task=TASKS[0], seed=0), run(task=TASKS[1], seed=1)]
    assert protocols(only_row(results), TASKS) is None


def simulated_coverage(seeds: int, tasks: int) -> float:
    """Return the lowest share of jackknife intervals that hold the true value of the best of n runs.

    Runs are scored without error, or chosen by scores with an error as large as their spread; values, and differences
    from the mean of the runs.
    """
    rng = np.random.default_rng(0)
    shapes = {
        "normal": lambda size: rng.normal(size=size),
        "skewed": lambda size: rng.exponential(size=size),
        "two-peaked": lambda size: np.where(rng.random(size) < 0.3, -2.0, 0.8) + 0.3 * rng.normal(size=size),
    }
    errors = np.random.default_rng(1).normal(size=(60, seeds))

    def both(scores, noise):
        chosen = scores.max(-1)
        if noise:
            picked = (scores[..., None, :] + errors[:, : scores.shape[-1]]).argmax(-1)
            chosen = np.take_along_axis(scores, picked, -1).mean(-1)
        return np.stack([chosen, chosen - scores.mean(-1)], axis=-1)

    shares = []
    for draw, noise in itertools.product(shapes.values(), (False, True)):
        true = both(draw((20_000 if noise else 100_000, seeds)), noise).mean(0)
        hits = np.zeros(2)
        for _ in range(1000):
            scores = draw((tasks, seeds))
            without = np.stack([both(np.delete(scores, seed, 1), noise) for seed in range(seeds)])
            values, halves = stats.jackknife(both(scores, noise), without)
            hits += np.abs(values - true) <= halves
        shares += (hits / 1000).tolist()
    return min(shares)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "tasks"), itertools.product(POOL_COVERAGE, POOL_COVERAGE[3]))
def test_the_coverage_of_pools_is_what_was_measured(seeds, tasks):
    # Two simulations of 1,000 cases: three standard errors of their difference.
    tolerance = 3 * np.sqrt(2 * 0.7 * 0.3 / 1000)
    assert simulated_coverage(seeds, tasks) == pytest.approx(POOL_COVERAGE[seeds][tasks], abs=tolerance)


def test_coverage_is_that_of_the_next_lower_sizes():
    assert pool_coverage(2, 9) is None
    assert pool_coverage(4, 8) == POOL_COVERAGE[3][3]
    assert pool_coverage(20, 30) == POOL_COVERAGE[10][9]


# The page


def page(results, **parts):
    return protocol_page.page(results, [], Selection(tasks=TASKS, must_exist=False), **parts)


def test_the_page_shows_values_differences_and_reasons(tmp_path):
    results = [
        *everything(),
        *[run("lamo", task, seed, targets=(), during=None) for task in TASKS for seed in range(3)],
        *[run("bc", task, seed) for task in TASKS for seed in range(3)],
        run("dc"),
        samples.failed("cql"),
    ]
    shown = page(results, figures="p", title="Selection", trials=7)
    text = shown.text
    assert text.startswith("# Selection\n")
    last, best = (
        100 * matrix(everything(), measure).mean()
        for measure in (lambda result: np.mean(result.scores.normalized), lambda result: max(target_means(result)))
    )
    cells = row(text, "dt", "The same runs under four protocols")
    assert cells[1] == "3"
    assert cells[2].startswith(f"{last:.1f} [")
    assert cells[4].startswith(f"{best:.1f} [")
    assert row(text, "lamo", "The same runs under four protocols")[3:5] == [
        f"n/a ({NO_EVALUATIONS})",
        f"n/a ({ONE_TARGET})",
    ]
    assert row(text, "bc", "The same runs under four protocols")[4] == f"n/a ({IGNORES_TARGET})"
    added = row(text, "dt", "What selection adds")
    assert added[2].startswith(f"+{best - last:.1f} [")
    assert "p " not in added[1] + added[2]
    assert re.search(r"\].*, p = 0\.\d{3}$", added[3])
    assert row(text, "lamo", "(d) An online budget of k episodes")[1] == "3"
    assert len(row(text, "dt", "(d) An online budget of k episodes")) == 3 + len(BUDGETS)
    assert "- `dc`: incomplete (1 of 2 tasks)" in text
    assert "- `cql` on hopper-medium, seed 0: failed" in text
    assert "Hyper-parameter trials per model: 7." in text
    assert "at least 67 % of simulated cases" in text
    shown.write(tmp_path / "p.md")
    assert shown.is_current(tmp_path / "p.md")
    assert {file.name for file in tmp_path.iterdir()} == {"p.md", "p-0-budgets.svg"}
    assert page(results, figures="p", title="Selection", trials=7).text == text


def test_bold_are_the_highest_and_what_cannot_be_separated():
    """Five seeds on two tasks: a model that is far below is bold neither in the column of (a) nor in that of (c)."""
    rng = np.random.default_rng(3)
    good = [run("dt", task, seed, rng=rng) for task in TASKS for seed in range(5)]
    bad = [run("lamo", task, seed, rng=rng) for task in TASKS for seed in range(5)]
    for content in bad:
        for episodes in (content.scores, *content.scores.per_target.values()):
            episodes.normalized[:] = [value - 2 for value in episodes.normalized]
    text = page([*good, *bad]).text
    table = text.split("### The same")[1].split("###")[0]
    lines = {line.split("`")[1]: line.split("|") for line in table.splitlines() if line.startswith("| `")}
    assert [cell.strip().startswith("**") for cell in lines["dt"][3:7]] == [True, True, True, False]
    assert [cell.strip().startswith("**") for cell in lines["lamo"][3:7]] == [False, True, False, False]


def test_nothing_complete_and_nothing_finished():
    assert "No model has a seed with every task." in page([run()]).text
    assert "No run has finished." in page([samples.failed(), samples.failed(task=TASKS[1])]).text
