"""The files of a run's folder."""

from __future__ import annotations

from pathlib import Path

#: In a run's folder: what `evaluate` needs beside the weights, and what its checkpoints belong to.
RUN_FILE = "run.json"


#: A run's folder: the checkpoint to resume from, then the trained weights and what is to be said of the training.
LATEST, FINAL, RECORD = "latest.ckpt", "final.ckpt", "training.json"


#: While it trains: the number of steps done.
STEP_FILE = "step.txt"


def read_step(folder: Path) -> int:
    """Return how many steps the run in `folder` has done, as far as it has told; 0 before it has."""
    try:
        return int((folder / STEP_FILE).read_text())
    except (OSError, ValueError):
        return 0
