"""What is checked: a model with its configuration and the kind of task it is built for."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dtbench.config import ModelSettings, RunConfig, compose, load_preset
from dtbench.errors import ConfigError, DtbenchError
from dtbench.models.base import OfflineModule
from dtbench.registry import FILE_MODULES, model_entry
from dtbench.spaces import Discrete, Frames, Spaces, Vector, unit_box
from dtbench.suites.suites import load_suite

_LONGEST = 30
#: What models are checked on by default: vectors and continuous actions.
DIMS = Spaces(Vector(5), unit_box(2), _LONGEST)
#: All kinds of tasks, by name. The frames are the smallest that three convolutions take.
KINDS = {
    "vector/continuous": DIMS,
    "vector/discrete": Spaces(Vector(5), Discrete(3), _LONGEST),
    "frames/discrete": Spaces(Frames(2, 36, 36), Discrete(3), _LONGEST),
    "frames/continuous": Spaces(Frames(2, 36, 36), unit_box(2), _LONGEST),
}


class ContractError(DtbenchError):
    """A model breaks its contract; the message says how."""


def require(holds: bool, message: str) -> None:
    """Raise `ContractError` unless `holds`."""
    if not holds:
        raise ContractError(message)


@dataclass(frozen=True)
class Subject:
    """A model that is checked, with the configuration it is built from, and the kind of task it is built for."""

    target: str
    model: type[OfflineModule]
    config: RunConfig
    spaces: Spaces = DIMS

    @classmethod
    def find(cls, model: str | type[OfflineModule], overrides: Sequence[str] = (), spaces: Spaces = DIMS) -> Subject:
        """Compose the configuration of a model at the preset `smoke`.

        Args:
            model: a name, `package.module:Class`, `FILE.py:Class`, or the class itself.
            overrides: `section.key=value`, as `--set`.
            spaces: one of `KINDS`.

        Raises:
            UnknownNameError: there is no such model.
            ConfigError: the class is not a model, its configuration is not valid, or it refuses this kind of task.
        """
        if isinstance(model, str):
            entry = model_entry(model)
            target = entry.address
            subject = cls(target, entry.load(), _smoke_config(entry.settings, overrides), spaces)
        else:
            settings = ModelSettings(model.__name__, model.Config)
            subject = cls(_target(model), model, _smoke_config(settings, overrides), spaces)
        subject.model.prepare(subject.config.model)
        try:
            subject.build()
        except ConfigError:
            raise
        except Exception:  # noqa: BLE001 - the checks report it, with its line
            return subject
        return subject

    def build(self, seed: int = 0) -> OfflineModule:
        """Build the model with new weights."""
        return self.model(self.config, self.spaces, seed)


def _target(model: type[OfflineModule]) -> str:
    """Return how another process finds a class."""
    place = model.__module__
    if place.startswith(FILE_MODULES):
        place = inspect.getfile(model)
    return f"{place}:{model.__qualname__}"


def _smoke_config(settings: ModelSettings, overrides: Sequence[str]) -> RunConfig:
    suite = load_suite("d4rl-short")
    return compose(settings, preset=load_preset("smoke"), suite=suite, task=suite.tasks[0], overrides=overrides)


def model_config(name: str, **model: Any) -> RunConfig:
    """Return the smoke configuration of a model, with changes to its section `model`."""
    return _smoke_config(model_entry(name).settings, [f"model.{key}={value}" for key, value in model.items()])


def build_model(name: str, seed: int = 0) -> OfflineModule:
    """Build a model at the preset `smoke`."""
    return model_entry(name).load()(model_config(name), DIMS, seed)
