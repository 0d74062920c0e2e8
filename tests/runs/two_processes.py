"""Trainings in two processes: `python -m tests.runs.two_processes FOLDER …`, which Lightning starts again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn

from dtbench.config import RunConfig, from_dict
from dtbench.console import quieten_libraries
from dtbench.data.datamodule import TrajectoryDataModule
from dtbench.data.windows import WindowOptions
from dtbench.models.base import OfflineModule
from dtbench.models.cql import ConservativeQLearning
from dtbench.models.parts.dropout import Dropout
from dtbench.registry import model_entry
from dtbench.spaces import Spaces
from dtbench.testing.material import BATCH, Losses, quiet_trainer

STEPS = 12


def data(folder: Path, module: OfflineModule) -> TrajectoryDataModule:
    """Return windows without padding, which would weigh the processes' real steps unequally."""
    wanted = {"return_scale": 10.0, "near_end": "shift", **module.window_options}
    options = WindowOptions(module.context_length, **wanted)
    held_out = {"held_out_share": module.held_out_share, "is_held_out_step": module.is_held_out_step}
    return TrajectoryDataModule(folder / "store", options, batch_size=BATCH, steps=STEPS, seed=0, **held_out)


def build(folder: Path) -> OfflineModule:
    """Build the model that the folder describes; what is random is taken out: each process would draw its own."""
    content = json.loads((folder / "subject.json").read_text(encoding="utf-8"))
    model = model_entry(content["model"]).load()
    config: RunConfig = from_dict(content["config"], model.Config)
    module: OfflineModule = model(config, Spaces.of(content["spaces"]))
    for part in module.modules():
        if isinstance(part, Dropout | nn.Dropout):
            part.p = 0.0
    if isinstance(module, ConservativeQLearning) and module.discrete is None:
        draw_by_state(module)
    return module


def draw_by_state(module: ConservativeQLearning) -> None:
    """Let CQL's actions be functions of the state, as varied as random ones."""
    policy = module.policy

    def spread(observations: torch.Tensor, count: int) -> torch.Tensor:
        size = module.spaces.action.size
        places = torch.arange(count * size, dtype=torch.float32).reshape(count, size)
        return torch.sin(7 * observations.sum(-1)[:, None, None] + 2 * places)

    def sample(observations: torch.Tensor, count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        distribution = policy.distribution(observations[:, None].expand(-1, count, -1))
        normal = distribution.base_dist
        actions = torch.tanh(normal.loc + normal.scale * spread(observations, count))
        return actions, distribution.log_prob(actions).sum(-1)

    policy.sample = sample
    module.uniform_actions = lambda observations: spread(observations, module.options.sampled_actions)


def main() -> None:
    """Train in every folder, and write every rank's losses and weights there."""
    quieten_libraries()
    for folder in map(Path, sys.argv[1:]):
        module, losses = build(folder), Losses()
        quiet_trainer([losses], devices=2, strategy="ddp").fit(module, datamodule=data(folder, module))
        rank = module.global_rank
        (folder / f"losses-{rank}.json").write_text(json.dumps(losses.values), encoding="utf-8")
        torch.save(module.state_dict(), folder / f"weights-{rank}.pt")


if __name__ == "__main__":
    main()
