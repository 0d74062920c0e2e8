"""Results as tables hold what the records hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dtbench.results import frames
from dtbench.results.files import read_folder
from dtbench.results.schema import EpisodeScores
from dtbench.results.sections import Selection, sections
from tests.results import samples


@pytest.fixture
def results(tmp_path):
    for seed in range(3):
        samples.save(tmp_path, samples.result("dt", seed=seed, score=0.3 + 0.01 * seed))
        samples.save(tmp_path, samples.changed("gate=false", model="gpt2_dtma", seed=seed, score=0.45))
    samples.save(tmp_path, samples.failed("cql", seed=1))
    return read_folder(tmp_path)[0]


def test_a_row_per_run(results):
    table = frames.runs(results)
    assert list(table.columns) == [*frames.IDENTITY, *frames.RUN]
    assert len(table) == len(results) == 7
    indexed = table.set_index(["label", "seed"])
    assert indexed.loc[("dt", 2), "score"] == pytest.approx(0.32)
    assert indexed.loc[("gpt2_dtma gate=false", 0), "config_hash"] == "xyz"
    failed = indexed.loc[("cql", 1)]
    assert failed["status"] == "failed"
    assert np.isnan(failed["score"])
    expected = {(result.model.name, result.seed): np.mean(result.scores.returns) for result in results if result.scores}
    found = table.dropna(subset=["score"]).set_index(["model", "seed"])["return_mean"].to_dict()
    assert found == pytest.approx(expected)


def test_a_row_per_episode_and_diagnostics_only_if_asked_for(results):
    table = frames.episodes(results)
    assert list(table.columns) == [*frames.IDENTITY, *frames.EPISODE]
    assert len(table) == 6 * 2
    assert set(table["target"]) == {3600.0}
    assert table.groupby(["label", "seed"])["normalized"].mean()["dt", 1] == pytest.approx(0.31)
    one = next(result for result in results if result.scores is not None)
    extra = EpisodeScores([1.0, 2.0], [3, 4], [0.1, 0.2])
    scores = replace(one.scores, per_target={**one.scores.per_target, "1800.0": extra})
    both = frames.episodes([replace(one, scores=scores)], all_targets=True)
    assert both["target"].tolist() == [1800.0, 1800.0, 3600.0, 3600.0]
    assert both["return"].tolist() == [1.0, 2.0, *one.scores.returns]
    assert both["env_seed"].tolist() == [1, 2, 1, 2]


def test_aggregates_are_those_of_the_leaderboard(results):
    only = Selection(tasks=["hopper-medium"])
    table = frames.aggregates(results, only).set_index(["model", "statistic"])
    (section,) = sections(results, only)
    for label, estimates in section.estimates.items():
        for name, estimate in estimates.items():
            row = table.loc[(label, name)]
            assert row["estimate"] == estimate.value
            assert row["seeds"] == 3
            if estimate.interval is None:
                assert np.isnan(row["low"])
            else:
                assert (row["low"], row["high"]) == estimate.interval
    assert frames.aggregates(results).empty  # nobody has all tasks
