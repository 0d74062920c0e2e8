"""The choice `model.init`: as published, or small."""

from __future__ import annotations

from torch import nn

_STD = 0.02


def shrink(*modules: nn.Module) -> None:
    """Draw every linear map and embedding table anew from N(0, 0.02), with zero biases, as minGPT and CORL do.

    Convolutions keep theirs. The published code of DT and its successors leaves embeddings and head at PyTorch's
    defaults. The time table, for one, is then N(0, 1) and drowns the content before the LayerNorm, which slows short
    trainings down.
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                nn.init.normal_(layer.weight, std=_STD)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
