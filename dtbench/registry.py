"""The models by name: ours, those that installed packages announce, `package.module:Class` and `FILE.py:Class`.

Looking at the list imports nothing heavy; a model's module is imported when it is built.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dtbench.errors import ConfigError, UnknownNameError
from dtbench.resources import resource
from dtbench.suites import fields

if TYPE_CHECKING:
    from dtbench.config import ModelSettings
    from dtbench.models.base import OfflineModule

#: A package announces its models with `[project.entry-points."dtbench.models"] name = "package.module:Class"`.
ENTRY_POINTS = "dtbench.models"
#: Those of ours that act without a return to ask for.
_WITHOUT_RETURN = frozenset({"edt", "reinformer", "tt", "cql", "q_transformer", "bc", "bc10"})
#: What the names of modules begin with that are loaded from files: `torch.py` must not become the module `torch`.
FILE_MODULES = "_dtbench_model_file_"


@dataclass(frozen=True)
class ModelEntry:
    """A model's place in the code, its title and its paper; settings and cards of ours are in `baselines/<name>/`.

    Attributes:
        name: what results call it; it holds no path.
        target: `package.module:Class`, or `/absolute/path/FILE.py:Class`.
    """

    name: str
    target: str
    title: str
    paper: str
    is_ours: bool = True

    @property
    def address(self) -> str:
        """By what `model_entry` finds the model from any folder and any process: its name, or its place in the code."""
        return self.target if ":" in self.name else self.name

    @property
    def conditions_on_return(self) -> bool:
        """Whether the model acts on the return it is asked for; of a model from outside it is assumed."""
        return not (self.is_ours and self.name in _WITHOUT_RETURN)

    @property
    def defaults(self) -> Path | None:
        """The file of the model's published settings; from outside, a `.yaml` beside the module, or None."""
        if self.is_ours:
            return resource("baselines", self.name, "config.yaml")
        beside = Path(inspect.getfile(self.load())).with_suffix(".yaml")
        return beside if beside.is_file() else None

    @property
    def settings(self) -> ModelSettings:
        """What the model contributes to its configuration."""
        from dtbench.config import ModelSettings

        return ModelSettings(self.name, self.options, self.defaults)

    @property
    def options(self) -> type[Any]:
        """The dataclass of its section `model`. That of ours is found without importing the model, torch or Lightning.

        Raises:
            ConfigError: as `load`, of a model from outside.
        """
        if self.is_ours:
            class_name = self.target.rpartition(":")[2]
            found: type[Any] = getattr(importlib.import_module("dtbench.models.parts.options"), f"{class_name}Config")
            return found
        return self.load().Config

    def load(self) -> type[OfflineModule]:
        """Import and return the model's class.

        Raises:
            ConfigError: a model from outside that cannot be imported (the message has file and line), or is no
                `OfflineModule` with a dataclass `Config`.
        """
        place, _, class_name = self.target.rpartition(":")
        if self.is_ours:
            ours: type[OfflineModule] = getattr(importlib.import_module(place), class_name)
            return ours
        if not _is_file(place) and not _is_module(place, class_name):
            raise ConfigError(f"Model {self.name!r}: {_malformed(self.target)}")
        with _naming_the_line(self.name):
            module = _load_file(Path(place)) if _is_file(place) else _import_module(place)
        loaded = getattr(module, class_name, None)
        if loaded is None:
            classes = [name for name, value in vars(module).items() if _is_defined_in(value, module)]
            close = UnknownNameError("class", class_name, classes)
            raise ConfigError(f"Model {self.name!r}: {close}")
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
    ModelEntry("ds4", "dtbench.models.ds4:DecisionS4", "Decision S4", "arXiv 2306.05167"),
    ModelEntry("dmamba", "dtbench.models.dmamba:DecisionMamba", "Decision Mamba", "arXiv 2403.19925"),
    ModelEntry("dlstm", "dtbench.models.dlstm:DecisionLstm", "Decision LSTM (control)", "–"),
    ModelEntry("edt", "dtbench.models.edt:ElasticDecisionTransformer", "Elastic DT", "arXiv 2307.02484"),
    ModelEntry("reinformer", "dtbench.models.reinformer:Reinformer", "Reinformer", "arXiv 2405.08740"),
    ModelEntry("tt", "dtbench.models.tt:TrajectoryTransformer", "Trajectory Transformer", "arXiv 2106.02039"),
    ModelEntry("cql", "dtbench.models.cql:ConservativeQLearning", "Conservative Q-Learning", "arXiv 2006.04779"),
    ModelEntry("q_transformer", "dtbench.models.q_transformer:QTransformer", "Q-Transformer", "arXiv 2309.10150"),
    ModelEntry("bc", "dtbench.models.bc:BehaviourCloning", "Behaviour cloning (control)", "–"),
    ModelEntry("bc10", "dtbench.models.bc:BehaviourCloning", "Cloning of the best 10 % (control)", "–"),
)
MODELS = {entry.name: entry for entry in _ENTRIES}


