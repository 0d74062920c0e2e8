"""Stores of frames, and their windows against a plain loop."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtbench.data import windows as windows_module
from dtbench.data.datamodule import WindowLoader
from dtbench.data.episodes import Block
from dtbench.data.export import write_d4rl, write_minari
from dtbench.data.info import info
from dtbench.data.store import TrajectoryStore
from dtbench.data.windows import WindowOptions, Windows
from dtbench.errors import ConfigError, DataError
from dtbench.spaces import Continuous, Discrete, Frames, Vector
from tests.data import factory


def options(context: int, **changes) -> WindowOptions:
    return WindowOptions(context, normalize_states=False, **changes)


def stack_at(episode, step: int, stack: int) -> np.ndarray:
    """Return the frames step − stack + 1 … step of one episode, 0 before its first: (stack, height, width)."""
    shown = np.zeros((stack, *episode.observations.shape[1:]), np.uint8)
    for place in range(stack):
        frame = step - stack + 1 + place
        if frame >= 0:
            shown[place] = episode.observations[frame]
    return shown


def by_loop(store, chosen: WindowOptions, start: int) -> dict[str, np.ndarray]:
    """Gather one window step by step, from the definition."""
    context, stack = chosen.context_length, store.observation_space.stack
    index = max(e for e in range(store.num_episodes) if store.episode_offsets[e] <= start)
    episode, begin = store.episode(index), int(store.episode_offsets[index])
    end = len(episode.rewards)
    if chosen.drop_timeouts and episode.truncations[-1] and not episode.terminations[-1]:
        end -= 1
    first = start - begin
    if chosen.near_end == "shift":
        first = max(0, min(first, end - context))
    steps = list(range(first, min(first + context, end)))
    shape = (context, stack, *episode.observations.shape[1:])
    window = {
        "observations": np.zeros(shape),
        "next_observations": np.zeros(shape),
        **{name: np.zeros(context) for name in ("actions", "rewards", "returns_to_go", "timesteps")},
        **{name: np.zeros(context) for name in ("padding_mask", "terminations")},
    }
    for place, step in enumerate(steps, start=context - len(steps)):
        window["observations"][place] = stack_at(episode, step, stack)
        window["next_observations"][place] = stack_at(episode, step + 1, stack)
        window["actions"][place] = episode.actions[step]
        window["rewards"][place] = episode.rewards[step] / chosen.return_scale
        paid = step if chosen.return_includes_reward else step + 1
        window["returns_to_go"][place] = episode.rewards[paid:].astype(float).sum() / chosen.return_scale
        window["timesteps"][place] = step
        window["padding_mask"][place] = 1
        window["terminations"][place] = episode.terminations[step]
    return window


def drawable(store, chosen: WindowOptions) -> list[int]:
    last = store.episode_offsets[1:] - 1
    cut = set((last[store.truncations[last] & ~store.terminations[last]]).tolist()) if chosen.drop_timeouts else set()
    return [step for step in range(store.num_steps) if step not in cut]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=6),
    context=st.integers(1, 9),
    stack=st.integers(1, 5),
    near_end=st.sampled_from(["pad", "shift"]),
    drop=st.booleans(),
    includes=st.booleans(),
    following=st.booleans(),
)
def test_every_window_equals_the_plain_loop(lengths, context, stack, near_end, drop, includes, following):
    """Stacks at an episode's start, padding, shift, next observations at its end, actions, returns: every start."""
    chosen = options(
        context,
        return_scale=2.0,
        near_end=near_end,
        drop_timeouts=drop,
        return_includes_reward=includes,
        next_observations=following,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = factory.game_store(Path(folder) / "s", lengths, frame_stack=stack)
        starts = drawable(store, chosen)
        if not starts:
            return
        windows = Windows(store, chosen)
        together = windows.gather(torch.tensor(starts))
        for row, start in enumerate(starts):
            expected = by_loop(store, chosen, start)
            if not following:
                del expected["next_observations"], expected["terminations"]
            alone = windows.gather(torch.tensor([start]))  # without padding where this window has none
            assert together.keys() == alone.keys() == expected.keys()
            for key, value in expected.items():
                exact = key not in ("rewards", "returns_to_go")
                for found in (together[key][row].numpy(), alone[key][0].numpy()):
                    # sums of 15 float32 of order 1, against float64
                    assert np.array_equal(found, value) if exact else np.allclose(found, value, atol=1e-5), key


def test_shapes_and_types(tmp_path):
    windows = Windows(factory.game_store(tmp_path / "s"), options(3, next_observations=True))
    batch = windows.gather(torch.tensor([0, 8]))
    frames = ((2, 3, 4, 5, 4), torch.uint8)
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "observations": frames,
        "next_observations": frames,
        "actions": ((2, 3), torch.int64),
        "rewards": ((2, 3), torch.float32),
        "returns_to_go": ((2, 3), torch.float32),
        "timesteps": ((2, 3), torch.int64),
        "padding_mask": ((2, 3), torch.bool),
        "terminations": ((2, 3), torch.bool),
    }
    assert windows.state_mean.tolist() == [0]
    assert windows.state_std.tolist() == [1]


