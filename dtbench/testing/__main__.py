"""The trainings of the check `two-processes`: `python -m dtbench.testing FOLDER …`."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from dtbench.config import from_dict
from dtbench.console import quieten_libraries
from dtbench.registry import model_entry
from dtbench.spaces import Spaces
from dtbench.testing.material import fit_steps


class _Digests(Callback):
    """Keep a digest of every batch that this rank sees."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(hashlib.sha256(batch["observations"].numpy().tobytes()).hexdigest())


def _digest(module: torch.nn.Module) -> str:
    values = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def train(folder: Path) -> None:
    """Train the folder's subject for three steps and write what this rank saw and got."""
    content = json.loads((folder / "subject.json").read_text(encoding="utf-8"))
    model = model_entry(content["target"]).load()
    module = model(from_dict(content["config"], model.Config), Spaces.of(content["spaces"]))
    digests = _Digests()
    initial = _digest(module)
    fit_steps(module, folder, 3, callbacks=[digests], devices=2, strategy="ddp")
    seen = {"windows": digests.seen, "initial_weights": initial, "weights": _digest(module)}
    (folder / f"rank-{module.global_rank}.json").write_text(json.dumps(seen), encoding="utf-8")


def main() -> None:
    """Train in every folder; the first training lets Lightning start this command again as the second process."""
    quieten_libraries()
    for folder in sys.argv[1:]:
        train(Path(folder))


if __name__ == "__main__":
    main()
