"""The store: what goes in comes out, content is fingerprinted, a build is whole or not there."""

from __future__ import annotations

import json
import multiprocessing
import time

import numpy as np
import pytest

from dtbench.data.store import FIELDS, TrajectoryStore
from dtbench.errors import DataError
from tests.data import factory


def test_round_trip_keeps_everything(tmp_path):
    episodes = [factory.episode(n, n) for n in (4, 1, 9)]
    store = factory.build(tmp_path / "s", iter(episodes))
    assert (store.num_episodes, store.num_steps) == (3, 14)
    assert store.episode_lengths.tolist() == [4, 1, 9]
    for index, expected in enumerate(episodes):
        found = store.episode(index)
        for field in ("observations", "actions", "rewards", "terminations", "truncations"):
            assert np.array_equal(getattr(found, field), getattr(expected, field))
    assert store.episode_returns == pytest.approx([e.rewards.astype(float).sum() for e in episodes])


def test_terminated_and_truncated_are_kept_apart(tmp_path):
    ends = [(True, False), (False, True), (True, True)]
    episodes = [factory.episode(3, i, terminated=t, truncated=c) for i, (t, c) in enumerate(ends)]
    store = factory.build(tmp_path / "s", episodes)
    last = store.episode_offsets[1:] - 1
    assert list(zip(store.terminations[last].tolist(), store.truncations[last].tolist(), strict=True)) == ends


def test_opening_maps_and_copies_nothing(tmp_path):
    store = factory.store(tmp_path / "s")
    for field in FIELDS:
        assert isinstance(getattr(store, field), np.memmap)
        assert not getattr(store, field).flags.writeable


def test_fingerprint_is_of_the_content_alone(tmp_path):
    one = factory.store(tmp_path / "a")
    other_name = factory.store(tmp_path / "b", dataset_id="another", recipe={"x": 1})
    other_data = factory.store(tmp_path / "c", lengths=(5, 1, 12, 8))
    assert one.fingerprint == other_name.fingerprint != other_data.fingerprint


@pytest.mark.parametrize("field", FIELDS)
def test_verify_finds_a_single_flipped_byte_and_names_the_file(tmp_path, field):
    store = factory.store(tmp_path / "s")
    store.verify()
    file = tmp_path / "s" / f"{field}.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"{field}\.npy"):
        TrajectoryStore.open(tmp_path / "s").verify()


@pytest.mark.parametrize("field", ["observations", "rewards"])
def test_truncated_file_is_refused(tmp_path, field):
    factory.store(tmp_path / "s")
    file = tmp_path / "s" / f"{field}.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(DataError, match=rf"{field}\.npy is truncated"):
        TrajectoryStore.open(tmp_path / "s")


def test_missing_file_wrong_totals_and_foreign_folders_are_refused(tmp_path):
    factory.store(tmp_path / "s")
    metadata = json.loads((tmp_path / "s" / "metadata.json").read_text())
    metadata["totals"]["steps"] += 1
    (tmp_path / "s" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(DataError, match="the metadata says 26"):
        TrajectoryStore.open(tmp_path / "s")
    (tmp_path / "s" / "rewards.npy").unlink()
    with pytest.raises(DataError, match=r"rewards\.npy is missing"):
        TrajectoryStore.open(tmp_path / "s")
    with pytest.raises(DataError, match="not a trajectory store"):
        TrajectoryStore.open(tmp_path)


def test_interrupted_build_leaves_nothing(tmp_path):
    def interrupted():
        yield factory.episode(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        factory.build(tmp_path / "s", interrupted())
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert factory.store(tmp_path / "s").num_steps == 25  # … and the next one goes through


def test_killed_builds_left_overs_are_removed(tmp_path):
    (tmp_path / ".s.building-dead").mkdir()
    factory.store(tmp_path / "s")
    assert not (tmp_path / ".s.building-dead").exists()


def _slow_build(folder, seed, ready, queue):
    def slow():
        for number in range(3):
            time.sleep(0.2)
            yield factory.episode(4, seed + number)

    ready.wait()
    queue.put(factory.build(folder / "s", slow()).fingerprint)


def test_two_processes_build_one_store(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, queue = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_slow_build, args=(tmp_path, seed, ready, queue)) for seed in (0, 100)]
    for process in processes:
        process.start()
    fingerprints = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(timeout=60)
    assert fingerprints == {TrajectoryStore.open(tmp_path / "s").fingerprint}


def test_overwrite_replaces(tmp_path):
    first = factory.store(tmp_path / "s").fingerprint
    assert factory.store(tmp_path / "s", lengths=(2,)).fingerprint == first
    assert factory.store(tmp_path / "s", lengths=(2,), overwrite=True).num_steps == 2
