"""Two processes and one with the doubled batch follow the same losses and end with the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dtbench.registry import MODELS
from dtbench.testing import KINDS, model_config
from dtbench.testing.material import Losses, quiet_trainer, small_store
from tests.runs.two_processes import STEPS, build, data

#: The gate of GPT2-DTMA in turn with the rest.
OPTIONS = {"gpt2_dtma": {"gate_every": 3}}


class Both:
    """The windows of both processes in one batch."""

    def __init__(self, loader) -> None:
        self.first, self.second = loader, type(loader)(**{**vars(loader), "rank": 1})

    def __len__(self) -> int:
        return STEPS

    def __iter__(self):
        for step in range(STEPS):
            parts = self.first.batch(step), self.second.batch(step)
            yield {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def in_two_processes(folder: Path) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """Return the losses of both ranks and the weights of the first."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-m", "tests.runs.two_processes", str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [json.loads((folder / f"losses-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    weights = [torch.load(folder / f"weights-{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in weights[0].items():
        if name != "recent_losses":
            assert torch.equal(value, weights[1][name]), name
    return losses, weights[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kind"), [*((model, "vector/continuous") for model in MODELS), ("cql", "vector/discrete")]
)
def test_two_processes_train_as_one_with_the_doubled_batch(model, kind, tmp_path):
    """The sums are added in another order: the losses differed by at most 2e-7 of their size, weights by 1.3e-6.

    Those of the two processes differ by a fifth and more.
    """
    spaces = KINDS[kind]
    config = model_config(model, **OPTIONS.get(model, {}))
    config.training.context_length = min(config.training.context_length, 3)  # the shortest episode
    config.training.steps = STEPS
    content = {"model": model, "config": config.to_dict(), "spaces": spaces.to_dict()}
    (tmp_path / "subject.json").write_text(json.dumps(content), encoding="utf-8")
    small_store(tmp_path, spaces)
    alone, losses = build(tmp_path), Losses()
    loader = data(tmp_path, alone).train_dataloader()
    alone.see_data(loader.windows)  # Lightning does not know them without the data module
    quiet_trainer([losses]).fit(alone, train_dataloaders=Both(loader))
    ranks, weights = in_two_processes(tmp_path)
    assert losses.values == pytest.approx(np.mean(ranks, axis=0), rel=1e-4)
    assert ranks[0] != ranks[1]
    for name, value in alone.state_dict().items():
        if name != "recent_losses":
            assert torch.allclose(value, weights[name], atol=1e-4), name
