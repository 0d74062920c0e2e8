"""The models by name. Looking at the list imports nothing heavy; a model's module is imported when it is built."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dtbench.errors import UnknownNameError
from dtbench.resources import resource

if TYPE_CHECKING:
    from dtbench.models.base import OfflineModule


@dataclass(frozen=True)
class ModelEntry:
    """A model's place in the code, its title and its paper; `baselines/<name>/` holds its settings and its card."""

    name: str
    target: str
    title: str
    paper: str

    @property
    def defaults(self) -> Path:
        """The file of the model's published settings."""
        return resource("baselines", self.name, "config.yaml")

    def load(self) -> type[OfflineModule]:
        """Import and return the model's class."""
        module, _, name = self.target.partition(":")
        loaded: type[OfflineModule] = getattr(importlib.import_module(module), name)
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


def model_entry(name: str) -> ModelEntry:
    """Return the entry of a model; raise `UnknownNameError` with a suggestion otherwise."""
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    return MODELS[name]