@pytest.mark.parametrize("following", [False, True])
def test_without_padding_each_frame_is_fetched_once(tmp_path, following):
    """The stacks are views of K + stack − 1 frames per window, one more for next observations."""
    windows = Windows(factory.game_store(tmp_path / "s", (30, 40)), options(6, next_observations=following))
    batch = windows.gather(torch.tensor([0, 10, 50]))
    frames = 3 * (6 + 4 - 1 + following) * 5 * 4
    assert batch["observations"].untyped_storage().nbytes() == frames
    if following:
        assert batch["next_observations"].data_ptr() == batch["observations"].data_ptr() + 5 * 4


def test_frames_are_not_normalised(tmp_path):
    with pytest.raises(ConfigError, match=r"stacks of 4 frames of 5 × 4.*set data\.normalize_states=false"):
        Windows(factory.game_store(tmp_path / "s"), WindowOptions(4))


def test_near_end_must_be_known():
    with pytest.raises(ConfigError, match="near_end must be one of pad, shift, not 'wrap'"):
        WindowOptions(4, near_end="wrap")


@pytest.mark.parametrize("context", [1, 4, 9])
def test_shifted_windows_of_vectors(tmp_path, context):
    """The same steps as an unshifted window that starts where the shift leads to."""
    store = factory.store(tmp_path / "s", (5, 1, 12, 7))
    plain, shifted = (Windows(store, WindowOptions(context, near_end=way)) for way in ("pad", "shift"))
    for start in range(25):
        index = int(np.searchsorted(store.episode_offsets, start, side="right")) - 1
        begin, end = store.episode_offsets[index : index + 2]
        wanted = plain.gather(torch.tensor([max(begin, min(start, end - context))]))
        found = shifted.gather(torch.tensor([start]))
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
        assert bool(found["padding_mask"].all()) == (end - begin >= context)


def test_returns_without_the_reward_of_the_step(tmp_path):
    """LaMo's returns-to-go for Atari, of vectors and with delayed rewards as well."""
    store = factory.store(tmp_path / "s")
    for delayed in (False, True):
        both = [
            Windows(store, WindowOptions(1, return_includes_reward=includes, delayed_reward=delayed))
            for includes in (True, False)
        ]
        with_it, without = (windows.gather(torch.arange(25)) for windows in both)
        # float32 sums of a dozen rewards of order 1
        assert torch.allclose(with_it["returns_to_go"] - with_it["rewards"], without["returns_to_go"], atol=1e-5)


def test_held_out_windows_are_of_held_out_games(tmp_path):
    store = factory.game_store(tmp_path / "s", (6, 9, 4, 8, 5))
    windows = Windows(store, options(3))
    kept, held_out = windows.split(0.4, seed=0)
    assert sorted([*kept.kept_episodes, *held_out.kept_episodes]) == list(range(5))
    loader = WindowLoader(kept, 16, 10, seed=0, held_out=held_out, is_held_out_step=lambda step: step % 2 == 1)
    for step in range(10):
        part = held_out if step % 2 else kept
        drawn = loader.draw(step)
        found = np.searchsorted(store.episode_offsets, drawn.numpy(), side="right") - 1
        assert set(found.tolist()) <= set(part.kept_episodes.tolist())
        batch = loader.batch(step)
        for row, start in enumerate(drawn.tolist()):
            assert np.array_equal(batch["observations"][row].numpy(), by_loop(store, options(3), start)["observations"])


