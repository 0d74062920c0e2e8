"""One run's configuration, composed once and typed: model < preset < suite < task < file < --set, later ones win."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from dtbench.errors import ConfigError, UnknownNameError
from dtbench.hardware import FLOAT32, fast_precision, on_gpu
from dtbench.resources import resource
from dtbench.suites.suites import Suite, Task, read_mapping

#: Lightning's own names, and `auto`.
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
AUTO = "auto"
PRECISIONS = (
    *(AUTO, "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "32", "16", "bf16", "64"),
    *("transformer-engine", "transformer-engine-float16"),
)
#: Lightning's short names of precisions, and the ones it uses itself.
_SHORT_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
#: What the learning rate does after its warm-up.
DECAYS = ("none", "linear", "cosine")
#: Which parameters have weight decay: all of them, or the weights of linear maps and convolutions only.
DECAYED = ("all", "maps")
#: What becomes of windows that reach beyond their episode (`data.windows`).
NEAR_END = ("pad", "shift")
#: How a discrete action is chosen in evaluation: the one of the largest logit or value, or drawn from their softmax.
ACTIONS = ("greedy", "sampled")
#: What `hardware.compile` may be, and PyTorch's name of each mode.
COMPILE_MODES = {"off": None, "default": "default", "graphs": "reduce-overhead"}
#: Where curves may go (`runs.trackers`).
LOGGERS = ("tensorboard", "csv", "wandb", "mlflow", "trackio")
#: Beside a model's published settings: those for single tasks.
_TASKS = "tasks.yaml"
#: Keys of the section `training` that do not change what a run computes, so that they are not hashed.
NOT_HASHED = frozenset({"log_every", "checkpoint_every"})
#: Options that came when there were results already. At these values they are not hashed, so that such a result and a
#: new run of the same configuration have the same hash.
ADDED_LATER = {
    "optimizer": {"decayed": "all", "decay_length": 1.0, "decay_floor": 0.0},
    "data": {"near_end": "pad", "return_includes_reward": True},
    "evaluation": {"actions": "greedy", "random_actions": 0.0, "max_episode_steps": 0},
    "model": {
        **{"tokens": "gym", "lora_shared": False, "lora_biases": True},
        **{"quantiles": 200, "target_interval": 2000, "double": False, "clip_rewards": False},
        **{"value_loss": "mse", "value_bins": 51, "value_smoothing": 0.75, "value_min": None, "value_max": None},
    },
}


def require(holds: bool, key: str, rule: str, value: object) -> None:
    """Refuse a value of the configuration unless `holds`.

    Args:
        holds: whether the value is possible.
        key: the value's full key, e.g. `model.dropout`.
        rule: what it must be, e.g. `must lie in [0, 1)`.
        value: the value.

    Raises:
        ConfigError: `holds` is false; the message is `<key> <rule>, not <value>.`
    """
    if not holds:
        raise ConfigError(f"{key} {rule}, not {value!r}.")


def require_positive(section: str, config: object, *names: str) -> None:
    """Refuse fields of a section that are not greater than 0."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{section}.{name}", "must be positive", value)


