"""Choose the snapshots of Atari games that dtbench ships and write them with their card.

    python -m dtbench.data.behaviours.make.choose_atari runs/breakout runs/pong runs/qbert runs/seaquest

Each folder holds the snapshots that `train_atari.py` wrote. All are evaluated by the protocol of the suite `atari`:
whole games, raw rewards, no sticky actions, actions sampled as in the rollouts. Scores are shares of the way from
random play to the best snapshot. Then the levels are chosen:

* `expert` is the best snapshot;
* `medium` is the trained snapshot whose score is nearest to MEDIUM, among those before the training first exceeded
  TOO_GOOD, as for MuJoCo (`choose.py`); where the first one already did, among all that did not;
* `medium-replay` mixes random play, the snapshot before medium whose score is nearest to half of medium's, and medium.

Three snapshots of two layers of 256 are 0.8 MB in float16, and a game's file has at most 1 MB; random play needs none.
The chosen ones are measured again, over FRESH_EPISODES other games: the best of many is partly a lucky one, and these
are the figures of the card. A level whose human-normalised score is then below LEAST_HUMAN has the name in WEAK
instead: it says what the policy is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits

from dtbench.atomic import replacing
from dtbench.data.behaviours.make.choose import MEDIUM, TOO_GOOD, add_to_manifest
from dtbench.data.behaviours.policy import WEIGHTS
from dtbench.data.behaviours.ram import NEEDS_FIRE, RamActor, RamPlayer, Weights, read_weights
from dtbench.environments.atari import env_id
from dtbench.environments.make import make_environment
from dtbench.suites.atari import human_reference

EPISODES = 20
FRESH_EPISODES, FRESH_SEED = 100, 1_000
LEAST_HUMAN = 0.1
#: What a level is called that plays worse than that.
WEAK = {"expert": "best-of-training", "medium": "mid-training", "medium-replay": "mid-training-replay"}
MOST_BYTES = 1_000_000


def halved(weights: Weights) -> Weights:
    """Return weights as they are after a rollout has read them from a shipped float16 file."""
    return {name: value.astype(np.float16).astype(np.float32) for name, value in weights.items()}


def evaluate(game: str, actor: RamActor, episodes: int, seed: int = 0) -> tuple[list[float], list[int]]:
    """Return the raw returns and the lengths of whole games, one after the other."""
    env = make_environment(env_id(game), kwargs={"ram": True})
    returns, lengths = [], []
    with threadpool_limits(1):
        for episode in range(episodes):
            player = RamPlayer(actor, game in NEEDS_FIRE, np.random.default_rng(seed + episode))
            ram, info = env.reset(seed=seed + episode)
            total, length, over = 0.0, 0, False
            while not over:
                ram, reward, terminated, truncated, info = env.step(player.act(ram, info["lives"]))
                total, length, over = total + float(reward), length + 1, terminated or truncated
            returns.append(total)
            lengths.append(length)
    env.close()
    return returns, lengths


def measure(game: str, file: Path, episodes: int, seed: int = 0) -> dict[str, Any]:
    """Evaluate one snapshot and describe it; the first one as random play."""
    step = int(file.stem.removeprefix("step-"))
    actor = RamActor(halved(read_weights(file))) if step else RamActor.uniform(actions_of(game))
    returns, lengths = evaluate(game, actor, episodes, seed)
    normalized = human_reference(game).normalize(returns)
    return {
        "step": step,
        "return_mean": round(float(np.mean(returns)), 1),
        "return_std": round(float(np.std(returns)), 1),
        "human_mean": round(float(normalized.mean()), 4),
        "human_std": round(float(normalized.std()), 4),
        "length_mean": round(float(np.mean(lengths)), 1),
        "games": episodes,
    }


def actions_of(game: str) -> int:
    """Return the number of a game's actions."""
    env = make_environment(env_id(game), kwargs={"ram": True})
    env.close()
    return int(env.action_space.n)  # type: ignore[attr-defined]  # Discrete


