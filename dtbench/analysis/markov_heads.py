"""Markov heads (arXiv 2409.06985): heads whose W_q W_kᵀ has a positive diagonal that dwarfs the rest.

Such a head looks at the token it stands on, whatever the embeddings are. The paper's threshold could not be read, so
both figures are reported for every head and both thresholds are options.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dtbench.errors import ConfigError
from dtbench.models.backbone.load import find_files, gpt2_trunk_config, read_tensors
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.trunk import Trunk

#: The five heads of GPT-2's layer 0 that the paper's code singles out have at least 0.978 and 3.7; the best other head
#: of that layer with a positive diagonal has 0.559 and 1.3.
POSITIVE, RATIO = 0.95, 3.0


@dataclass(frozen=True)
class LayerWeights:
    """Attention of a layer: query and key (width, width), input × output, head after head; norm gain (width,)."""

    query: Tensor
    key: Tensor
    gain: Tensor | None


@dataclass(frozen=True)
class HeadFigures:
    """positive: share of positive diagonal entries; ratio: mean |diagonal| over mean |off-diagonal|."""

    positive: float
    ratio: float


def head_matrices(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Return A_h = W_q[:, h] W_k[:, h]ᵀ: two (width, width) maps, input × output → (heads, width, width)."""
    parts = [weight.unflatten(1, (heads, -1)).movedim(1, 0) for weight in (query, key)]
    return parts[0] @ parts[1].mT


def figures(matrix: Tensor) -> HeadFigures:
    """Measure one A_h, (width, width)."""
    diagonal, size = matrix.diagonal(), len(matrix)
    off = (matrix.abs().sum() - diagonal.abs().sum()) / (size * (size - 1))
    return HeadFigures(float((diagonal > 0).double().mean()), float(diagonal.abs().mean() / off))


def analyze_layers(
    layers: list[LayerWeights], heads: int, positive: float = POSITIVE, ratio: float = RATIO
) -> dict[str, Any]:
    """Measure every head of every layer, as it is and with the LayerNorm gain folded in.

    Folded: the layer sees g ⊙ n for a normalised n, so that A becomes diag(g) A diag(g).

    Returns:
        `layers[l].heads[h]` with `positive`, `ratio`, `markov` (positive and ratio reach both thresholds) and the same
        under `folded` (None where the gain is unknown).
    """

    def describe(matrix: Tensor) -> dict[str, Any]:
        found = figures(matrix)
        markov = found.positive >= positive and found.ratio >= ratio
        return {"positive": round(found.positive, 4), "ratio": round(found.ratio, 3), "markov": markov}

    described = []
    for index, layer in enumerate(layers):
        matrices = head_matrices(layer.query.double(), layer.key.double(), heads)
        gain = None if layer.gain is None else layer.gain.double()
        described.append(
            {
                "layer": index,
                "heads": [
                    {
                        "head": head,
                        **describe(matrix),
                        "folded": None if gain is None else describe(gain[:, None] * matrix * gain),
                    }
                    for head, matrix in enumerate(matrices)
                ],
            }
        )
    return {"thresholds": {"positive": positive, "ratio": ratio}, "layers": described}


def load_layers(what: str, heads: int | None = None) -> tuple[list[LayerWeights], int]:
    """Find the attention weights of a backbone, or of a safetensors file of GPT-2's tensors.

    Args:
        heads: heads per layer; needed for a safetensors file without a `config.json` beside it, unless its width is a
            multiple of 64, GPT-2's own head width.

    Raises:
        ConfigError: nothing there, or not a GPT-2.
    """
    path = Path(what).expanduser()
    if path.is_file():
        return _from_file(path, heads)
    files, name = find_files(what)
    try:
        raw, weights = json.loads(files("config.json").read_text()), files("model.safetensors", "pytorch_model.bin")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{what} lacks {error.args[0]}: it is no backbone folder, and no run's (…/seed-<n>)."
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what} cannot be read: {error}.") from error
    if raw.get("model_type") != "gpt2":
        raise ConfigError(f"{name} is a {raw.get('model_type')!r}; Markov heads are analysed in GPT-2 models.")
    return _gpt2_layers(read_tensors(weights), what), heads or gpt2_trunk_config(raw, 0.0).heads


def _from_file(path: Path, heads: int | None) -> tuple[list[LayerWeights], int]:
    layers = _gpt2_layers(read_tensors(path), str(path))
    width = len(layers[0].query)
    if heads is None and width % 64:
        raise ConfigError(f"{path} does not say how many heads its layers have; add --heads.")
    return layers, heads or width // 64


def _gpt2_layers(tensors: dict[str, Tensor], what: str) -> list[LayerWeights]:
    layers: list[LayerWeights] = []
    while (weight := tensors.get(f"h.{len(layers)}.attn.c_attn.weight")) is not None:
        query, key, _ = weight.chunk(3, dim=1)
        layers.append(LayerWeights(query, key, tensors.get(f"h.{len(layers)}.ln_1.weight")))
    if not layers:
        raise ConfigError(f"{what} holds no h.0.attn.c_attn.weight: these are not attention weights of a GPT-2.")
    return layers


def module_layers(module: nn.Module) -> tuple[list[LayerWeights], int]:
    """Take the attention weights of a model whose `trunk` is ours, LoRA updates added in.

    Raises:
        ConfigError: a model without GPT-2's attention.
    """
    trunk = getattr(module, "trunk", None)
    if not isinstance(trunk, Trunk) or not all(isinstance(block.mixer, Attention) for block in trunk.blocks):
        raise ConfigError(f"{type(module).__name__} is a model without GPT-2's attention: it has no heads to analyse.")
    blocks: list[Any] = list(trunk.blocks)
    layers = [
        LayerWeights(_effective(block.mixer.query).T, _effective(block.mixer.key).T, block.mixer_norm.weight.detach())
        for block in blocks
    ]
    return layers, trunk.config.heads


def _effective(layer: Any) -> Tensor:
    """Return the weight of a linear map, output × input, with its LoRA update if it has one."""
    from peft.tuners.lora import LoraLayer

    if isinstance(layer, LoraLayer):
        updates: Any = layer
        return (updates.base_layer.weight + sum(map(updates.get_delta_weight, updates.active_adapters))).detach()
    return layer.weight.detach()
