"""Markov heads (arXiv 2409.06985): heads whose W_q W_kᵀ has a positive, dominating diagonal.

Such a head attends to its own token, whatever the embeddings are. The paper does not state its threshold, so both
figures are reported for every head and both thresholds are options.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dtbench.errors import ConfigError
from dtbench.models.backbone.load import find_files, gpt2_trunk_config, read_json, read_tensors
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.trunk import Trunk

#: The five heads of GPT-2's layer 0 that the paper's code names have at least 0.978 and 3.7; the best other head
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
    queries, keys = (weight.view(len(weight), heads, -1).movedim(1, 0) for weight in (query, key))
    return queries @ keys.mT


def figures(matrix: Tensor) -> HeadFigures:
    """Measure one A_h, (width, width).

    Raises:
        ConfigError: the matrix has no finite ratio: it is 1 × 1, not finite, or 0 off its diagonal.
    """
    diagonal, size = matrix.diagonal(), len(matrix)
    if size < 2 or not bool((matrix - matrix.diag().diag()).any()) or not bool(matrix.isfinite().all()):
        raise ConfigError("The weights of a head are not finite, or 0 off the diagonal, so that it has no ratio.")
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
        what: a backbone's name or folder, or a file.
        heads: heads per layer; needed for a safetensors file without a `config.json`, unless its width is a
            multiple of 64, GPT-2's own head width.

    Raises:
        ConfigError: the files are missing, damaged, or not a GPT-2's.
    """
    path = Path(what).expanduser()
    if path.is_file():
        return _from_file(path, heads)
    files, name = find_files(what)
    try:
        raw, weights = read_json(files("config.json")), files("model.safetensors", "pytorch_model.bin")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{what} lacks {error.args[0]}: it is neither a backbone's folder nor a run's (…/seed-<n>)."
        ) from error
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error}.") from error
    if raw.get("model_type") != "gpt2":
        raise ConfigError(f"{name} is a {raw.get('model_type')!r}; Markov heads are analysed in GPT-2 models.")
    layers = _gpt2_layers(read_tensors(weights), what)
    return layers, _checked_heads(heads or gpt2_trunk_config(raw, 0.0).heads, layers, what)


def _from_file(path: Path, heads: int | None) -> tuple[list[LayerWeights], int]:
    layers = _gpt2_layers(read_tensors(path), str(path))
    width = len(layers[0].query)
    if heads is None and width % 64:
        raise ConfigError(f"{path} does not say how many heads its layers have; add --heads.")
    return layers, _checked_heads(heads or width // 64, layers, str(path))


def _checked_heads(heads: int, layers: list[LayerWeights], what: str) -> int:
    width = len(layers[0].query)
    if width % heads:
        raise ConfigError(f"{what}: a width of {width} cannot be split into {heads} heads of equal size.")
    return heads


def _gpt2_layers(tensors: dict[str, Tensor], what: str) -> list[LayerWeights]:
    layers: list[LayerWeights] = []
    while (weight := tensors.get(f"h.{len(layers)}.attn.c_attn.weight")) is not None:
        gain = tensors.get(f"h.{len(layers)}.ln_1.weight")
        width = weight.shape[0] if weight.dim() else 0
        if width == 0 or weight.shape != (width, 3 * width) or (gain is not None and gain.shape != (width,)):
            raise ConfigError(f"{what}: layer {len(layers)} does not have the shapes of a GPT-2.")
        query, key, _ = weight.chunk(3, dim=1)
        layers.append(LayerWeights(query, key, gain))
    if not layers:
        raise ConfigError(f"{what} holds no h.0.attn.c_attn.weight: these are not attention weights of a GPT-2.")
    if len({len(layer.query) for layer in layers}) > 1:
        raise ConfigError(f"{what}: its layers have different widths.")
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

    weight: Tensor
    if isinstance(layer, LoraLayer):
        updates: Any = layer
        weight = updates.base_layer.weight + sum(map(updates.get_delta_weight, updates.active_adapters))
    else:
        weight = layer.weight
    return weight.detach()