def choose_levels(snapshots: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Choose the steps of the levels from the measured snapshots, in order of training, the first one random play."""
    random, best = snapshots[0]["return_mean"], max(snapshots, key=lambda snapshot: snapshot["return_mean"])
    span = (best["return_mean"] - random) or 1.0
    scores = [(snapshot["return_mean"] - random) / span for snapshot in snapshots]
    too_good = [index for index, score in enumerate(scores) if score > TOO_GOOD]
    early = range(1, min(too_good, default=len(scores)))
    candidates = early or [index for index in range(1, len(scores)) if index not in too_good] or [0]
    medium = min(candidates, key=lambda index: abs(scores[index] - MEDIUM))
    half = min(range(medium + 1), key=lambda index: abs(scores[index] - scores[medium] / 2))
    steps = {"expert": [best["step"]], "medium": [snapshots[medium]["step"]]}
    replay = sorted({0, snapshots[half]["step"], snapshots[medium]["step"]})
    return {**steps, "medium-replay": replay}


def named(levels: dict[str, list[int]], snapshots: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Rename the levels that play worse than a tenth of a human; a mixture goes with its last snapshot."""
    human = {shot["step"]: shot["fresh"]["human_mean"] for shot in snapshots if "fresh" in shot}
    return {
        WEAK[level] if human[steps[-1]] < LEAST_HUMAN else level: steps
        for level, steps in sorted(levels.items(), key=lambda item: list(WEAK).index(item[0]))
    }


def export(folder: Path, output: Path, episodes: int, pool: ProcessPoolExecutor) -> tuple[str, dict[str, Any]]:
    """Evaluate one training's snapshots, write the chosen ones and return its entry of the manifest."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    game = settings["game"]
    files = sorted(folder.glob("step-*.safetensors"))
    snapshots = list(pool.map(partial(measure, game, episodes=episodes), files))
    levels = choose_levels(snapshots)
    chosen = {step for steps in levels.values() for step in steps}
    indices = [index for index, snapshot in enumerate(snapshots) if snapshot["step"] in chosen]
    again = partial(measure, game, episodes=FRESH_EPISODES, seed=FRESH_SEED)
    for index, fresh in zip(indices, pool.map(again, [files[index] for index in indices]), strict=True):
        snapshots[index]["fresh"] = fresh
    name = game.replace("_", "")
    file = output / f"{name}.safetensors"
    _save_chosen(folder, file, sorted(chosen - {0}))
    packages = ("stable-baselines3", "torch", "gymnasium", "ale-py")
    return name, {
        "game": game,
        "env_id": env_id(game),
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "actions": actions_of(game),
        "serves": game in NEEDS_FIRE,
        "reference": human_reference(game).table,
        "settings": {**settings, "total_steps": max(snapshot["step"] for snapshot in snapshots)},
        "versions": {package: version(package) for package in packages},
        "datasets": named(levels, snapshots),
        "snapshots": snapshots,
    }


def _save_chosen(folder: Path, file: Path, steps: Sequence[int]) -> None:
    tensors = {}
    for step in steps:
        for tensor, value in read_weights(folder / f"step-{step:07d}.safetensors").items():
            tensors[f"step-{step:07d}/{tensor}"] = value.astype(np.float16)
    size = sum(value.nbytes for value in tensors.values())
    if size > MOST_BYTES:
        raise SystemExit(f"{file} would have {size:,} bytes, more than {MOST_BYTES:,}; train a smaller --width.")
    with replacing(file) as new:
        save_file(tensors, new)


def main() -> None:
    """Evaluate the snapshots of the named trainings and write what is shipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    parser.add_argument("--episodes", type=int, default=EPISODES, help="games per snapshot")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.workers) as pool:
        add_to_manifest(args.output, [export(folder, args.output, args.episodes, pool) for folder in args.folders])


if __name__ == "__main__":
    main()
