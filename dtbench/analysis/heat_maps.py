"""Heat maps of the analyses: a row per layer, a column per head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dtbench.figures import STYLE, save

#: A heat map has a frame around it, and its cells are small.
_STYLE = {**STYLE, "font.size": 8, "axes.titlesize": 8, "axes.spines.top": True, "axes.spines.right": True}


def markov_heat_map(content: dict[str, Any], title: str, file: Path) -> None:
    """Draw both figures of every head; a Markov head has a frame.

    Args:
        content: what `markov_heads.analyze_layers` returned.
    """
    layers = content["layers"]
    framed = np.array([[head["markov"] for head in layer["heads"]] for layer in layers])
    panels = {
        "share of positive diagonal": ("positive", "PuOr", (0.0, 1.0)),
        "|diagonal| / |off-diagonal|": ("ratio", "viridis", (0.0, 10.0)),
    }
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(framed.shape, len(panels))
        for axis, (name, (key, colours, limits)) in zip(axes, panels.items(), strict=True):
            values = np.array([[head[key] for head in layer["heads"]] for layer in layers])
            _heat_map(figure, axis, values, name, colours, limits, framed)
        figure.suptitle(title)
        _save(figure, file)


def attention_heat_map(content: dict[str, Any], title: str, file: Path) -> None:
    """Draw the mass on the last input token, head by head, before and after training.

    Args:
        content: what `dtbench analyze attention --json` prints.
    """
    panels = {"before training": content["before"]["layers"], "after training": content["layers"]}
    with matplotlib.rc_context(_STYLE):
        first = content["layers"]
        figure, axes = _grid((len(first), len(first[0]["heads"])), len(panels))
        for axis, (name, layers) in zip(axes, panels.items(), strict=True):
            values = np.array([[head["last_token_mass"] for head in layer["heads"]] for layer in layers])
            _heat_map(figure, axis, values, name, "viridis", (0.0, 1.0))
        figure.suptitle(f"attention on the last token, {title}")
        _save(figure, file)


def _grid(shape: tuple[int, ...], panels: int) -> tuple[Figure, Any]:
    layers, heads = shape
    figure = Figure(figsize=(panels * (1.6 + 0.34 * heads), 1.3 + 0.28 * layers), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _heat_map(
    figure: Figure,
    axis: Any,
    values: np.ndarray,
    title: str,
    colours: str,
    limits: tuple[float, float],
    framed: np.ndarray | None = None,
) -> None:
    image = axis.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    figure.colorbar(image, ax=axis)
    axis.set_title(title)
    axis.set_xlabel("head")
    axis.set_ylabel("layer")
    axis.set_xticks(range(values.shape[1]))
    axis.set_yticks(range(values.shape[0]))
    for layer, head in np.argwhere(framed) if framed is not None else ():
        axis.add_patch(
            matplotlib.patches.Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=1.5)
        )


def _save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save(figure, file)