def resident_kb(file: Path) -> int:
    """Return how much of a mapped file counts as this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(file))
        found += int(line.split()[1]) if inside and line.startswith("Rss:") else 0
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="only Linux tells what is resident")
def test_pages_that_were_read_are_given_back(tmp_path, monkeypatch):
    """Once the bytes are reached, and what is read after that is the same."""
    store = factory.game_store(tmp_path / "s", (30_000,))
    windows = Windows(store, options(4))
    before = windows.gather(torch.arange(0, 29_000, 100))["observations"].clone()
    assert resident_kb(store.path / "observations.npy") > 400
    monkeypatch.setattr(windows_module, "_MOST_BYTES", 1)
    assert torch.equal(windows.gather(torch.arange(0, 29_000, 100))["observations"], before)
    assert resident_kb(store.path / "observations.npy") == 0
    assert torch.equal(windows.gather(torch.arange(0, 29_000, 100))["observations"], before)


# --- the store


def test_round_trip_keeps_every_frame_once(tmp_path):
    episodes = [factory.game(n, n) for n in (4, 1, 9)]
    store = factory.build_games(tmp_path / "s", [episodes[0], Block.joined(episodes[1:])])
    assert store.observations.shape == (14, 5, 4)
    assert store.observations.dtype == store.final_observations.dtype == np.uint8
    assert (store.observation_space, store.action_space) == (Frames(4, 5, 4), Discrete(3))
    assert store.metadata["observation_space"] == {"stack": 4}
    for index, expected in enumerate(episodes):
        found = store.episode(index)
        for field in ("observations", "actions", "rewards", "terminations", "truncations"):
            assert np.array_equal(getattr(found, field), getattr(expected, field))
    store.verify()
    assert TrajectoryStore.open(store.path).fingerprint == store.fingerprint


def test_spaces_of_vectors_and_a_fingerprint_that_does_not_change(tmp_path):
    """Stores of vectors have no entry for their observations; this fingerprint is one from before frames."""
    store = factory.store(tmp_path / "s")
    assert "observation_space" not in store.metadata
    assert (store.observation_space, store.action_space) == (Vector(3), Continuous((-1.0, -1.0), (1.0, 1.0)))
    assert (store.observation_dim, store.action_dim) == (3, 2)
    assert store.fingerprint == "9878127c946e6bd9d1de2ae442cefbf9a4b7ff6530267aabe48be599176acc27"


def test_the_width_of_frames_is_not_asked_for(tmp_path):
    store = factory.game_store(tmp_path / "s")
    assert store.action_dim == 3
    with pytest.raises(ConfigError, match="random holds stacks of 4 frames of 5 × 4; this takes observations that are"):
        store.observation_dim  # noqa: B018


GOOD = factory.game(4)
BAD = {
    "floats": (
        replace(GOOD, observations=GOOD.observations / 255),
        "observations holds float64, not uint8; give frames",
    ),
    "other size": (
        replace(GOOD, observations=GOOD.observations[:, :3]),
        "has frames of 3 × 4, the episodes before have 5",
    ),
    "stacked": (
        replace(GOOD, observations=np.zeros((5, 4, 5, 4), np.uint8)),
        "give single frames, and keep the last one",
    ),
    "short": (replace(GOOD, observations=GOOD.observations[:-1]), r"not \(5, height, width\) for 4 steps"),
    "actions": (replace(GOOD, actions=GOOD.actions + 2), "outside 0 … 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_games_are_refused_naming_dataset_episode_and_field(tmp_path, name):
    bad, message = BAD[name]
    with pytest.raises(DataError, match=message) as caught:
        factory.build_games(tmp_path / "s", [GOOD, bad])
    assert str(caught.value).startswith("random, episode 1: ")
    assert not (tmp_path / "s").exists()


def test_blocks_of_the_wrong_form_are_refused(tmp_path):
    block = Block.of(GOOD)
    for changes, message in (
        ({"observations": np.zeros((4, 20), np.uint8)}, r"has shape \(4, 20\), not \(steps, height, width\)"),
        ({"final_observations": np.zeros((1, 5, 3), np.uint8)}, r"final_observations has shape \(1, 5, 3\)"),
        ({"final_observations": np.zeros((1, 5, 4))}, "final_observations holds float64, not uint8"),
    ):
        with pytest.raises(DataError, match=message):
            factory.build_games(tmp_path / "s", [replace(block, **changes)])
    with pytest.raises(DataError, match=r"not \(5, obs_dim\) for 4 steps"):
        factory.build_games(tmp_path / "s", [GOOD], frame_stack=None)  # frames as vectors
    with pytest.raises(ConfigError, match="frame_stack must be positive, not 0"):
        factory.build_games(tmp_path / "s", [GOOD], frame_stack=0)


def rewrite(folder: Path, **changes) -> None:
    file = folder / "metadata.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content.pop("files")
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")


@pytest.mark.parametrize("space", [{}, {"stack": 0}, {"stack": "4"}, {"stack": True}, [4], {"stack": 4, "more": 1}])
def test_metadata_of_the_wrong_form_are_refused(tmp_path, space):
    factory.game_store(tmp_path / "s")
    rewrite(tmp_path / "s", observation_space=space)
    with pytest.raises(DataError, match="'observation_space' is missing or of the wrong type"):
        TrajectoryStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("field", "array", "message"),
    [
        ("observations", np.zeros((25, 5, 4), np.float32), "holds float32, not uint8"),
        ("observations", np.zeros((25, 20), np.uint8), "not .steps, height, width."),
        ("observations", np.zeros((25, 4, 4), np.uint8), r"final_observations\.npy has shape \(4, 5, 4\)"),
        ("final_observations", np.zeros((4, 5, 4), np.float32), "holds float32, not uint8"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path, field, array, message):
    factory.game_store(tmp_path / "s")
    rewrite(tmp_path / "s")
    np.save(tmp_path / "s" / f"{field}.npy", array)
    with pytest.raises(DataError, match=message):
        TrajectoryStore.open(tmp_path / "s")


def test_info_names_frames_and_their_size(tmp_path):
    content = info(factory.game_store(tmp_path / "s"))
    assert content["observations"] == "stacks of 4 frames of 5 × 4"
    assert content["frames_mb"] == pytest.approx(29 * 20 / 1e6, abs=0.05)
    assert content["actions"] == "one of 3 actions"
    assert "observation_dim" not in content


def test_export_refuses_frames(tmp_path):
    store = factory.game_store(tmp_path / "s")
    for write in (lambda: write_minari(store), lambda: write_d4rl(store, tmp_path / "f.hdf5")):
        with pytest.raises(ConfigError, match="random holds stacks of 4 frames of 5 × 4, which are not exported;"):
            write()
    assert not (tmp_path / "f.hdf5").exists()
