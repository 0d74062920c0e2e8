"""What a user changed in a preset's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dtbench.config import RunConfig, compose, identity, load_preset
from dtbench.registry import model_entry
from dtbench.suites.suites import Suite, Task


def changes_between(preset: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return what differs in a plain configuration as `key=value`, the section `model.` left out.

    Only what decides the result counts (`config.identity`).

    >>> changes_between({"model": {"layers": 3}, "data": {"steps": 9}}, {"model": {"layers": 4}, "data": {"steps": 9}})
    ['layers=4']
    """
    before, after = _flat(identity(preset)), _flat(identity(config))
    changed = [key for key in after if key not in before or before[key] != after[key]]
    return [f"{key.removeprefix('model.')}={after[key]}" for key in changed]


def preset_config(model: str, preset: str, suite: Suite, task: Task) -> RunConfig:
    """Return the configuration that a preset composes for a model on a task, without any change of the user's.

    Raises:
        DtbenchError: the model or the preset does not exist, or their layers do not fit together.
    """
    entry = model_entry(model)
    return compose(entry.name, entry.load().Config, entry.defaults, load_preset(preset), suite, task)


def _flat(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in config.items() for key, value in values.items()}
