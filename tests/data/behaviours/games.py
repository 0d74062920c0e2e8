"""A game's policy with random weights, put where the shipped ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from dtbench.data.behaviours import policy
from dtbench.data.behaviours.ram import FEATURES, LAYERS

GAMES = {"breakout": (4, True), "pong": (6, False)}
SNAPSHOT = 51_200


def weights(actions: int, seed: int = 0, width: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = dict(zip(LAYERS, ((width, FEATURES), (width, width), (actions, width)), strict=True))
    drawn = {f"{layer}.weight": rng.normal(size=shape, scale=shape[1] ** -0.5) for layer, shape in shapes.items()}
    drawn |= {f"{layer}.bias": rng.normal(size=shape[0]) for layer, shape in shapes.items()}
    return {name: value.astype(np.float16) for name, value in drawn.items()}


def ship(folder: Path, monkeypatch) -> None:
    """Let the shipped behaviours be the games' of `GAMES`, each with one snapshot of random weights."""
    entries: dict[str, Any] = {}
    for game, (actions, serves) in GAMES.items():
        tensors = {f"step-{SNAPSHOT:07d}/{name}": value for name, value in weights(actions).items()}
        save_file(tensors, folder / f"{game}.safetensors")
        entries[game] = {
            "game": game,
            "env_id": f"dtbench/Atari-{game.title()}-v0",
            "file": f"{game}.safetensors",
            "sha256": "0" * 64,
            "actions": actions,
            "serves": serves,
            "datasets": {"expert": [SNAPSHOT], "medium": [SNAPSHOT], "medium-replay": [0, SNAPSHOT]},
        }
    monkeypatch.setattr(policy, "WEIGHTS", folder)
    monkeypatch.setattr(policy, "MANIFEST", folder / "behaviours.json")
    (folder / "behaviours.json").write_text(policy.json.dumps(entries))
    policy.manifest.cache_clear()
