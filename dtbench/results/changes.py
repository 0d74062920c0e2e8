"""What a user changed in a preset's configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dtbench.config import compose, hashed_part, load_preset, preset_names
from dtbench.registry import models
from dtbench.results.schema import Result
from dtbench.suites.suites import load_suite, suite_names

#: The key of the precision, which depends on the machine where the preset says `auto`.
_PRECISION = "hardware.precision"


def changes_between(preset: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return what differs in a plain configuration as `key=value`, the section `model.` left out.

    Only what decides the result counts (`config.hashed_part`). Values are written as `--set` takes them.

    >>> changes_between({"model": {"layers": 3, "tanh": True}}, {"model": {"layers": 4, "tanh": False}})
    ['layers=4', 'tanh=false']
    """
    before, after = _flat(preset), _flat(config)
    return [_change(key, after[key]) for key in after if key not in before or before[key] != after[key]]


def changes_in_result(result: Result, preset_row: Result | None) -> list[str]:
    """Return what the user changed in the configuration of a result; empty where it cannot be told.

    It is what was recorded. Early results recorded nothing: there the configuration is compared with the one that the
    preset composes now, in the keys that both have, and if that tells nothing, with `preset_row`.

    Args:
        preset_row: a result of the preset's own configuration on the same task.
    """
    model = result.model
    if model.changes:
        return model.changes
    before, after = _flat(_composed(result)), _flat(model.config)
    before.pop(_PRECISION, None)
    changed = [_change(key, after[key]) for key in after if key in before and before[key] != after[key]]
    if not changed and preset_row is not None:
        changed = changes_between(preset_row.model.config, model.config)
    return changed


def without_precision(changes: Iterable[str]) -> list[str]:
    """Return the changes but that of the precision."""
    return [change for change in changes if not change.startswith(f"{_PRECISION}=")]


def _composed(result: Result) -> dict[str, Any]:
    """Return the configuration that the result's preset composes now; empty where that is impossible."""
    suite_id, task_id, entry = result.suite, result.task.id, models().get(result.model.name)
    if entry is None or suite_id.name not in suite_names() or result.preset not in preset_names():
        return {}  # looked up before it is loaded: names in a file from elsewhere must not load code or other files
    try:
        suite = load_suite(suite_id.name)
        if suite.version != suite_id.version:
            return {}
        preset = load_preset(result.preset)
        return compose(entry.settings, preset=preset, suite=suite, task=suite.task(task_id)).to_dict()
    except Exception:  # noqa: BLE001 - a model from an installed package may raise anything; the label is not worth it
        return {}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    sections = {section: values for section, values in config.items() if isinstance(values, Mapping)}
    return {
        f"{section}.{key}": value for section, values in hashed_part(sections).items() for key, value in values.items()
    }


def _change(key: str, value: Any) -> str:
    is_plain = isinstance(value, str) and value and not any(character.isspace() for character in value)
    text = value if is_plain else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"{key.removeprefix('model.')}={text}"
