"""The models by name: ours, those that installed packages announce, and `package.module:Class`.

Looking at the list imports nothing heavy; a model's module is imported when it is built.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from dataclasses import dataclass, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from dtbench.errors import ConfigError, UnknownNameError
from dtbench.resources import resource

if TYPE_CHECKING:
    from dtbench.config import ModelSettings
    from dtbench.models.base import OfflineModule

#: A package announces its models with `[project.entry-points."dtbench.models"] name = "package.module:Class"`.
ENTRY_POINTS = "dtbench.models"


@dataclass(frozen=True)
class ModelEntry:
    """A model's place in the code, its title and its paper; settings and cards of ours are in `baselines/<name>/`."""

    name: str
    target: str
    title: str
    paper: str
    is_ours: bool = True

    @property
    def defaults(self) -> Path | None:
        """The file of the model's published settings; from outside, a `.yaml` beside the module, or None."""
        if self.is_ours:
            return resource("baselines", self.name, "config.yaml")
        beside = Path(inspect.getfile(self.load())).with_suffix(".yaml")
        return beside if beside.is_file() else None

    @property
    def settings(self) -> ModelSettings:
        """What the model contributes to its configuration; imports the model."""
        from dtbench.config import ModelSettings

        return ModelSettings(self.name, self.load().Config, self.defaults)

    def load(self) -> type[OfflineModule]:
        """Import and return the model's class.

        Raises:
            ConfigError: a class from outside that is not there, or is no `OfflineModule` with a dataclass `Config`.
        """
        module, _, name = self.target.partition(":")
        if self.is_ours:
            return getattr(importlib.import_module(module), name)
        if os.getcwd() not in sys.path:  # as `python -m` does; the console script does not
            sys.path.insert(0, os.getcwd())
        try:
            loaded = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"Model {self.name!r} cannot be imported: {error}.") from error
        from dtbench.models.base import OfflineModule

        if not (isinstance(loaded, type) and issubclass(loaded, OfflineModule)):
            raise ConfigError(f"Model {self.name!r} must be a subclass of dtbench.models.base.OfflineModule.")
        if not is_dataclass(getattr(loaded, "Config", None)):
            raise ConfigError(f"Model {self.name!r} needs a dataclass `Config` for the section `model`.")
        return loaded


_ENTRIES = (
    ModelEntry("dt", "dtbench.models.dt:DecisionTransformer", "Decision Transformer", "arXiv 2106.01345"),
    ModelEntry("gpt2_dt", "dtbench.models.gpt2_dt:Gpt2Dt", "GPT-2-DT (Wiki-RL)", "arXiv 2201.12122"),
    ModelEntry("lamo", "dtbench.models.lamo:Lamo", "LaMo (GPT-2 with LoRA)", "arXiv 2310.20587"),
    ModelEntry("gpt2_dtma", "dtbench.models.gpt2_dtma:Gpt2Dtma", "GPT2-DTMA (Markov heads)", "arXiv 2409.06985"),
    ModelEntry("dc", "dtbench.models.dc:DecisionConvFormer", "Decision ConvFormer", "arXiv 2310.03022"),
    ModelEntry("cql", "dtbench.models.cql:ConservativeQLearning", "Conservative Q-Learning", "arXiv 2006.04779"),
    ModelEntry("bc", "dtbench.models.bc:BehaviourCloning", "Behaviour cloning (control)", "–"),
    ModelEntry("bc10", "dtbench.models.bc:BehaviourCloning", "Cloning of the best 10 % (control)", "–"),
)
MODELS = {entry.name: entry for entry in _ENTRIES}


def models() -> dict[str, ModelEntry]:
    """Return our models and those that installed packages announce."""
    found = {
        point.name: ModelEntry(point.name, point.value, f"from {point.value}", "–", is_ours=False)
        for point in entry_points(group=ENTRY_POINTS)
    }
    return {**found, **MODELS}


def model_entry(name: str) -> ModelEntry:
    """Return the entry of a model, by its name or as `package.module:Class`.

    Raises:
        UnknownNameError: no such model, with a suggestion.
    """
    known = models()
    if name in known:
        return known[name]
    if ":" in name:
        return ModelEntry(name, name, name, "–", is_ours=False)
    raise UnknownNameError("model", name, known)