def models() -> dict[str, ModelEntry]:
    """Return our models and those that installed packages announce."""
    found = {point.name: _announced(point) for point in entry_points(group=ENTRY_POINTS)}
    return {**found, **MODELS}


def model_entry(name: str) -> ModelEntry:
    """Return the entry of a model: by its name, as `package.module:Class`, or as `FILE.py:Class`.

    Raises:
        UnknownNameError: no such model, with a suggestion.
        ConfigError: a file that does not exist, or a name of none of these forms.
    """
    known = models()
    if name in known:
        if not known[name].is_ours:
            fields.name(name, f"the name of the model that {known[name].target} announces")
        return known[name]
    if name.endswith(".py"):
        raise ConfigError(f"Model {name!r} needs the name of its class: {name}:Class.")
    place, colon, class_name = name.rpartition(":")
    if not colon:
        raise UnknownNameError("model", name, known)
    if _is_file(place):
        return _entry_of_file(place, class_name)
    if not _is_module(place, class_name):
        raise ConfigError(f"Model {name!r}: {_malformed(name)}")
    return ModelEntry(name, name, f"from {place}", "–", is_ours=False)


def _announced(point: EntryPoint) -> ModelEntry:
    target = point.value.partition("[")[0].strip()  # without the extras that it asks for
    return ModelEntry(point.name, target, f"from {target}", "–", is_ours=False)


def _entry_of_file(place: str, class_name: str) -> ModelEntry:
    file = Path(os.path.expanduser(place))
    if not class_name:
        raise ConfigError(f"Model {place!r} needs the name of its class: {place}:Class.")
    if file.suffix != ".py":
        raise ConfigError(f"{place} is not a .py file.")
    if file.is_dir():
        raise ConfigError(f"{place} is a folder; a model is FILE.py:Class.")
    if not file.is_file():
        raise ConfigError(f"There is no file {place}.")
    if not file.stem.isidentifier():
        raise ConfigError(f"{place}: {file.stem!r} is no name of a Python module; rename the file.")
    if not class_name.isidentifier():
        raise ConfigError(f"Model '{place}:{class_name}': {_malformed(f'{place}:{class_name}')}")
    file = file.resolve()
    return ModelEntry(f"{file.stem}:{class_name}", f"{file}:{class_name}", f"from {file.name}", "–", is_ours=False)


def _is_file(place: str) -> bool:
    """Report whether a model's place names a file rather than a module."""
    return place.endswith(".py") or "/" in place or os.sep in place


def _is_module(place: str, class_name: str) -> bool:
    return all(part.isidentifier() for part in (*place.split("."), class_name))


def _malformed(name: str) -> str:
    return f"{name!r} is not of the form package.module:Class or FILE.py:Class."


def _import_module(name: str) -> ModuleType:
    _search_also(os.getcwd())  # as `python -m` does; the console script does not
    return importlib.import_module(name)


def _load_file(file: Path) -> ModuleType:
    """Execute a file as a module, once per process; it finds its neighbours as a script does."""
    name = f"{FILE_MODULES}{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _search_also(str(file.parent))
    sys.modules[name] = module  # dataclasses and type hints look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _search_also(folder: str) -> None:
    """Let modules of a folder be imported; those of Python and of installed packages come first."""
    if folder not in sys.path:
        sys.path.append(folder)


def _is_defined_in(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


@contextmanager
def _naming_the_line(model: str) -> Iterator[None]:
    """Turn whatever a foreign module raises while it is imported into one sentence with its last file and line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ConfigError(f"Model {model!r} cannot be imported: {_describe(error)}.") from error


def _describe(error: BaseException) -> str:
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split()).rstrip(".")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {message}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith("<frozen") and frame.filename != __file__]
    theirs = [frame for frame in theirs if frame.filename != importlib.__file__]
    if not theirs:
        return message or type(error).__name__
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{theirs[-1].filename}, line {theirs[-1].lineno}: {what}"
