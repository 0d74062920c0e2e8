"""The store: what goes in comes out, content is fingerprinted, a build is whole or not there."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time

import numpy as np
import pytest

from dtbench.data import store_files
from dtbench.data.store import TrajectoryStore
from dtbench.data.store_files import FIELDS
from dtbench.errors import DataError
from dtbench.locks import lock
from tests.data import factory


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path_factory.mktemp("home")))


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


def change_byte(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def set_metadata(folder, **changes):
    file = folder / "metadata.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for name, value in changes.items():
        if value is MISSING:
            del content[name]
        else:
            content[name] = value
    file.write_text(json.dumps(content), encoding="utf-8")


MISSING = object()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("position", [7, -1])
def test_opening_finds_a_single_flipped_byte_and_names_the_file(tmp_path, field, position):
    """Also in the header of the file."""
    factory.store(tmp_path / "s").verify()
    change_byte(tmp_path / "s" / f"{field}.npy", position)
    with pytest.raises(DataError, match=rf"{field}\.npy is not what was built"):
        TrajectoryStore.open(tmp_path / "s")


@pytest.mark.parametrize("field", FIELDS)
def test_verify_finds_a_flipped_byte_outside_the_sample(tmp_path, monkeypatch, field):
    monkeypatch.setattr("dtbench.data.store_files._BLOCK_BYTES", 1)
    monkeypatch.setattr("dtbench.data.store_files._SAMPLE_BLOCKS", 1)
    store = factory.store(tmp_path / "s")
    store.verify()
    change_byte(tmp_path / "s" / f"{field}.npy", -1)
    with pytest.raises(DataError, match=rf"{field}\.npy"):
        TrajectoryStore.open(tmp_path / "s").verify()


def test_the_sample_spans_the_file(tmp_path, monkeypatch):
    """Of 100 blocks, 5 are sampled: the first, the last and those at equal distances between them."""
    monkeypatch.setattr("dtbench.data.store_files._BLOCK_BYTES", 10)
    monkeypatch.setattr("dtbench.data.store_files._SAMPLE_BLOCKS", 5)
    file = tmp_path / "f"
    file.write_bytes(bytes(1000))
    before = store_files._summary(file)
    found = []
    for block in range(100):
        change_byte(file, 10 * block + 3)
        if store_files._summary(file) != before:
            found.append(block)
        change_byte(file, 10 * block + 3)
    assert found == [0, 25, 50, 74, 99]


def test_stores_without_summaries_still_open(tmp_path):
    store = factory.store(tmp_path / "s")
    set_metadata(tmp_path / "s", files=MISSING)
    again = TrajectoryStore.open(tmp_path / "s")
    again.verify()
    assert again.fingerprint == store.fingerprint


@pytest.mark.parametrize("field", ["observations", "rewards"])
@pytest.mark.parametrize("old", [False, True])
def test_truncated_file_is_refused(tmp_path, field, old):
    factory.store(tmp_path / "s")
    if old:
        set_metadata(tmp_path / "s", files=MISSING)
    file = tmp_path / "s" / f"{field}.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(DataError, match=rf"{field}\.npy is truncated"):
        TrajectoryStore.open(tmp_path / "s")


@pytest.mark.parametrize("content", [b"", b"x" * 200, b"\x93NUMPY\x01\x00\x06\x00{'descr", b"\x93NUMPY\x09\x00"])
def test_any_damaged_file_gives_one_sentence(tmp_path, content):
    factory.store(tmp_path / "s")
    set_metadata(tmp_path / "s", files=MISSING)
    (tmp_path / "s" / "rewards.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"rewards\.npy is truncated or damaged") as caught:
        TrajectoryStore.open(tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_missing_file_wrong_totals_and_foreign_folders_are_refused(tmp_path):
    factory.store(tmp_path / "s")
    set_metadata(tmp_path / "s", totals={"episodes": 4, "steps": 26})
    with pytest.raises(DataError, match="the metadata says"):
        TrajectoryStore.open(tmp_path / "s")
    (tmp_path / "s" / "rewards.npy").unlink()
    with pytest.raises(DataError, match=r"rewards\.npy is missing"):
        TrajectoryStore.open(tmp_path / "s")
    with pytest.raises(DataError, match="not a trajectory store"):
        TrajectoryStore.open(tmp_path)
    with pytest.raises(DataError, match="not a trajectory store"):
        TrajectoryStore.open(tmp_path / "s" / "metadata.json")


GOOD_REFERENCE = {"table": "t", "random": 0, "expert": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("totals", MISSING),
        ("totals", [4, 25]),
        ("totals", {"episodes": "4", "steps": 25}),
        ("totals", {"episodes": 0, "steps": 0}),
        ("source", 3),
        ("env_id", None),
        ("env_kwargs", []),
        ("reference", {"table": "t"}),
        ("reference", {**GOOD_REFERENCE, "expert": "high"}),
        ("action_space", {}),
        ("action_space", {"n": 0}),
        ("action_space", {"low": [0, 0], "high": 1}),
        ("action_space", {"low": [0, 0], "high": [1]}),
        ("recipe", "made"),
        ("digests", {}),
        ("files", {"rewards": 3}),
        ("fingerprint", MISSING),
    ],
)
def test_metadata_of_the_wrong_type_are_refused(tmp_path, name, value):
    factory.store(tmp_path / "s")
    set_metadata(tmp_path / "s", **{name: value})
    with pytest.raises(DataError, match=rf"metadata\.json: '{name}' is missing or of the wrong type"):
        TrajectoryStore.open(tmp_path / "s")


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"format_version": 9}', "[" * 100_000])
def test_metadata_that_are_none_are_refused(tmp_path, content):
    factory.store(tmp_path / "s")
    (tmp_path / "s" / "metadata.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="build or import the dataset again"):
        TrajectoryStore.open(tmp_path / "s")


def test_a_fingerprint_of_another_store_is_refused(tmp_path):
    factory.store(tmp_path / "s")
    set_metadata(tmp_path / "s", fingerprint=factory.store(tmp_path / "t", lengths=(3,)).fingerprint)
    with pytest.raises(DataError, match="does not belong to the digests"):
        TrajectoryStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("field", "array", "message"),
    [
        ("observations", np.zeros((25, 4), np.float32), r"final_observations\.npy has shape \(4, 3\)"),
        ("observations", np.zeros(25, np.float32), "not .steps, dimensions."),
        ("observations", np.zeros((25, 3)), "holds float64, not float32"),
        ("final_observations", np.zeros((4, 2), np.float32), r"final_observations\.npy has shape \(4, 2\)"),
        ("actions", np.zeros((25, 3), np.float32), r"actions\.npy has shape \(25, 3\)"),
        ("actions", np.zeros(25, np.int64), "holds int64, not float32"),
        ("rewards", np.zeros((25, 1), np.float32), r"rewards\.npy has shape \(25, 1\)"),
        ("rewards", np.zeros(25, ">f4"), "holds >f4, not float32"),
        ("terminations", np.zeros(25, np.uint8), "holds uint8, not bool"),
        ("truncations", np.zeros(24, np.bool_), r"truncations\.npy has shape \(24,\)"),
        ("episode_offsets", np.array([0, 5, 6, 18, 24]), "does not rise from 0 to 25"),
        ("episode_offsets", np.array([1, 5, 6, 18, 25]), "does not rise from 0 to 25"),
        ("episode_offsets", np.array([0, 6, 5, 18, 25]), "does not rise from 0 to 25"),
        ("episode_offsets", np.array([0, 6, 6, 18, 25]), "does not rise from 0 to 25"),
        ("episode_offsets", np.array([0, 6, 18, 25]), r"episode_offsets\.npy has shape \(4,\)"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path, field, array, message):
    factory.store(tmp_path / "s", lengths=(5, 1, 12, 7))
    set_metadata(tmp_path / "s", files=MISSING)
    np.save(tmp_path / "s" / f"{field}.npy", array)
    with pytest.raises(DataError, match=message):
        TrajectoryStore.open(tmp_path / "s")


def test_interrupted_build_leaves_nothing(tmp_path):
    def interrupted():
        yield factory.episode(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        factory.build(tmp_path / "s", interrupted())
    assert list(tmp_path.iterdir()) == []
    assert factory.store(tmp_path / "s").num_steps == 25  # … and the next one goes through


def test_an_interrupted_replacement_keeps_the_old_store(tmp_path):
    def interrupted():
        yield factory.episode(3)
        raise KeyboardInterrupt

    before = factory.store(tmp_path / "s").fingerprint
    with pytest.raises(KeyboardInterrupt):
        factory.build(tmp_path / "s", interrupted(), overwrite=True)
    assert TrajectoryStore.open(tmp_path / "s").fingerprint == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_what_killed_builds_left_is_removed_unless_somebody_builds(tmp_path):
    left = [".s.building", ".s.replaced", ".s.building-dead", ".other.building", ".other.building-x9", ".busy.building"]
    for name in left:
        (tmp_path / name).mkdir()
    kept = [".hidden", ".building", ".notes.buildings"]
    for name in kept:
        (tmp_path / name).mkdir()
    with lock(tmp_path / "busy"):
        factory.store(tmp_path / "s")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, ".busy.building", "s"])


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


def test_array_headers_are_parsed_in_one_thread_only(tmp_path, monkeypatch):
    """CPython 3.11 cannot parse with `ast` in two threads at once: building a store failed now and then."""
    seen = set()
    original = np.load

    def load(*args, **kwargs):
        seen.add(threading.current_thread())
        return original(*args, **kwargs)

    monkeypatch.setattr(np, "load", load)
    factory.store(tmp_path / "store")
    assert seen == {threading.main_thread()}
