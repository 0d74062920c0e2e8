"""Checkpoints are read without running anything in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dtbench.errors import ConfigError


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors and plain values is unpickled.

    Raises:
        ConfigError: it is missing, damaged, or holds anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path} is no readable checkpoint ({type(error).__name__}); train the run again.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no checkpoint: it holds a {type(content).__name__}.")
    return content
