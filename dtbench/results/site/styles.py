"""How a row is drawn in all figures of the site: its model's colour, and a dash for what the user changed.

The colours are those of the static figures (`results.plots.COLOURS`). On a dark page, dark ones would disappear; there
they are mixed with white until they stand out.
"""

from __future__ import annotations

import colorsys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from dtbench.registry import MODELS
from dtbench.results.plots import COLOURS, looks_of
from dtbench.results.sections import Row

#: Plotly's dashes, one for each variant: none, then as `results.plots.LINES` as far as plotly has them.
DASHES = ("solid", "dash", "dot", "dashdot", "8px,2px,2px,2px,2px,2px", "12px,5px", "2px,6px", "6px,2px")
#: The background of the dark page (assets/site.css), and the contrast that WCAG 2.1 asks of graphics, with some room.
_DARK_PAGE, _CONTRAST = (0x15, 0x18, 0x1D), 4.0
#: Colours whose channels differ by less are greys; a dark page turns them round instead.
_GREY = 12
#: Characters in a line of a figure's labels; on a narrow screen more would leave no room for the figure.
_LABEL_WIDTH = 25

#: By how much a colour is lightened at a time.
_STEP = 0.02


@dataclass(frozen=True)
class Style:
    """How a row is drawn.

    Attributes:
        colour, dark: on a light and on a dark page, `#rrggbb`.
        dash: plotly's name of the line's dash.
        tick: the row's label in lines, for an axis.
    """

    colour: str
    dark: str
    dash: str
    tick: str


def styles(rows: Sequence[Row]) -> dict[str, Style]:
    """Return label → style for the rows of a section."""
    return {
        label: Style(colour, on_dark(colour), DASHES[variant % len(DASHES)], tick_text(label))
        for label, (colour, variant) in looks_of(rows).items()
    }


def colours_of(model: str) -> tuple[str, str]:
    """Return a model's colours, on a light and on a dark page; of one that is not ours the first after ours."""
    models = [*MODELS, model]
    colour = COLOURS[models.index(model) % len(COLOURS)]
    return colour, on_dark(colour)


def tick_text(label: str) -> str:
    """Break a label into short lines, at spaces and after opening brackets.

    >>> tick_text("gpt2_dtma backbone=scratch(symmetric_heads=2)")
    'gpt2_dtma<br>backbone=scratch(<br>symmetric_heads=2)'
    >>> tick_text("lamo backbone=x(heads=2)")
    'lamo backbone=x(heads=2)'
    """
    if len(label) <= _LABEL_WIDTH:
        return label
    mark = "\0"  # stands where a line may end and no space is
    lines = textwrap.wrap(label.replace("(", f"({mark} "), _LABEL_WIDTH)
    return "<br>".join(line.replace(f"{mark} ", "").replace(mark, "") for line in lines)


def on_dark(colour: str) -> str:
    """Lighten a colour, its hue and saturation kept, until it stands out on the dark page; greys are turned round.

    >>> on_dark("#ddaa33"), on_dark("#000000")
    ('#ddaa33', '#ffffff')
    """
    channels = _channels(colour)
    if _contrast(channels, _DARK_PAGE) >= _CONTRAST:
        return colour
    if max(channels) - min(channels) < _GREY:
        return _hex([255 - channel for channel in channels])
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in channels))
    while _contrast(channels, _DARK_PAGE) < _CONTRAST:
        lightness += _STEP
        channels = [round(255 * share) for share in colorsys.hls_to_rgb(hue, lightness, saturation)]
    return _hex(channels)


def _channels(colour: str) -> list[int]:
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]


def _hex(channels: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def _contrast(one: Sequence[int], other: Sequence[int]) -> float:
    """Return the contrast ratio of WCAG 2.1, 1 to 21."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(channels: Sequence[int]) -> float:
    shares = [channel / 255 for channel in channels]
    linear = [share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
