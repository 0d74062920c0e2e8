"""The Minari writer against Minari itself."""

from __future__ import annotations

import minari
import numpy as np
import pytest

from dtbench.data.export import write_minari
from dtbench.data.info import info
from dtbench.data.sources import local
from dtbench.errors import DataError
from dtbench.suites.suites import load_suite


def test_minari_opens_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    store = local.build("hopper-medium", steps=700)
    name = write_minari(store)
    dataset = minari.load_dataset(name)
    assert (dataset.total_episodes, dataset.total_steps) == (store.num_episodes, 700)
    for index, found in enumerate(dataset.iterate_episodes()):
        expected = store.episode(index)
        for field in ("observations", "actions", "rewards", "terminations", "truncations"):
            assert np.array_equal(np.asarray(getattr(found, field), np.float32), np.float32(getattr(expected, field)))
    env = dataset.recover_environment()
    assert env.spec.id == "Hopper-v5"
    env.close()
    with pytest.raises(DataError, match="--force"):
        write_minari(store)
    assert write_minari(store, force=True) == name


def test_info_describes_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    store = local.build("hopper-medium", steps=700)
    reference = load_suite("d4rl-short").task("hopper-medium").reference
    content = info(store, reference)
    returns = store.episode_returns
    assert content["returns"]["mean"] == pytest.approx(returns.mean(), abs=0.005)
    normalized = 100 * (returns - reference.random) / (reference.expert - reference.random)
    assert content["returns_normalized (d4rl, × 100)"]["median"] == pytest.approx(np.median(normalized), abs=0.005)
    assert content["terminated"] + content["truncated"] == store.num_episodes
    assert content["fingerprint"] == store.fingerprint
