"""Checks of single values of a suite: each returns the value in its normal form, or names the field that is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import Any, TypeVar

from dtbench.errors import ConfigError, DtbenchError

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_MOST_CHARACTERS = 100
_SHOWN = 60


@contextmanager
def located(place: str) -> Iterator[None]:
    """Put `place` in front of the message of any error of ours.

    Raises:
        ConfigError: what was raised inside, with its place.
    """
    try:
        yield
    except DtbenchError as error:
        raise ConfigError(f"{place}: {error}") from error


def shown(value: object) -> str:
    """Return a value on one line for a message, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of more than 4,300 digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def known_fields(cls: type, content: object, what: str) -> dict[str, Any]:
    """Return the fields of a dataclass from a mapping that has all that it needs and no others."""
    given = mapping(content, what)
    known = [field.name for field in fields(cls)]
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ConfigError(f"unknown field {shown(unknown[0])}; known are {', '.join(known)}.")
    for field in fields(cls):
        if field.name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{field.name} is missing.")
    return given


def name(value: object, field: str) -> str:
    """Return a name that is safe as a part of a path: letters, digits and `._-`."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in (".", ".."):
        raise ConfigError(f"{field} must be made of letters, digits and `._-`, not {shown(value)}.")
    if len(value) > _MOST_CHARACTERS:
        raise ConfigError(f"{field} must have at most {_MOST_CHARACTERS} characters, not {len(value)}.")
    return value


def path_of_names(value: object, field: str) -> str:
    """Return names separated by `/`, such as Minari's `D4RL/pen/human-v2`."""
    for part in value.split("/") if isinstance(value, str) else [value]:
        name(part, field)
    return str(value)


def text(value: object, field: str) -> str:
    """Return a text, which may be empty."""
    if not isinstance(value, str):
        raise ConfigError(f"{field} must be a text, not {shown(value)}.")
    return value


def non_empty_text(value: object, field: str) -> str:
    """Return a text of at least one character."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{field} must be a text, not {shown(value)}.")
    return value


def boolean(value: object, field: str) -> bool:
    """Return a truth value; 0, 1 and words are none."""
    if not isinstance(value, bool):
        raise ConfigError(f"{field} must be true or false, not {shown(value)}.")
    return value


def number(value: object, field: str) -> float:
    """Return a finite number."""
    found = _finite(value)
    if found is None:
        raise ConfigError(f"{field} must be a finite number, not {shown(value)}.")
    return found


def positive_number(value: object, field: str) -> float:
    """Return a finite number above 0."""
    found = _finite(value)
    if found is None or found <= 0:
        raise ConfigError(f"{field} must be a positive number, not {shown(value)}.")
    return found


def ratio(value: object, field: str) -> float:
    """Return a share in (0, 1]."""
    found = _finite(value)
    if found is None or not 0 < found <= 1:
        raise ConfigError(f"{field} must lie in (0, 1], not {shown(value)}.")
    return found


def correlation(value: object, field: str) -> float:
    """Return a correlation in [-1, 1]."""
    found = _finite(value)
    if found is None or not -1 <= found <= 1:
        raise ConfigError(f"{field} must lie in [-1, 1], not {shown(value)}.")
    return found


def positive_integer(value: object, field: str) -> int:
    """Return a whole number above 0."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"{field} must be a positive whole number, not {shown(value)}.")
    return int(value)


def listed(value: object, field: str, check: Callable[[object, str], T]) -> tuple[T, ...]:
    """Return the items of a list, each of them checked."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ConfigError(f"{field} must be a list, not {shown(value)}.")
    return tuple(check(item, f"{field}[{index}]") for index, item in enumerate(value))


def distinct(values: tuple[T, ...], field: str) -> tuple[T, ...]:
    """Return values none of which is given twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ConfigError(f"{field} names {shown(value)} twice.")
    return values


def mapping(value: object, field: str) -> dict[str, Any]:
    """Return a mapping whose keys are texts."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{field} must be a mapping, not {shown(value)}.")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{field} has the key {shown(key)}, which is not a text.")
    return dict(value)


def mapping_of(value: object, field: str, check: Callable[[object, str], T]) -> dict[str, T]:
    """Return a mapping of texts to checked values."""
    return {key: check(item, f"{field}.{_on_one_line(key)}") for key, item in mapping(value, field).items()}


def plain_mapping(value: object, field: str) -> dict[str, Any]:
    """Return a mapping of plain values (null, truth values, finite numbers, texts, lists and mappings of them)."""
    return mapping_of(value, field, _plain)


def _on_one_line(key: str) -> str:
    return key if key.isprintable() else shown(key)


def _plain(value: object, field: str) -> Any:
    if isinstance(value, Mapping):
        return plain_mapping(value, field)
    if isinstance(value, (list, tuple)):
        return list(listed(value, field, _plain))
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{field} must be finite, not {shown(value)}.")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f"{field} must be a plain value, not {shown(value)}.")


def _finite(value: object) -> float | None:
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None
