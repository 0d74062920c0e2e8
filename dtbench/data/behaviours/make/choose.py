"""Choose the snapshots that dtbench ships and write them with their card.

    python -m dtbench.data.behaviours.make.choose runs/hopper runs/halfcheetah runs/walker2d

Each folder holds the snapshots that `train.py` wrote. All are evaluated, acting stochastically as in the rollouts. Then
D4RL's levels are chosen:

* `medium` is the snapshot whose normalised score is nearest to MEDIUM, among those before the training first exceeded
  TOO_GOOD (SAC on Hopper rises and falls: a later snapshot of the same score would put near-experts into medium-replay)
  and among those that score at least as well with their mean action, over STEADY_EPISODES episodes (a policy that stays
  upright only thanks to its noise would teach a deterministic one to fall);
* `expert` is the best snapshot;
* `replay` are up to twelve, spread evenly from the untrained policy up to medium.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits

from dtbench.data.behaviours.policy import WEIGHTS, SacActor, read_weights
from dtbench.suites.scores import ReferenceScores

#: The middle of one third to one half of the expert's score.
MEDIUM = 0.42
#: About the range of D4RL's medium policies.
MEDIUM_RANGE = (0.35, 0.60)
TOO_GOOD = 0.60
EPISODES = 20
STEADY_EPISODES = 100
REPLAY_SNAPSHOTS = 12
_REFERENCES = {  # D4RL, d4rl/infos.py
    "hopper": ReferenceScores("d4rl", -20.272305, 3234.3),
    "halfcheetah": ReferenceScores("d4rl", -280.178953, 12135.0),
    "walker2d": ReferenceScores("d4rl", 1.629008, 4592.3),
}


def evaluate(
    env_id: str, file: Path, episodes: int, deterministic: bool, seed: int = 0
) -> tuple[list[float], list[int]]:
    """Return the returns and lengths of `episodes` episodes, stepped together."""
    with threadpool_limits(1):
        envs = [gym.make(env_id) for _ in range(episodes)]
        space = envs[0].action_space
        assert isinstance(space, gym.spaces.Box)
        weights = {name: value.astype(np.float16).astype(np.float32) for name, value in read_weights(file).items()}
        actor = SacActor(weights, space.low.astype(np.float32), space.high.astype(np.float32))
        rng = np.random.default_rng(seed)
        observations = np.stack([env.reset(seed=seed + index)[0] for index, env in enumerate(envs)])
        returns, lengths, alive = np.zeros(episodes), np.zeros(episodes, dtype=int), np.ones(episodes, dtype=bool)
        while alive.any():
            actions = actor.act(observations, rng, deterministic)
            for index in np.flatnonzero(alive):
                observations[index], reward, terminated, truncated, _ = envs[index].step(actions[index])
                returns[index] += float(reward)
                lengths[index] += 1
                alive[index] = not (terminated or truncated)
        for env in envs:
            env.close()
    return returns.tolist(), lengths.tolist()


def measure(env_id: str, name: str, file: Path) -> dict[str, Any]:
    """Evaluate one snapshot and describe it."""
    reference = _REFERENCES[name]
    returns, lengths = evaluate(env_id, file, EPISODES, deterministic=False)
    normalized = reference.normalize(returns)
    return {
        "step": int(file.stem.removeprefix("step-")),
        "return_mean": round(float(np.mean(returns)), 1),
        "return_std": round(float(np.std(returns)), 1),
        "normalized_mean": round(float(normalized.mean()), 4),
        "normalized_std": round(float(normalized.std()), 4),
        "length_mean": round(float(np.mean(lengths)), 1),
    }


def _steadiness(env_id: str, file: Path) -> dict[str, Any]:
    """Compare a snapshot acting by its mean action and acting stochastically, over fresh episodes."""
    mean_action, _ = evaluate(env_id, file, STEADY_EPISODES, deterministic=True, seed=1000)
    stochastic, _ = evaluate(env_id, file, STEADY_EPISODES, deterministic=False, seed=2000)
    return {
        "deterministic_return_mean": round(float(np.mean(mean_action)), 1),
        "steady": bool(np.mean(mean_action) >= np.mean(stochastic)),
    }


def choose_levels(snapshots: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Choose the steps of the levels medium, expert and replay from the measured snapshots, in order of training."""
    expert = max(snapshots, key=lambda snapshot: snapshot["normalized_mean"])
    scores = [snapshot["normalized_mean"] for snapshot in snapshots]
    first_too_good = next((index for index, score in enumerate(scores) if score > TOO_GOOD), len(scores))
    early = snapshots[:first_too_good]
    steady = [snapshot for snapshot in early if snapshot.get("steady")]
    medium = min(steady or early, key=lambda snapshot: abs(snapshot["normalized_mean"] - MEDIUM))
    until_medium = [snapshot["step"] for snapshot in snapshots if snapshot["step"] <= medium["step"]]
    spread = np.linspace(0, len(until_medium) - 1, min(REPLAY_SNAPSHOTS, len(until_medium))).round().astype(int)
    replay = [until_medium[index] for index in spread]
    return {"medium": [medium["step"]], "expert": [expert["step"]], "replay": replay}


