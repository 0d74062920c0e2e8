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

CASES = [*((model, "vector/continuous") for model in MODELS), ("cql", "vector/discrete")]
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


def prepare(folder: Path, model: str, kind: str) -> None:
    """Write what both processes and the one train, and their data."""
    folder.mkdir()
    config = model_config(model, **OPTIONS.get(model, {}))
    config.training.context_length = min(config.training.context_length, 3)  # the shortest episode
    config.training.steps = STEPS
    content = {"model": model, "config": config.to_dict(), "spaces": KINDS[kind].to_dict()}
    (folder / "subject.json").write_text(json.dumps(content), encoding="utf-8")
    small_store(folder, KINDS[kind])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[tuple[str, str], Path]:
    """Train all, one after the other, in the same two processes, which take long to start; return where."""
    here = tmp_path_factory.mktemp("two-processes")
    folders = {case: here / "-".join(case).replace("/", "-") for case in CASES}
    for (model, kind), folder in folders.items():
        prepare(folder, model, kind)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-m", "tests.runs.two_processes", *map(str, folders.values())]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    return folders


@pytest.mark.slow
@pytest.mark.parametrize(("model", "kind"), CASES)
def test_two_processes_train_as_one_with_the_doubled_batch(model, kind, trained):
    """The sums are added in another order: the losses differed by at most 2e-7 of their size, weights by 1.3e-6.

    Those of the two processes differ by a fifth and more.
    """
    folder = trained[model, kind]
    alone, losses = build(folder), Losses()
    loader = data(folder, alone).train_dataloader()
    alone.see_data(loader.windows)  # Lightning does not know them without the data module
    quiet_trainer([losses]).fit(alone, train_dataloaders=Both(loader))
    ranks = [json.loads((folder / f"losses-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    first, second = (torch.load(folder / f"weights-{rank}.pt", weights_only=True) for rank in range(2))
    assert losses.values == pytest.approx(np.mean(ranks, axis=0), rel=1e-4)
    assert ranks[0] != ranks[1]
    for name, value in alone.state_dict().items():
        if name != "recent_losses":
            assert torch.equal(first[name], second[name]), name
            assert torch.allclose(value, first[name], atol=1e-4), name
