"""An episode's pictures beside the curves of its return-to-go and its rewards, which grow with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dtbench.figures import STYLE

_DPI = 100
#: Height and width of the curves in pixels: at least these, whatever the environment's pictures measure.
_HEIGHT, _WIDTH = 360, 480
_COLOURS = ("#332288", "#117733")


def beside_curves(
    frames: Sequence[NDArray[np.uint8]], returns_to_go: Sequence[float], rewards: Sequence[float]
) -> Iterator[NDArray[np.uint8]]:
    """Yield each picture with the curves up to its step at its right.

    Axes, labels and scales are drawn once; only the two lines are drawn anew in each picture.

    Args:
        frames: (steps,) pictures before each step, each (height, width, 3) uint8.
        returns_to_go: (steps,) what the policy was asked for there, in units of the environment's return.
        rewards: (steps,) what the step brought.

    Yields:
        (height, width, 3) uint8, of even height and width, as video formats need them.
    """
    frame_height = frames[0].shape[0]
    height = max(_HEIGHT, frame_height)
    with matplotlib.rc_context(STYLE):
        curves = _Curves(height + height % 2, returns_to_go, rewards)
        for step, frame in enumerate(frames):
            picture = _fitted(frame, height + height % 2)
            yield np.concatenate((picture, curves.until(step)), axis=1)


class _Curves:
    """The figure of the curves: its background as pixels, and its two lines."""

    def __init__(self, height: int, returns_to_go: Sequence[float], rewards: Sequence[float]) -> None:
        figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
        self._canvas = FigureCanvasAgg(figure)
        self._values = tuple(np.asarray(values, dtype=float) for values in (returns_to_go, rewards))
        self._panels = figure.subplots(2, 1, sharex=True)
        names = ("return-to-go", "reward")
        self._lines: list[Any] = []
        for panel, values, name, colour in zip(self._panels, self._values, names, _COLOURS, strict=True):
            panel.set(ylabel=name, xlim=(0, max(1, len(values) - 1)), ylim=_limits(values))
            panel.grid(alpha=0.3)
            (line,) = panel.plot([], [], color=colour, marker="o", markevery=[-1], markersize=5, animated=True)
            self._lines.append(line)
        self._panels[-1].set_xlabel("step")
        figure.align_ylabels(self._panels)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(figure.bbox)

    def until(self, step: int) -> NDArray[np.uint8]:
        """Return the curves up to a step, as pixels."""
        self._canvas.restore_region(self._background)
        for panel, line, values in zip(self._panels, self._lines, self._values, strict=True):
            line.set_data(np.arange(step + 1), values[: step + 1])
            panel.draw_artist(line)
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of an axis with a margin; where all values are equal, around them."""
    low, high = float(values.min()), float(values.max())
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _fitted(frame: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """Centre a picture on white of a height and an even width."""
    missing, odd = height - frame.shape[0], frame.shape[1] % 2
    return np.pad(frame, ((missing // 2, missing - missing // 2), (0, odd), (0, 0)), constant_values=255)
