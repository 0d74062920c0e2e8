"""The names of a leaderboard's rows: the model, and what the user changed in its configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from dtbench.results.changes import changes_in_result
from dtbench.results.schema import DONE, Result
from dtbench.results.text import one_line

#: If there are more changes, or the label is longer, they are counted instead.
_SHOWN_CHANGES, _LONGEST = 3, 80


@dataclass(frozen=True)
class RowName:
    """A row's label, which is unique in its section, and the changes that it names (empty if they are not known)."""

    label: str
    changes: tuple[str, ...] = ()


def row_names(results: Sequence[Result]) -> list[RowName]:
    """Name the row of each result of one suite, source and preset.

    A preset's own configuration is named by its model, a changed one by model and changes:

    - `lamo backbone=scratch`: up to three changes;
    - `lamo 5 changes 1a2b3c`: more, with six digits of a hash over them;
    - `lamo+4ce2233b3fdf`: the hash of the configuration, if it is not known what was changed, or if one name would
      cover different configurations on one task, e.g. of two versions of dtbench.
    """
    own = {(r.model.name, r.task.id): r for r in reversed(results) if r.model.is_preset_config and r.status == DONE}
    names = [_name(result, own.get((result.model.name, result.task.id))) for result in results]
    hashes: dict[tuple[str, str], set[str]] = {}
    for result, name in zip(results, names, strict=True):
        if result.status == DONE:
            hashes.setdefault((name.label, result.task.id), set()).add(result.model.config_hash)
    ambiguous = {label for (label, _), found in hashes.items() if len(found) > 1}
    return [_by_hash(result) if name.label in ambiguous else name for result, name in zip(results, names, strict=True)]


def _name(result: Result, preset_row: Result | None) -> RowName:
    model = result.model
    if model.is_preset_config:
        return RowName(one_line(model.name))
    changes = tuple(changes_in_result(result, preset_row))
    if not changes:
        return _by_hash(result)
    label = one_line(f"{model.name} {' '.join(changes)}")
    if len(changes) > _SHOWN_CHANGES or len(label) > _LONGEST:
        digits = hashlib.sha256(json.dumps(changes).encode()).hexdigest()[:6]
        count = "1 change" if len(changes) == 1 else f"{len(changes)} changes"
        label = one_line(f"{model.name} {count} {digits}")
    return RowName(label, changes)


def _by_hash(result: Result) -> RowName:
    return RowName(one_line(f"{result.model.name}+{result.model.config_hash}"))
