"""One run's configuration, composed once and typed: model < preset < suite < task < file < --set, later ones win."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from dtbench.errors import ConfigError, UnknownNameError
from dtbench.resources import resource
from dtbench.suites.suites import Suite, Task, read_mapping

#: Keys of the section `training` that do not change what a run computes, so that they are not hashed.
NOT_HASHED = frozenset({"log_every", "checkpoint_every"})


@dataclass
class OptimizerConfig:
    """AdamW with a linear warm-up to a constant rate, and gradient clipping by global norm (0 turns it off)."""

    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_steps: int = 10_000
    gradient_clip: float = 0.25


@dataclass
class TrainingConfig:
    """`steps` gradient steps on batches of `batch_size` windows (per rank) of `context_length` time steps (K)."""

    steps: int = 100_000
    batch_size: int = 64
    context_length: int = 20
    log_every: int = 100
    checkpoint_every: int = 1_000


@dataclass
class DataConfig:
    """`steps` is the size of a locally built dataset; public datasets have the size they have."""

    steps: int = 1_000_000
    normalize_states: bool = True


@dataclass
class EvaluationConfig:
    """`episodes` per target; `every` > 0 also evaluates during training (diagnostics; the last checkpoint scores)."""

    episodes: int = 100
    every: int = 0
    all_targets: bool = True


@dataclass
class HardwareConfig:
    """Passed to Lightning's Trainer; not part of the configuration's hash."""

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"


@dataclass
class RunConfig:
    """Everything that decides what a run computes. `model` is typed by the model's own `Config` dataclass."""

    model: Any = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dicts of str, int, float, bool, list and None."""
        return cast(dict[str, Any], plain(OmegaConf.to_container(OmegaConf.structured(self), resolve=True)))

    def hash(self) -> str:
        """Return 12 hex digits over everything that decides the result (hardware does not)."""
        return hashlib.sha256(json.dumps(hashed_part(self.to_dict()), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ModelSettings:
    """What a model contributes to its configuration.

    Attributes:
        name: key of the model's own parts of preset, suite and task.
        config: dataclass that types the section `model`.
        defaults: YAML file of the model's published settings; None where the dataclass is enough.
    """

    name: str
    config: type
    defaults: Path | None = None


def hashed_part(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the part of a plain configuration that decides what a run computes; its hash is taken over this."""
    return {
        section: {key: value for key, value in values.items() if section != "training" or key not in NOT_HASHED}
        for section, values in config.items()
        if section != "hardware"
    }


def plain(value: Any) -> Any:
    """Turn nested dicts, lists and tuples into plain dicts with str keys and lists."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def from_dict(content: Mapping[str, Any], model_config: type) -> RunConfig:
    """Rebuild the configuration that `RunConfig.to_dict` wrote; `model_config` types the section `model`."""
    config = OmegaConf.structured(RunConfig)
    config.model = OmegaConf.structured(model_config)
    return _resolve(_merge(config, content, "stored configuration"))


def preset_names() -> list[str]:
    """Return the names of the shipped presets."""
    return sorted(path.stem for path in resource("benchmarks", "presets").glob("*.yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """Load a preset: a mapping with `description`, `config` and per-model `models`.

    Raises:
        UnknownNameError: no such preset.
    """
    if name not in preset_names():
        raise UnknownNameError("preset", name, preset_names())
    return read_mapping(resource("benchmarks", "presets", f"{name}.yaml"))


def compose(
    model: ModelSettings,
    *,
    preset: Mapping[str, Any],
    suite: Suite,
    task: Task,
    file: Path | None = None,
    overrides: Iterable[str] = (),
) -> RunConfig:
    """Merge a run's configuration from its layers and check every key, type and value.

    Args:
        model: what the model contributes (`ModelEntry.settings` of the registry).
        preset: what `load_preset` returned.
        suite: suite of the task.
        task: task of the run.
        file: YAML file merged over preset, suite and task.
        overrides: `section.key=value` strings of `--set`.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible value; the message names the key.
    """
    config = OmegaConf.structured(RunConfig)
    config.model = OmegaConf.structured(model.config)
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if model.defaults is not None:
        layers.append((f"baselines/{model.name}/config.yaml", read_mapping(model.defaults)))
    for where, layer in (("preset", preset), (f"suite {suite.name}", vars(suite)), (f"task {task.id}", vars(task))):
        layers.append((where, layer.get("config") or {}))
        layers.append((f"{where}, models.{model.name}", (layer.get("models") or {}).get(model.name) or {}))
    if file is not None:
        layers.append((str(file), read_mapping(file)))
    layers.extend((f"--set {override}", _override(override)) for override in overrides)
    for where, layer in layers:
        config = _merge(config, layer, where) if layer else config
    resolved = _resolve(config)
    _check(resolved)
    return resolved


def task_layers(task: Task, model_name: str) -> str:
    """Return what of a task a model's configuration depends on: where it is equal, so are the configurations."""
    return json.dumps([task.config, task.models.get(model_name)], sort_keys=True)


def _override(text: str) -> dict[str, Any]:
    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not of the form section.key=value, e.g. --set training.steps=1000.")
    try:
        return cast(dict[str, Any], plain(OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=True)))
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"--set {text!r} cannot be read: {error}") from error


def _merge(config: DictConfig, layer: Mapping[str, Any], where: str) -> DictConfig:
    try:
        merged = OmegaConf.merge(config, OmegaConf.create(dict(layer)))
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
        known = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
        prefix = key.rpartition(".")[0]
        unknown = UnknownNameError(f"key of {prefix}" if prefix else "section", key.rpartition(".")[2], known)
        raise ConfigError(f"{where}: {unknown}") from error
    except (ValidationError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        key = error.full_key or error.key
        raise ConfigError(f"{where}: {f'{key}: ' if key else ''}{reason}.") from error
    assert isinstance(merged, DictConfig)
    return merged


def _resolve(config: DictConfig) -> RunConfig:
    """Return the merged configuration as dataclasses.

    Raises:
        ConfigError: a value is missing (`???`) or impossible.
    """
    try:
        resolved = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"The configuration is incomplete: {str(error).splitlines()[0]}.") from error
    assert isinstance(resolved, RunConfig)
    return resolved


def _check(config: RunConfig) -> None:
    positive = {
        "training.steps": config.training.steps,
        "training.batch_size": config.training.batch_size,
        "training.context_length": config.training.context_length,
        "training.log_every": config.training.log_every,
        "training.checkpoint_every": config.training.checkpoint_every,
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "evaluation.episodes": config.evaluation.episodes,
        "data.steps": config.data.steps,
        "hardware.devices": config.hardware.devices,
    }
    for key, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{key} must be positive, not {value}.")
    for key, amount in {
        "optimizer.warmup_steps": config.optimizer.warmup_steps,
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "optimizer.gradient_clip": config.optimizer.gradient_clip,
        "evaluation.every": config.evaluation.every,
    }.items():
        if amount < 0:
            raise ConfigError(f"{key} must not be negative, not {amount}.")
