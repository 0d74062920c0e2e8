"""Files of tensors are read without running anything in them, and damaged ones are one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dtbench.errors import ConfigError


def load_checkpoint(path: str | Path, device: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors and plain values is unpickled.

    Args:
        path: a file that `torch.save` or Lightning wrote.
        device: where the tensors go.

    Raises:
        ConfigError: the file is missing or damaged, or holds anything else.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no checkpoint {path}.") from error
    except Exception as error:  # PyTorch's own message advises to run the file's code, so only the type is shown
        raise ConfigError(
            f"{path} is not a readable checkpoint ({type(error).__name__}): it is damaged, or holds more than tensors "
            "and plain values."
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a checkpoint: it holds a {type(content).__name__}.")
    return content
