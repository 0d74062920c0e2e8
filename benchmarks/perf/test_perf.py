"""Speed of the parts that a run spends its time in. Not part of the tests: no bound is asserted here.

    pytest benchmarks/perf --benchmark-columns=min,median,iqr,rounds

Absolute times belong to a machine; README.md beside this file names it and gives the ratios.
"""

from __future__ import annotations

import subprocess
import sys

import contexts
import h5py
import numpy as np
import pytest
import torch
from frames import write
from planning import Uncached, build, tokens_per_search

from dtbench.config import compose, load_preset
from dtbench.data.episodes import Episode
from dtbench.data.store import TrajectoryStore, build_store
from dtbench.data.windows import WindowOptions, Windows
from dtbench.evaluation.rollout import EvaluationProtocol, evaluate
from dtbench.models.tt import TrajectoryTransformer
from dtbench.registry import model_entry
from dtbench.runs.timing import random_window
from dtbench.suites.suites import load_suite

STEPS, LENGTH, OBSERVATION_DIM, ACTION_DIM = 1_000_000, 1000, 11, 3
EVALUATION_STEPS = 50


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> TrajectoryStore:
    """A random store of 1,000,000 steps with Hopper's dimensions."""
    rng = np.random.default_rng(0)
    ended = np.arange(LENGTH) == LENGTH - 1

    def episodes():
        for _ in range(STEPS // LENGTH):
            yield Episode(
                rng.normal(size=(LENGTH + 1, OBSERVATION_DIM)).astype(np.float32),
                rng.uniform(-1, 1, size=(LENGTH, ACTION_DIM)).astype(np.float32),
                rng.normal(size=LENGTH).astype(np.float32),
                np.zeros(LENGTH, dtype=bool),
                ended,
            )

    bound = np.ones(ACTION_DIM, dtype=np.float32)
    names = {"source": "test", "dataset_id": "perf", "env_id": "Hopper-v5"}
    return build_store(tmp_path_factory.mktemp("perf") / "s", episodes(), **names, action_low=-bound, action_high=bound)


@pytest.fixture(scope="session")
def windows(store) -> Windows:
    return Windows(store, WindowOptions(20, return_scale=1000.0))


def module(name: str, preset: str, *overrides: str, observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM):
    entry, suite = model_entry(name), load_suite("d4rl-short")
    layer, task = load_preset(preset), suite.tasks[0]
    config = compose(entry.settings, preset=layer, suite=suite, task=task, overrides=overrides)
    dims = {"observation_dim": observation_dim, "action_dim": action_dim, "max_timesteps": 1000}
    return entry.load()(config, dims)


def test_open_a_store_of_a_million_steps(benchmark, store):
    benchmark(TrajectoryStore.open, store.path)


@pytest.fixture(scope="session")
def hdf5(tmp_path_factory, store):
    """The same steps as a file of D4RL's, with the compression and the keys that its files have."""
    from dtbench.data.export import write_d4rl

    return write_d4rl(store, tmp_path_factory.mktemp("hdf5") / "hopper_medium-v2.hdf5")


def read_hdf5(file):
    with h5py.File(file) as content:
        return {key: content[key][:] for key in content}


def loop_over_steps(file):
    """What a single-file loader does: append step by step, cut at an end, sum the rewards backwards."""
    content = read_hdf5(file)
    episodes, steps = [], {"observations": [], "actions": [], "rewards": []}
    for i in range(len(content["rewards"])):
        for key, values in steps.items():
            values.append(content[key][i])
        if content["terminals"][i] or content["timeouts"][i]:
            episode = {key: np.array(values, dtype=np.float32) for key, values in steps.items()}
            episode["returns"] = np.cumsum(episode["rewards"][::-1])[::-1]
            episodes.append(episode)
            steps = {key: [] for key in steps}
    return episodes


def test_read_hdf5_of_a_million_steps(benchmark, hdf5):
    benchmark.pedantic(read_hdf5, (hdf5,), rounds=5, warmup_rounds=1)


def test_load_hdf5_by_a_loop_over_steps(benchmark, hdf5):
    benchmark.pedantic(loop_over_steps, (hdf5,), rounds=3)


def test_import_hdf5(benchmark, hdf5, tmp_path, monkeypatch):
    """Read, split, check, write, hash: all that a first use costs. The ones after it open the store."""
    from dtbench.data.sources import d4rl

    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path))
    again = {"force": True}
    benchmark.pedantic(d4rl.import_file, (hdf5, "hopper-medium-v2"), again, rounds=5, warmup_rounds=1)


def test_window_batch(benchmark, windows):
    """64 windows of K 20, drawn and gathered."""
    steps = iter(range(10**9))
    benchmark(lambda: windows.gather(windows.draw(64, seed=0, step=next(steps))))


def test_window_batch_by_a_loop_over_samples(benchmark, windows):
    """The same windows one by one and stacked, as a Dataset with a collate function would."""
    steps = iter(range(10**9))

    def batch():
        starts = windows.draw(64, seed=0, step=next(steps))
        samples = [windows.gather(start[None]) for start in starts]
        return {key: torch.cat([sample[key] for sample in samples]) for key in samples[0]}

    benchmark(batch)


