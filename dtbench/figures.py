"""One look for all figures: of leaderboards, of analyses, and beside a video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtbench.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "dtbench",
    "font.size": 9,
    "figure.titlesize": 10,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
#: What a figure may be written as.
FORMATS = (".svg", ".pdf", ".png")
#: Dots per inch of a PNG: sharp in a paper's column and on a screen.
_DPI = 200


def check_format(file: Path) -> None:
    """Refuse a figure's file whose suffix names no format, before anything is computed.

    Raises:
        ConfigError: naming the file and the formats.
    """
    if file.suffix.lower() not in FORMATS:
        raise ConfigError(f"The figure {file} must end with {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")


def plain(text: str) -> str:
    """Return text without the dollar signs' meaning, which is mathematics to matplotlib."""
    return text.replace("$", r"\$")


def save(figure: Figure, file: Path) -> None:
    """Write a figure in the format of its suffix; it holds no date, so that equal scores give equal bytes."""
    without_date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(file, dpi=_DPI, metadata=without_date.get(file.suffix.lower()))
