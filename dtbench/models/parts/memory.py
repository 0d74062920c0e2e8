"""Rough sizes of what a training step keeps in memory, known before it is taken.

The formulas count the values that PyTorch saves for the backward pass. They are meant to tell megabytes from gigabytes,
so that a run that cannot fit is refused. Measured on a CPU, they are right within a factor of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.observations import FrameEncoder
from dtbench.models.parts.trunk import RecurrentMixer, Trunk, TrunkConfig

#: Values of size `width` that a block saves per token, apart from the MLP's two inner ones: both LayerNorms' inputs and
#: outputs, queries, keys, values, the heads' outputs before and after they are merged, and two dropout masks.
_WIDTHS_PER_BLOCK = 11
#: Values per pair of tokens and head where attention is computed step by step: scores, softmax, dropout mask, product.
_VALUES_PER_SCORE = 4
#: An MLP keeps its activations, and the backward pass needs about as much again.
_MLP_FACTOR = 2


@dataclass(frozen=True)
class Numbers:
    """How a device computes.

    Attributes:
        bytes_per_value: 4 for float32, 2 for the 16-bit types.
        fused_attention: attention never stores its scores (PyTorch's kernels on a GPU; on a CPU only without dropout).
    """

    bytes_per_value: int = 4
    fused_attention: bool = False


def builds_on_meta() -> bool:
    """Say whether layers are being built without memory, inside `with torch.device("meta")`."""
    return torch.get_default_device().type == "meta"


def trunk_bytes(trunk: nn.Module, batch: int, tokens: int, selected: int, numbers: Numbers) -> int:
    """Estimate what a forward pass through a trunk keeps for the backward pass.

    Args:
        trunk: a `Trunk`, or another module with its `config`.
        batch: sequences.
        tokens: T, tokens per sequence.
        selected: tokens whose output is wanted; the last layer attends from those only.
    """
    config = trunk.config
    assert isinstance(config, TrunkConfig)
    inner = config.inner_width or 4 * config.width
    per_token = config.layers * (_WIDTHS_PER_BLOCK * config.width + 2 * inner)
    attending = [True] * config.layers
    if isinstance(trunk, Trunk):
        mixers = [block.mixer for block in trunk.blocks]
        attending = [isinstance(mixer, Attention) for mixer in mixers]
        per_token += sum(mixer.values_per_token for mixer in mixers if isinstance(mixer, RecurrentMixer))
    asking = [tokens] * (config.layers - 1) + [selected]
    pairs = sum(rows * tokens for rows, attends in zip(asking, attending, strict=True) if attends)
    is_fused = numbers.fused_attention or config.attention_dropout == 0
    # A fused kernel takes the mask as numbers, one per pair; the mask itself is made of several bool matrices.
    per_pair = 1 if is_fused else _VALUES_PER_SCORE * config.heads
    values = batch * (tokens * per_token + pairs * per_pair)
    return values * numbers.bytes_per_value + 3 * batch * tokens**2


def mlp_bytes(module: nn.Module, rows: int, numbers: Numbers) -> int:
    """Estimate what a pass of `rows` rows through all linear maps of a module keeps for the backward pass."""
    outputs = sum(layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear))
    return _MLP_FACTOR * rows * outputs * numbers.bytes_per_value + frame_bytes(module, rows, numbers)


def frame_bytes(module: nn.Module, stacks: int, numbers: Numbers) -> int:
    """Estimate what the convolutions of a module, if it has any, keep of stacks of frames for the backward pass."""
    values = sum(part.values_per_stack for part in module.modules() if isinstance(part, FrameEncoder))
    return stacks * values * numbers.bytes_per_value


def state_bytes(module: nn.Module) -> int:
    """Return the bytes of weights, gradients and AdamW's two moments, and of the buffers."""
    weights = list(module.parameters())
    trained = sum(weight.numel() * weight.element_size() for weight in weights if weight.requires_grad)
    kept = sum(weight.numel() * weight.element_size() for weight in weights if not weight.requires_grad)
    return 4 * trained + kept + sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())