@pytest.fixture(scope="session")
def frames(tmp_path_factory) -> TrajectoryStore:
    """A random store of 20,000 frames."""
    path = tmp_path_factory.mktemp("frames") / "s"
    write(path, 20_000 // LENGTH)
    return TrajectoryStore.open(path)


def measure_stacks(benchmark, batch) -> None:
    """Time batches of 128 windows × K 30 × 4 frames, and give the rate of what they show."""
    steps = iter(range(10**9))
    benchmark.pedantic(lambda: batch(next(steps)), rounds=30, warmup_rounds=3)
    if benchmark.stats is not None:
        benchmark.extra_info["mb_per_s"] = round(batch(0).nbytes / 1e6 / benchmark.stats.stats.median)


@pytest.mark.parametrize("near_end", ["shift", "pad"])
def test_window_batch_of_single_frames(benchmark, frames, near_end):
    """The stacks are views; with `pad`, nearly every batch has padding and is copied."""
    windows = Windows(frames, WindowOptions(30, normalize_states=False, near_end=near_end))
    measure_stacks(benchmark, lambda step: windows.gather(windows.draw(128, seed=0, step=step))["observations"])


def test_window_batch_of_stacks_stored_whole(benchmark, frames, tmp_path):
    """The same windows from a file in which each step has its 4 frames: four times the size."""
    windows = Windows(frames, WindowOptions(30, normalize_states=False, near_end="shift"))
    single = Windows(frames, WindowOptions(1, normalize_states=False))
    whole = np.lib.format.open_memmap(tmp_path / "w.npy", "w+", np.uint8, (frames.num_steps, 4, 84, 84))
    for start in range(0, frames.num_steps, LENGTH):
        steps = torch.arange(start, start + LENGTH)
        whole[start : start + LENGTH] = single.gather(steps)["observations"][:, 0].numpy()
    stacks = torch.from_numpy(whole)

    def batch(step):
        starts = windows.draw(128, seed=0, step=step)
        latest = starts // LENGTH * LENGTH + LENGTH - 30
        index = torch.minimum(starts, latest)[:, None] + torch.arange(30)
        return stacks.index_select(0, index.flatten()).reshape(*index.shape, 4, 84, 84)

    measure_stacks(benchmark, batch)


@pytest.mark.parametrize(("name", "preset"), [("dt", "paper"), ("gpt2_dtma", "quick"), ("cql", "paper")])
def test_training_step(benchmark, store, name, preset):
    """Forward, backward, clip and update on a batch as published: 64 × K 20, or 256 transitions for CQL."""
    train(benchmark, store, module(name, preset), 256 if name == "cql" else 64)


@pytest.mark.parametrize("name", ["dt", "dc"])
def test_convolution_against_attention(benchmark, store, name):
    """DC's Gym settings, and DT with its width and context: 3 × 256, batch 64 × K 8."""
    sizes = ("model.width=256", "model.activation=gelu", "training.context_length=8")
    train(benchmark, store, module(name, "paper", *sizes), 64)


def train(benchmark, store, model, batch_size: int) -> None:
    options = WindowOptions(model.context_length, **{"return_scale": 1000.0, **model.window_options})
    windows = Windows(store, options)
    optimizer, steps = model.train().configure_optimizers()["optimizer"], iter(range(10**9))

    def step():
        optimizer.zero_grad(set_to_none=True)
        model.loss(windows.gather(windows.draw(batch_size, seed=0, step=next(steps))))[0].backward()
        model.configure_gradient_clipping(optimizer)
        optimizer.step()

    benchmark.pedantic(step, rounds=15, warmup_rounds=3)


@pytest.mark.parametrize("episodes", [1, 10, 100])
def test_evaluation(benchmark, windows, episodes):
    """50 steps of HalfCheetah in several environments at once (its episodes do not end early), with the paper's DT."""
    mean, std = np.zeros(17, np.float32), np.ones(17, np.float32)
    cheetah = EvaluationProtocol("HalfCheetah-v5", EVALUATION_STEPS, 1000.0, mean, std)
    model = module("dt", "paper", observation_dim=17, action_dim=6).eval()
    benchmark.pedantic(evaluate, args=(model, cheetah, 6000.0, episodes), rounds=5, warmup_rounds=1)
    if benchmark.stats is not None:  # as it is with --benchmark-disable
        benchmark.extra_info["env_steps_per_s"] = round(episodes * EVALUATION_STEPS / benchmark.stats.stats.median)


@pytest.mark.parametrize("context", [20, 200])
@pytest.mark.parametrize("name", list(contexts.MODELS))
def test_action_of_ten(benchmark, name, context):
    """What `contexts.py` tabulates: `dt` acts on a window of `context` steps, the others on the state after as many."""
    with torch.no_grad():
        benchmark.pedantic(contexts.case(name, context).act, rounds=15, warmup_rounds=2)


@pytest.mark.parametrize("kind", [TrajectoryTransformer, Uncached])
def test_planning(benchmark, kind):
    """One search of `tt` at `quick` for ten environments at once, as many as an evaluation has."""
    model, _ = build(kind, "quick", "hopper-medium", [])
    window = random_window(10, model.context_length, model.spaces, model.draws)
    benchmark.pedantic(model.act, (window,), rounds=10, warmup_rounds=2)
    if benchmark.stats is not None:
        benchmark.extra_info["tokens_per_s"] = round(10 * tokens_per_search(model) / benchmark.stats.stats.median)


def test_help(benchmark):
    benchmark.pedantic(
        subprocess.run,
        args=([sys.executable, "-m", "dtbench", "--help"],),
        kwargs={"check": True, "capture_output": True},
        rounds=5,
        warmup_rounds=1,
    )