def export(folder: Path, output: Path, pool: ProcessPoolExecutor) -> tuple[str, dict[str, Any]]:
    """Evaluate one training's snapshots, write the chosen ones and return its entry of the manifest."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    env_id = settings["env_id"]
    name = env_id.split("-")[0].lower()
    files = sorted(folder.glob("step-*.safetensors"))
    snapshots = list(pool.map(measure, [env_id] * len(files), [name] * len(files), files))
    candidates = [s for s in snapshots if MEDIUM_RANGE[0] <= s["normalized_mean"] <= MEDIUM_RANGE[1]]
    tried = [folder / f"step-{snapshot['step']:07d}.safetensors" for snapshot in candidates]
    for snapshot, figures in zip(candidates, pool.map(_steadiness, [env_id] * len(tried), tried), strict=True):
        snapshot |= figures
    levels = choose_levels(snapshots)
    best = next(snapshot for snapshot in snapshots if snapshot["step"] == levels["expert"][0])
    best |= _steadiness(env_id, folder / f"step-{best['step']:07d}.safetensors")
    chosen = sorted({step for steps in levels.values() for step in steps})
    tensors = {}
    for step in chosen:
        for tensor, value in read_weights(folder / f"step-{step:07d}.safetensors").items():
            tensors[f"step-{step:07d}/{tensor}"] = value.astype(np.float16)
    file = output / f"{name}.safetensors"
    save_file(tensors, file)
    space = gym.make(env_id).action_space
    assert isinstance(space, gym.spaces.Box)
    reached = max(snapshot["step"] for snapshot in snapshots)
    settings["total_steps"] = reached
    return name, {
        "env_id": env_id,
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "action_space": {"low": space.low.tolist(), "high": space.high.tolist()},
        "settings": settings,
        "versions": {package: version(package) for package in ("stable-baselines3", "torch", "gymnasium", "mujoco")},
        "levels": levels,
        "snapshots": snapshots,
    }


def card(manifest: dict[str, Any]) -> str:
    """Write the card from the manifest."""
    lines = [
        "# Behaviour policies of the `local` source",
        "",
        "Soft Actor-Critic (stable-baselines3), trained by `python -m dtbench.data.behaviours.make.train`, chosen by",
        "`python -m dtbench.data.behaviours.make.choose`; this card is generated from `behaviours.json`. The actors",
        f"are stored in float16. Returns are mean ± standard deviation over {EPISODES} episodes, the policy acting",
        "stochastically as in the rollouts; normalised by D4RL's references (100 = D4RL's expert).",
        "",
        "The levels have D4RL's names and meaning. **They are not D4RL's policies**: `expert` is the best snapshot of",
        "a short training, with the score in the table.",
    ]
    games = {name: entry for name, entry in sorted(manifest.items()) if "game" in entry}
    for name, entry in sorted(manifest.items()):
        if name in games:
            continue
        settings, levels = entry["settings"], entry["levels"]
        by_step = {snapshot["step"]: snapshot for snapshot in entry["snapshots"]}
        versions = ", ".join(f"{package} {number}" for package, number in entry["versions"].items())
        lines += [
            "",
            f"## {name} ({entry['env_id']})",
            "",
            f"{settings['total_steps']:,} environment steps, seed {settings['seed']}, learning rate "
            f"{settings['learning_rate']:g}, batch {settings['batch_size']}, τ {settings['tau']:g}, "
            f"γ {settings['gamma']:g}, two layers of {settings['width']}, "
            f"{settings['gradient_steps']} gradient steps every {settings['train_freq']} environment steps; "
            f"{versions}.",
            "",
            "| level | environment steps | return | normalised | episode length | by mean action (100 episodes) |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for level in ("medium", "expert"):
            shot = by_step[levels[level][0]]
            lines.append(
                f"| {level} | {shot['step']:,} | {shot['return_mean']:,} ± {shot['return_std']:,} | "
                f"{100 * shot['normalized_mean']:.1f} ± {100 * shot['normalized_std']:.1f} | "
                f"{shot['length_mean']:.0f} | "
                f"{shot['deterministic_return_mean']:,} |"
            )
        replay = ", ".join(f"{step:,} ({100 * by_step[step]['normalized_mean']:.0f})" for step in levels["replay"])
        lines += ["", f"`medium-replay` mixes the snapshots at (normalised score in brackets): {replay}."]
    if games:
        lines += _ATARI
    for name, entry in games.items():
        lines += _game_section(name, entry)
    return "\n".join(lines) + "\n"


_ATARI = [
    "",
    "# Atari",
    "",
    "PPO (stable-baselines3) on the console's 128 bytes of memory, scaled to [−1, 1], and their change since the last",
    "step; trained by `python -m dtbench.data.behaviours.make.train_atari` with a lost life as an episode's end and",
    "the signs of the rewards, four frames per step, no sticky actions; chosen by `make.choose_atari`. The actors are",
    "stored in float16. Returns are raw ones of whole games, mean ± standard deviation, actions sampled as in the",
    "rollouts, over other games than those by which the snapshots were chosen; human: 0 = random play, 100 = a human",
    "tester, by the table that the section names. Step 0 is random play.",
    "",
    "**These are not the DQN replay's policies**: `expert` is the best snapshot of a short training. A level that",
    "plays worse than a tenth of a human has a name that says what it is: `mid-training`, `best-of-training`.",
]


def _game_section(name: str, entry: dict[str, Any]) -> list[str]:
    settings = entry["settings"]
    by_step = {snapshot["step"]: snapshot["fresh"] for snapshot in entry["snapshots"] if "fresh" in snapshot}
    versions = ", ".join(f"{package} {number}" for package, number in entry["versions"].items())
    serves = ", FIRE at the start of a life" if entry["serves"] else ""
    lines = [
        "",
        f"## {name} ({entry['env_id']})",
        "",
        f"{settings['total_steps']:,} environment steps of {settings['environments']} games together, seed "
        f"{settings['seed']}, {settings['steps_per_update']} steps per game and update, batch "
        f"{settings['batch_size']}, {settings['epochs']} epochs, "
        f"learning rate {settings['learning_rate']:g}, entropy {settings['entropy']:g}, "
        f"clip {settings['clip']:g}, γ {settings['gamma']:g}, λ {settings['gae_lambda']:g}, two layers of "
        f"{settings['width']}{serves}; human: {entry['reference']}; {versions}.",
        "",
        "| level | environment steps | return | human-normalised | steps per game | games |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for level, steps in entry["datasets"].items():
        if len(steps) == 1:
            shot = by_step[steps[0]]
            lines.append(
                f"| {level} | {steps[0]:,} | {shot['return_mean']:,} ± {shot['return_std']:,} | "
                f"{100 * shot['human_mean']:.1f} ± {100 * shot['human_std']:.1f} | "
                f"{shot['length_mean']:.0f} | {shot['games']} |"
            )
    for level, steps in entry["datasets"].items():
        if len(steps) > 1:
            mixed = ", ".join(f"{step:,} ({by_step[step]['return_mean']:,})" for step in steps)
            lines += ["", f"`{level}` mixes the snapshots at (return in brackets): {mixed}."]
    return lines


def main() -> None:
    """Evaluate the snapshots of the named trainings and write what is shipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.workers) as pool:
        add_to_manifest(args.output, [export(folder, args.output, pool) for folder in args.folders])


def add_to_manifest(output: Path, entries: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Add environments to what is shipped, or replace them, and write the card anew."""
    file = output / "behaviours.json"
    manifest = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    manifest.update(entries)
    file.write_text(json.dumps(dict(sorted(manifest.items())), indent=1) + "\n", encoding="utf-8")
    (output / "README.md").write_text(card(manifest), encoding="utf-8")


if __name__ == "__main__":
    main()
