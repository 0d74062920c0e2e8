"""The names of a leaderboard's rows: the model, and what the user changed in its configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dtbench.results.changes import changes_in_result, without_precision
from dtbench.results.schema import DONE, Result
from dtbench.results.text import one_line

#: If there are more changes, or the label is longer, they are counted instead.
_SHOWN_CHANGES, _LONGEST = 3, 80


@dataclass(frozen=True)
class RowName:
    """A row's label, which is unique in its section, and what was changed (empty if it is not known)."""

    label: str
    changes: tuple[str, ...] = ()


def row_names(results: Sequence[Result]) -> list[RowName]:
    """Name the row of each result of one suite, source and preset.

    A preset's own configuration is named by its model, a changed one by model and changes:

    - `lamo backbone=scratch`: up to three changes;
    - `lamo 5 changes 1a2b3c`: more, with six digits of a hash over them;
    - `lamo+4ce2233b3fdf`: the hash of the configuration, if it is not known what was changed, or if one name would
      cover different configurations on one task, e.g. of two versions of dtbench.

    The precision is named only where one name would cover two of them: pages show it in a column of its own, and with
    `auto` it is a change on one machine that is none on another.
    """
    own = {(r.model.name, r.task.id): r for r in reversed(results) if r.model.is_preset_config and r.status == DONE}
    names = [_name(result, own.get((result.model.name, result.task.id))) for result in results]
    short = [_without_precision(result, name) for result, name in zip(results, names, strict=True)]
    names = _unless_mixed(short, names, results, lambda result: ("", result.measured.training.precision))
    hashes = [_by_hash(result) for result in results]
    return _unless_mixed(names, hashes, results, lambda result: (result.task.id, result.model.config_hash))


def _unless_mixed(
    names: Sequence[RowName],
    others: Sequence[RowName],
    results: Sequence[Result],
    place_and_kind: Callable[[Result], tuple[str, str]],
) -> list[RowName]:
    """Return the names; the others instead of one that covers finished runs of two kinds at one place."""
    kinds: dict[tuple[str, str], set[str]] = {}
    for name, result in zip(names, results, strict=True):
        if result.status == DONE:
            place, kind = place_and_kind(result)
            kinds.setdefault((name.label, place), set()).add(kind)
    mixed = {label for (label, _), found in kinds.items() if len(found) > 1}
    return [other if name.label in mixed else name for name, other in zip(names, others, strict=True)]


def _name(result: Result, preset_row: Result | None) -> RowName:
    model = result.model
    if model.is_preset_config:
        return RowName(one_line(model.name))
    changes = tuple(changes_in_result(result, preset_row))
    return RowName(_label(model.name, changes), changes) if changes else _by_hash(result)


def _without_precision(result: Result, name: RowName) -> RowName:
    shown = without_precision(name.changes)
    return name if len(shown) == len(name.changes) else RowName(_label(result.model.name, shown), name.changes)


def _label(model: str, changes: Sequence[str]) -> str:
    label = one_line(" ".join((model, *changes)))
    if len(changes) > _SHOWN_CHANGES or len(label) > _LONGEST:
        digits = hashlib.sha256(json.dumps(changes).encode()).hexdigest()[:6]
        count = "1 change" if len(changes) == 1 else f"{len(changes)} changes"
        label = one_line(f"{model} {count} {digits}")
    return label


def _by_hash(result: Result) -> RowName:
    return RowName(one_line(f"{result.model.name}+{result.model.config_hash}"))
