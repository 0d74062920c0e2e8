"""Two-process training for `contract.check_two_processes`: Lightning starts this module again for rank 1."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from tests.models.contract import build_model, fit_steps


class Windows(Callback):
    """Keep a digest of every batch this rank sees."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(hashlib.sha256(batch["observations"].numpy().tobytes()).hexdigest())


def digest(module: torch.nn.Module) -> str:
    values = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    module, windows = build_model(name), Windows()
    initial = digest(module)
    fit_steps(module, folder, 3, callbacks=(windows,), devices=2, strategy="ddp")
    content = {"windows": windows.seen, "initial_weights": initial, "weights": digest(module)}
    (folder / f"rank-{module.global_rank}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
