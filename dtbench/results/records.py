"""Typed records from plain JSON values: what is missing, of the wrong type or out of its range is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dtbench.errors import DtbenchError, ResultError

#: Larger numbers overflow in sums and squares; no return or score of an environment comes near.
_LARGEST = 1e100
#: Whole numbers are below this.
_INTEGERS = 2**63
#: Values of a configuration are not nested more deeply.
_DEEPEST = 20


@dataclass(frozen=True)
class AtLeast:
    """The smallest value a number may have."""

    minimum: int


class NonFinite:
    """Marks a float that may be NaN or infinite, stored as "nan", "inf" or "-inf"."""


Record = TypeVar("Record")
Natural = Annotated[int, AtLeast(0)]
Positive = Annotated[int, AtLeast(1)]
NotNegative = Annotated[float, AtLeast(0)]
AnyFloat = Annotated[float, NonFinite]


def parse(kind: type[Record], content: Any, where: str) -> Record:
    """Return a JSON value as a record of the dataclass `kind`.

    Raises:
        ResultError: naming `where` and the field that is missing or wrong.
    """
    try:
        record: Record = read_value(kind, content, "")
    except WrongFieldError as error:
        raise ResultError(f"{where}: {error}.") from error
    return record


class WrongFieldError(Exception):
    """A field is missing or wrong; the message names it and says what it must be."""


def read_value(kind: Any, value: Any, name: str) -> Any:
    """Return a JSON value as the type `kind`: a scalar, list, tuple, dict or dataclass, `Annotated` with a range."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner, rule = arguments
        if rule is NonFinite and value in ("nan", "inf", "-inf"):
            return float(value)
        number = read_value(inner, value, name)
        if isinstance(rule, AtLeast) and number < rule.minimum:
            raise WrongFieldError(f"{name} must be at least {rule.minimum}, not {shown(value)}")
        return number
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return None if value is None else read_value(inner, value, name)
    if origin in (list, tuple):
        return _parse_sequence(origin, arguments, value, name)
    if origin is dict:
        if not isinstance(value, dict):
            raise WrongFieldError(f"{name} must be an object, not {shown(value)}")
        _check_text("".join(map(str, value)), f"{name}'s keys")
        return {key: read_value(arguments[1], item, f"{name}[{key}]") for key, item in value.items()}
    return _parse_record(kind, value, name) if is_dataclass(kind) else _parse_scalar(kind, value, name)


def _parse_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, name: str) -> Any:
    if not isinstance(value, list):
        raise WrongFieldError(f"{name} must be a list, not {shown(value)}")
    if origin is tuple and len(value) != len(arguments):
        raise WrongFieldError(f"{name} must hold {len(arguments)} values, not {len(value)}")
    kinds = arguments if origin is tuple else arguments * len(value)
    return origin(
        read_value(kind, item, f"{name}[{n}]") for n, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _parse_record(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise WrongFieldError(f"{name} must be an object, not {shown(value)}")
    kinds, prefix, parsed = _field_kinds(kind), f"{name}." if name else "", {}
    for entry in fields(kind):
        if entry.name in value:
            parsed[entry.name] = read_value(kinds[entry.name], value[entry.name], f"{prefix}{entry.name}")
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise WrongFieldError(f"{prefix}{entry.name} is missing")
    try:
        return kind(**parsed)
    except DtbenchError as error:  # a record from another room may check itself
        raise WrongFieldError(f"{name}: {str(error).rstrip('.')}") from error


@cache
def _field_kinds(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _parse_scalar(kind: Any, value: Any, name: str) -> Any:
    if kind is Any:
        return _check_plain(value, name)
    if kind is float:
        if type(value) not in (int, float) or not abs(value) <= _LARGEST:
            raise WrongFieldError(f"{name} must be a finite number, not {shown(value)}")
        return float(value)
    if type(value) is not kind:
        what = {str: "text", int: "a whole number", bool: "true or false"}[kind]
        raise WrongFieldError(f"{name} must be {what}, not {shown(value)}")
    if kind is int and abs(value) >= _INTEGERS:
        raise WrongFieldError(f"{name} must fit into 64 bits, not {shown(value)}")
    if kind is str:
        _check_text(value, name)
    return value


def _check_plain(value: Any, name: str, depth: int = 0) -> Any:
    """Return a value of a configuration, after a check that its text can be written."""
    if depth > _DEEPEST:
        raise WrongFieldError(f"{'.'.join(name.split('.')[:2])} is nested too deeply")
    if isinstance(value, str):
        _check_text(value, name)
    elif isinstance(value, dict):
        _check_text("".join(map(str, value)), name)
        for key, item in value.items():
            _check_plain(item, f"{name}.{key}", depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, name, depth + 1)
    return value


def _check_text(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise WrongFieldError(f"{name} holds a character that is not valid Unicode") from error


def is_number(text: str) -> bool:
    """Say whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def shown(value: Any) -> str:
    """Return a wrong value for a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number that is too long to print"
    return text if len(text) <= 60 else f"{text[:60]}…"


def storable(value: Any) -> Any:
    """Return a value as JSON can hold it: dataclasses as objects, non-finite floats as text, all else as its repr."""
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: storable(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(storable(key)): storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else str(float(value))
    return storable(repr(value))