def require_not_negative(section: str, config: object, *names: str) -> None:
    """Refuse fields of a section that are less than 0."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{section}.{name}", "must not be negative", value)


def require_one_of(key: str, value: str, known: Iterable[str]) -> None:
    """Refuse a value that is not one of the known ones."""
    known = list(known)
    require(value in known, key, f"must be one of {', '.join(known)}", value)


def require_finite(key: str, value: object) -> None:
    """Refuse NaN and infinity in a value, and in the fields or entries of a dataclass, dict, list or tuple."""
    if isinstance(value, float):
        require(math.isfinite(value), key, "must be a finite number", value)
    elif is_dataclass(value):
        for name in fields(value):
            require_finite(f"{key}.{name.name}", getattr(value, name.name))
    elif isinstance(value, dict):
        for name, item in value.items():
            require_finite(f"{key}.{name}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            require_finite(f"{key}[{index}]", item)


@dataclass
class OptimizerConfig:
    """AdamW with a linear warm-up, and gradient clipping by global norm (0 turns it off).

    After the warm-up the rate is constant, as in the papers' Gym code. With `decay: linear` it falls to 0 at the last
    step; with `cosine` it follows a cosine, as in DT's Atari code.

    Attributes:
        decay: see above.
        decay_length: after how many times the training's steps the falling rate would be 0.
        decay_floor: share of the rate below which it does not fall.
        decayed: which parameters have weight decay: `all`, or `maps` (the weights of linear maps and convolutions).
    """

    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_steps: int = 10_000
    gradient_clip: float = 0.25
    decay: str = "none"
    decay_length: float = 1.0
    decay_floor: float = 0.0
    decayed: str = "all"

    def __post_init__(self) -> None:
        require_one_of("optimizer.decay", self.decay, DECAYS)
        require_one_of("optimizer.decayed", self.decayed, DECAYED)
        self.betas = cast(tuple[float, float], tuple(self.betas))  # YAML has lists only
        require_finite("optimizer", self)
        require_positive("optimizer", self, "learning_rate", "eps", "decay_length")
        require(0 <= self.decay_floor <= 1, "optimizer.decay_floor", "must lie in [0, 1]", self.decay_floor)
        require_not_negative("optimizer", self, "weight_decay", "warmup_steps", "gradient_clip")
        is_pair = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(is_pair, "optimizer.betas", "must be two numbers in [0, 1)", list(self.betas))


@dataclass
class TrainingConfig:
    """`steps` gradient steps on batches of `batch_size` windows (per rank) of `context_length` time steps (K)."""

    steps: int = 100_000
    batch_size: int = 64
    context_length: int = 20
    log_every: int = 100
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        require_positive("training", self, "steps", "batch_size", "context_length", "log_every", "checkpoint_every")


@dataclass
class DataConfig:
    """How a task's data become windows.

    Attributes:
        steps: size of a locally built dataset; public datasets have the size they have.
        normalize_states: whether vectors are normalised by mean and standard deviation; frames never are.
        near_end: what becomes of a window that reaches beyond its episode: `pad`, or `shift` its start back.
        return_includes_reward: whether the return-to-go of a step includes its own reward.
    """

    steps: int = 1_000_000
    normalize_states: bool = True
    near_end: str = "pad"
    return_includes_reward: bool = True

    def __post_init__(self) -> None:
        require_positive("data", self, "steps")
        require_one_of("data.near_end", self.near_end, NEAR_END)


@dataclass
class EvaluationConfig:
    """How often, and at which returns to ask for; the last checkpoint at the score target is the score.

    Attributes:
        episodes: episodes per target.
        every: steps between evaluations during training, which are diagnostics; 0 for none.
        all_targets: also ask for the task's further targets, as a diagnostic.
        data_targets: number of further targets, evenly spaced between the lowest and the highest return in the data,
            as a diagnostic of return-conditioned models; 0 for none.
        actions: how a discrete action is chosen: `greedy`, or `sampled` from the softmax of the logits.
        random_actions: share of discrete actions that are drawn uniformly instead (ε of CQL's Atari code).
        max_episode_steps: cuts episodes shorter than the task does; 0 for the task's own limit.
    """

    episodes: int = 100
    every: int = 0
    all_targets: bool = True
    data_targets: int = 0
    actions: str = "greedy"
    random_actions: float = 0.0
    max_episode_steps: int = 0

    def __post_init__(self) -> None:
        require_positive("evaluation", self, "episodes")
        require_not_negative("evaluation", self, "every", "data_targets", "max_episode_steps")
        require(self.data_targets != 1, "evaluation.data_targets", "must be 0 or at least 2", self.data_targets)
        require_one_of("evaluation.actions", self.actions, ACTIONS)
        is_share = 0 <= self.random_actions <= 1
        require(is_share, "evaluation.random_actions", "must lie in [0, 1]", self.random_actions)


@dataclass
class HardwareConfig:
    """Passed to Lightning's Trainer; only the precision is part of the configuration's hash.

    `precision: auto` becomes `bf16-mixed` where the device has units for it, else `32-true` (`compose`). `compile` says
    whether training steps are compiled: `off`, `default` (`torch.compile`), or `graphs` (with CUDA graphs, GPUs only).
    `loggers` are where the training's curves go.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: str = "off"
    loggers: list[str] = field(default_factory=lambda: ["tensorboard", "csv"])

    def __post_init__(self) -> None:
        require_positive("hardware", self, "devices", "num_nodes")
        require_one_of("hardware.accelerator", self.accelerator, ACCELERATORS)
        require_one_of("hardware.precision", self.precision, PRECISIONS)
        self.precision = _SHORT_PRECISIONS.get(self.precision, self.precision)
        self.compile = "off" if self.compile == "False" else self.compile  # YAML reads `off` as a bool
        require_one_of("hardware.compile", self.compile, COMPILE_MODES)
        for logger in self.loggers:
            require_one_of("hardware.loggers", logger, LOGGERS)


#: Configurations as plain values, by their content.
_TYPED: dict[str, dict[str, Any]] = {}
_MOST_TYPED = 1000


@dataclass
class RunConfig:
    """Everything that decides what a run computes. `model` is typed by the model's own `Config` dataclass."""

    model: Any = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

    def __post_init__(self) -> None:
        require_finite("model", self.model)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dicts of str, int, float, bool, list and None, as the fields' types have them."""
        return copy.deepcopy(self._typed())

    def _typed(self) -> dict[str, Any]:
        content = repr((type(self.model), asdict(self)))
        if content not in _TYPED:  # OmegaConf needs hundredths of a second, and a sweep asks for each of its runs
            typed = plain(OmegaConf.to_container(OmegaConf.structured(self), resolve=True))
            if len(_TYPED) > _MOST_TYPED:
                _TYPED.clear()
            _TYPED[content] = cast(dict[str, Any], typed)
        return _TYPED[content]

    def hash(self) -> str:
        """Return 12 hex digits over everything that decides the result (of the hardware, the precision)."""
        return hashlib.sha256(json.dumps(hashed_part(self._typed()), sort_keys=True).encode()).hexdigest()[:12]


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
    hardware = {"precision": config.get("hardware", {}).get("precision", FLOAT32)}
    return {
        section: {key: value for key, value in values.items() if _is_hashed(section, key, value)}
        for section, values in {**config, "hardware": hardware}.items()
    }


def _is_hashed(section: str, key: str, value: object) -> bool:
    if section == "training" and key in NOT_HASHED:
        return False
    added = ADDED_LATER.get(section, {})
    return key not in added or value != added[key]


def plain(value: Any) -> Any:
    """Turn nested dicts, lists and tuples into plain dicts with str keys and lists."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def from_dict(content: Mapping[str, Any], model_config: type) -> RunConfig:
    """Rebuild the configuration that `RunConfig.to_dict` wrote; `model_config` types the section `model`.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible value.
    """
    return _resolve(_merge(_untouched(model_config), content, "stored configuration"))


def preset_names() -> list[str]:
    """Return the names of the shipped presets."""
    return sorted(path.stem for path in resource("benchmarks", "presets").glob("*.yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """Load a preset: a mapping with `description`, `config`, per-model `models`, and `domains` with both per domain.

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
    """Merge a run's configuration from its layers and check every key, type and value; decide `precision: auto`.

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
    config = _untouched(model.config)
    layers = _published(model, suite.domain, task.id)
    preset_layers = [("preset", preset)]
    if suite.domain in (preset.get("domains") or {}):
        preset_layers.append((f"preset, domains.{suite.domain}", preset["domains"][suite.domain]))
    for where, layer in (*preset_layers, (f"suite {suite.name}", vars(suite)), (f"task {task.id}", vars(task))):
        layers.append((where, layer.get("config") or {}))
        layers.append((f"{where}, models.{model.name}", (layer.get("models") or {}).get(model.name) or {}))
    if file is not None:
        layers.append((str(file), read_mapping(file)))
    layers.extend((f"--set {override}", _override(override)) for override in overrides)
    for where, layer in layers:
        config = _merge(config, layer, where) if layer else config
    resolved = _resolve(config)
    if resolved.hardware.precision == AUTO:
        resolved.hardware.precision = fast_precision(gpu=on_gpu(resolved.hardware))
    return resolved


def _published(model: ModelSettings, domain: str, task_id: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return a model's published settings; over them those for the suite's domain, and those for the task, if any."""
    if model.defaults is None:
        return []
    layers: list[tuple[str, Mapping[str, Any]]] = [
        (f"baselines/{model.name}/config.yaml", read_mapping(model.defaults))
    ]
    of_domain = model.defaults.with_name(f"{domain}.yaml")
    if domain and of_domain.is_file():
        layers.append((f"baselines/{model.name}/{domain}.yaml", read_mapping(of_domain)))
    of_tasks = _published_for_tasks(model)
    if task_id in of_tasks:
        layers.append((f"baselines/{model.name}/{_TASKS}, {task_id}", of_tasks[task_id]))
    return layers


def _published_for_tasks(model: ModelSettings) -> Mapping[str, Any]:
    """Return a model's published settings for single tasks, by the task's id; most models have none."""
    file = None if model.defaults is None else model.defaults.with_name(_TASKS)
    return read_mapping(file) if file is not None and file.is_file() else {}


def task_layers(task: Task, model: ModelSettings) -> str:
    """Return what of a task a model's configuration depends on: where it is equal, so are the configurations."""
    published = _published_for_tasks(model).get(task.id)
    return json.dumps([task.config, task.models.get(model.name), published], sort_keys=True)


def _untouched(model_config: type) -> DictConfig:
    """Return the configuration in which everything has its dataclass's default."""
    try:
        config = OmegaConf.structured(RunConfig)
        config.model = OmegaConf.structured(model_config)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{model_config.__name__} cannot type the section `model`: {reason}.") from error
    assert isinstance(config, DictConfig)
    return config


def _override(text: str) -> dict[str, Any]:
    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not of the form section.key=value, e.g. --set training.steps=1000.")
    try:
        return cast(dict[str, Any], plain(OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=True)))
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"--set {text!r} cannot be read: {str(error).splitlines()[0]}.") from error


def _merge(config: DictConfig, layer: Mapping[str, Any], where: str) -> DictConfig:
    if not isinstance(layer, Mapping):
        raise ConfigError(f"{where}: a configuration must map sections to their keys, not be {layer!r}.")
    try:
        merged = OmegaConf.merge(config, OmegaConf.create(dict(layer)))
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
        known = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
        prefix = key.rpartition(".")[0]
        unknown = UnknownNameError(f"key of {prefix}" if prefix else "section", key.rpartition(".")[2], known)
        raise ConfigError(f"{where}: {unknown}") from error
    except (OmegaConfBaseException, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        wrong = getattr(error, "full_key", None) or getattr(error, "key", None)
        raise ConfigError(f"{where}: {f'{wrong}: ' if wrong else ''}{reason}.") from error
    assert isinstance(merged, DictConfig)
    if merged.model is None:
        raise ConfigError(f"{where}: model must hold the model's settings, not null.")
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
    except (ValueError, TypeError) as error:  # a check of a model's own `Config`
        raise ConfigError(f"The section model is refused by the model: {' '.join(str(error).split())}.") from error
    assert isinstance(resolved, RunConfig)
    return resolved
