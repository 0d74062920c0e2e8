"""What all models share: the contract with data, training and evaluation, and the body of sequence policies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import lightning
import torch
from torch import Tensor, nn

from dtbench.config import RunConfig, from_dict
from dtbench.determinism import seed_torch
from dtbench.errors import ConfigError
from dtbench.hardware import on_gpu
from dtbench.models.checkpoint import load_checkpoint
from dtbench.models.parts.actions import action_loss, mean_over_real
from dtbench.models.parts.heads import ActionHead
from dtbench.models.parts.initial_weights import shrink
from dtbench.models.parts.language_loss import LanguageLoss
from dtbench.models.parts.memory import Numbers, frame_bytes, mlp_bytes, state_bytes, trunk_bytes
from dtbench.models.parts.optimizer import adamw
from dtbench.models.parts.options import EPISODE, SMALL, RecurrentConfig, SequenceConfig
from dtbench.models.parts.tokens import (
    LAST_STATE_TOKEN,
    NEW_TOKENS,
    STATE_TOKENS,
    TOKENS_PER_STEP,
    TokenEmbedding,
    TrajectoryEmbedding,
)
from dtbench.models.parts.trunk import RecurrentMixer, State, Trunk, TrunkConfig
from dtbench.spaces import Frames, Spaces

if TYPE_CHECKING:
    from dtbench.data.windows import Windows

__all__ = [
    "OfflineModule",
    "SequenceConfig",
    "SequencePolicy",
    "State",
    "Window",
    "mean_over_real",
]  # for a model of your own

Window = dict[str, Tensor]
_RECENT = 100
#: What `optimizer.decayed: maps` means.
_MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class OfflineModule(lightning.LightningModule):
    """A learning method: `loss` for training, `act` for evaluation.

    A checkpoint stores the arguments as plain values (str, int, float, bool, list, dict and None), so that it loads
    with `weights_only=True`; `from_checkpoint` rebuilds the model from it.

    Args:
        config: the run's configuration; its section `model` is an instance of this class's `Config`.
        spaces: what the agent sees and does, and how long an episode can be.
        seed: seeds the initial weights and everything random in training, e.g. dropout.

    Attributes:
        options: the section `model` of the configuration.
        spaces: see above.
        context_length: K, time steps per window.
        initial_weights: where the initial weights come from; stored in every result and shown in the leaderboard.
        step: 0-based step of the training, for losses that change over time.
        draws: how many random numbers an action needs, 0 for most methods. Evaluation hands them to `act` as
            `window["draws"]`, (B, draws) float32, uniform in [0, 1): of each environment its own.
    """

    #: Dataclass of the section `model` of this model's configuration.
    Config: ClassVar[type]
    options: Any
    draws: int = 0

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__()
        self.spaces = Spaces.of(spaces)
        self.save_hyperparameters({"config": config.to_dict(), "spaces": self.spaces.to_dict(), "seed": seed})
        self.options = config.model
        self.optimizer_config, self.steps = config.optimizer, config.training.steps
        self.context_length, self.log_every = config.training.context_length, config.training.log_every
        self.initial_weights = "random"
        self.seed, self.step = seed, 0
        self.recent_losses: Tensor  # part of the checkpoint, so that a resumed run ends with the same final loss
        self.register_buffer("recent_losses", torch.full((_RECENT,), torch.nan))
        torch.manual_seed(seed)  # the subclass builds its layers next

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """Rebuild a model from a checkpoint that Lightning wrote; its weights are on the CPU.

        Raises:
            ConfigError: the file is not a checkpoint of this model.
        """
        checkpoint = load_checkpoint(path)
        try:
            arguments = checkpoint[cls.CHECKPOINT_HYPER_PARAMS_KEY]
            spaces = arguments["spaces"] if "spaces" in arguments else arguments["dims"]  # before there were frames
            config, spaces, seed = arguments["config"], Spaces.of(spaces), int(arguments["seed"])
            weights = checkpoint["state_dict"]
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise ConfigError(f"{path} is not a checkpoint of a dtbench model.") from error
        try:
            module = cls(from_dict(config, cls.Config), spaces, seed)
            module.load_state_dict(weights)
        except (RuntimeError, TypeError, AttributeError, KeyError) as error:
            raise ConfigError(f"{path} does not hold the weights of {cls.__name__}.") from error
        return module

    @classmethod
    def prepare(cls, options: Any) -> None:
        """Fetch or make what a run needs apart from its data, e.g. pretrained weights. Called once, before any run.

        Args:
            options: an instance of `Config`.

        Raises:
            SourceError: it is not available.
        """

    @property
    def window_options(self) -> dict[str, Any]:
        """Fields of `data.windows.WindowOptions` that this method needs to differ from the task's; none for most."""
        return {}

    @property
    def held_out_share(self) -> float:
        """Share of the trajectories that only the steps of `is_held_out_step` train on; 0 for most methods."""
        return 0.0

    def is_held_out_step(self, step: int) -> bool:
        """Say whether the batch of the (0-based) step comes from the held-out trajectories."""
        return False

    @property
    def stackable(self) -> bool:
        """Whether several seeds of this model can be trained as one (`dtbench run --stack-seeds`).

        It promises that `torch.vmap` can take `loss`: no shape depends on values (no indexing by a mask), no random
        numbers but those of `parts.dropout.Dropout`, no state that `loss` changes; and that the class leaves
        `clipped_parameters`, `see_data` and what Lightning calls (`training_step`, `configure_optimizers` …) as they
        are here.
        """
        return False

    def compile_training(self, **options: Any) -> bool:
        """Compile what a training step computes most of, with `torch.compile(…, **options)`.

        Evaluation is not compiled: its shapes are others.

        Returns:
            Whether the model has such a part; by default it has none.
        """
        return False

    @property
    def final_loss(self) -> float:
        """Mean loss of the last (at most) 100 steps; NaN before the first."""
        return float(self.recent_losses.nanmean())

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the training loss of a batch.

        Args:
            batch: windows, with the keys and shapes of `data.windows.Windows.gather`.

        Returns:
            The scalar loss, and metrics to log by name.
        """
        raise NotImplementedError

    def act(self, window: Window) -> Tensor:
        """Choose the actions of the last step of each window.

        Args:
            window: as in training; the last step's action is 0, because it is not taken yet.

        Returns:
            (B, action size) float32: a continuous action itself; of discrete ones the logits or values of all, among
            which the evaluation chooses.
        """
        raise NotImplementedError

    def initial_state(self, count: int) -> State | None:
        """Return what the model carries from step to step, of episodes before their first step; None for most models.

        None means that it acts on windows. A model with a state acts by `act_step`, whose time does not grow with the
        steps that it remembers; `act` remains as it is.

        Args:
            count: number of episodes.

        Returns:
            Tensors (count, …) with a row per episode, on the model's device.
        """
        return None

    def act_step(self, last: Window, state: State) -> tuple[Tensor, State]:
        """Choose the actions of the current step, after all earlier ones of its episode.

        It does what `act` does with a window of all these steps.

        Args:
            last: the last two steps of each window: the one before the current, with the action that was taken in it
                (in an episode's first step it is padding), and the current one.
            state: as `initial_state` or the last call returned it, without the rows of episodes that have ended.

        Returns:
            The actions as from `act`, and the state for the next call, in tensors of its own.
        """
        raise NotImplementedError

    def encode(self, observations: Tensor) -> Tensor | None:
        """Encode single observations, where that is worth doing once per step instead of once per window that has them.

        `act` then finds what this returned as `window["features"]`, (B, K, features), 0 where it is padded.

        Args:
            observations: (B, …), as in a window.

        Returns:
            (B, features), or None if the model does not do that.
        """
        return None

    def activation_bytes(self, batch_size: int, numbers: Numbers) -> int:
        """Estimate the bytes that a forward pass keeps for the backward pass; by default every step passes once."""
        return mlp_bytes(self, batch_size * self.context_length, numbers)

    def see_data(self, windows: Windows) -> None:
        """Look at the whole dataset once, before training starts or resumes, e.g. for the range of its returns.

        Most methods do not. All processes see the same data. Keep what is learnt from them in buffers, so that a
        checkpoint holds it.
        """

    def on_fit_start(self) -> None:
        """Show the data to the model."""
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.see_data(data.windows)

    def training_step(self, batch: Window, batch_idx: int) -> Tensor:
        """Seed the step, compute its loss and log it."""
        self.step = batch_idx
        seed_torch(self.seed, batch_idx, self.global_rank)  # dropout
        loss, metrics = self.loss(batch)
        self.recent_losses[batch_idx % _RECENT] = loss.detach()
        if (batch_idx + 1) % self.log_every == 0:  # Lightning takes milliseconds to note a value that it throws away
            self.log("train/loss", loss.detach(), prog_bar=True)
            self.log_dict({f"train/{name}": value for name, value in metrics.items()})
        return loss

    def frozen_parameters(self, step: int) -> Iterable[nn.Parameter]:
        """Return the parameters that the (0-based) step leaves unchanged; none for most methods."""
        return ()

    def clipped_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters whose gradients are clipped together; all for most methods."""
        return self.parameters()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups; by default of all that is trained, as `optimizer.decayed` divides it."""
        return self.divided_by_decay([parameter for parameter in self.parameters() if parameter.requires_grad])

    def divided_by_decay(self, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """Divide parameters into groups with and without weight decay; all have it as in DT's Gym code, by default.

        With `optimizer.decayed: maps` only the weights of linear maps and convolutions have it, as in minGPT.
        """
        if self.optimizer_config.decayed == "all":
            return [{"params": list(parameters)}]
        maps = {id(module.weight) for module in self.modules() if isinstance(module, _MAPS)}
        decayed = [parameter for parameter in parameters if id(parameter) in maps]
        others = [parameter for parameter in parameters if id(parameter) not in maps]
        return [{"params": decayed}, {"params": others, "weight_decay": 0.0}]

    def configure_optimizers(self) -> Any:
        """Return AdamW with the schedule of its learning rate."""
        return adamw(self.parameter_groups(), self.optimizer_config, self.steps)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the gradients together, then drop those of the step's frozen parameters."""
        if self.optimizer_config.gradient_clip > 0:
            nn.utils.clip_grad_norm_(self.clipped_parameters(), self.optimizer_config.gradient_clip)
        for parameter in self.frozen_parameters(self.step):
            parameter.grad = None


class SequencePolicy(OfflineModule):
    """Tokens → trunk → action head on the state tokens; squared error or cross-entropy over the real steps.

    A subclass builds `embedding`, `trunk` and `head`, and `language` if it has a language loss. DT, GPT-2-DT, LaMo,
    GPT2-DTMA, DC and the recurrent ones differ only in these parts and in which weights are trained.
    """

    embedding: nn.Module  # `TokenEmbedding`, or another with its call
    trunk: Any  # `Trunk`, or an adapter with its call
    head: nn.Module
    language: LanguageLoss | None

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        self.language = None

    def forward(self, window: Window, select: slice = STATE_TOKENS) -> Tensor:
        """Predict actions from the state tokens.

        Args:
            window: with the keys and shapes of `data.windows.Windows.gather`.
            select: the state tokens to predict from.

        Returns:
            (B, K, action size), or fewer steps where fewer tokens are selected.
        """
        tokens, token_mask = self.embedding(window)
        return self.head(self.trunk(tokens, token_mask, select))

    def predict(self, batch: Window) -> Tensor:
        """Call `forward` for the loss: (B, K, action size); `compile_training` puts compiled code in its place."""
        return self(batch)

    def compile_training(self, **options: Any) -> bool:
        """Compile `forward`, as far as `loss` calls it. Losses that change over the steps stay outside."""
        compiled: Any = torch.compile(self.forward, dynamic=False, **options)
        self.predict = compiled  # type: ignore[method-assign]
        return True

    @property
    def stackable(self) -> bool:
        return self.language is None and isinstance(self.trunk, Trunk)  # the language loss draws texts

    def loss(self, batch: Window) -> tuple[Tensor, dict[str, Tensor]]:
        return action_loss(self.spaces.action, self.predict(batch), batch["actions"], batch["padding_mask"])

    def activation_bytes(self, batch_size: int, numbers: Numbers) -> int:
        """Estimate what the trunk, its embeddings and the language loss keep for the backward pass."""
        tokens = TOKENS_PER_STEP * self.context_length
        config = getattr(self.trunk, "config", None)
        if not isinstance(config, TrunkConfig):  # a trunk from outside
            return mlp_bytes(self, batch_size * tokens, numbers)
        embedded = 4 * batch_size * tokens * config.width * numbers.bytes_per_value
        embedded += frame_bytes(self.embedding, batch_size * self.context_length, numbers)
        kept = trunk_bytes(self.trunk, batch_size, tokens, self.context_length, numbers)
        text = self.language.activation_bytes(self.trunk, numbers) if self.language is not None else 0
        return embedded + kept + text

    def encode(self, observations: Tensor) -> Tensor | None:
        if isinstance(self.spaces.observation, Frames) and isinstance(self.embedding, TokenEmbedding):
            features: Tensor = self.embedding.embed_state(observations)
            return features
        return None

    def act(self, window: Window) -> Tensor:
        embed = getattr(self.embedding, "for_acting", self.embedding)  # a model from outside may embed in its own way
        tokens, token_mask = embed(window)
        return self.head(self.trunk(tokens, token_mask, LAST_STATE_TOKEN))[:, 0].float()


class RecurrentPolicy(SequencePolicy):
    """DT with a recurrent mixer in the place of attention: tokens, MLPs, head and loss are DT's.

    It is trained on windows of K steps. With `memory: episode` it carries a state through the whole episode and acts on
    that, at the same cost in every step; with `memory: window` it acts on the last K steps, as DT. Both read the same
    tokens, with the steps' own times, and are equal as long as an episode fits into a window.
    """

    options: RecurrentConfig
    trunk: Trunk

    def __init__(self, config: RunConfig, spaces: Spaces | Mapping[str, Any], seed: int = 0) -> None:
        super().__init__(config, spaces, seed)
        options = self.options
        self.embedding = TrajectoryEmbedding(self.spaces, options.width, norm_before_time=False)
        trunk = replace(options.trunk(), scaled_residuals=False)
        self.trunk = Trunk(trunk, lambda config, layer: self.mixer(config))
        self.head = ActionHead(options.width, self.spaces.action.size, options.tanh)
        self.initial_weights = options.describe_weights()
        if options.init == SMALL:
            shrink(self.embedding, self.head)

    def mixer(self, config: TrunkConfig) -> RecurrentMixer:
        """Return the mixer of one layer."""
        raise NotImplementedError

    def initial_state(self, count: int) -> State | None:
        return self.trunk.initial_state(count) if self.options.memory == EPISODE else None

    def act_step(self, last: Window, state: State) -> tuple[Tensor, State]:
        tokens, token_mask = self.embedding(last)
        token, state = self.trunk.step(tokens[:, NEW_TOKENS], token_mask[:, NEW_TOKENS], state, slice(-1, None))
        return self.head(token)[:, 0].float(), state


def build_on_meta(model: type[OfflineModule], config: RunConfig, spaces: Spaces) -> OfflineModule:
    """Build a model without memory for its weights, so that impossible sizes are found before any run.

    All weights are on PyTorch's `meta` device, and pretrained weights are read as shapes only. Call `prepare` before. A
    model from outside that needs the values of its weights while it is built is built as usual, on the CPU. The global
    random state is left as it was.

    Raises:
        ConfigError: the model cannot be built from this configuration.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return model(config, spaces)
        except (NotImplementedError, RuntimeError, TypeError):
            return model(config, spaces)


def estimate_memory(module: OfflineModule, config: RunConfig, spaces: Spaces) -> int:
    """Estimate roughly the bytes that a training step needs on the device it runs on.

    Weights, gradients and AdamW's two moments are counted exactly (16 bytes per trained parameter, 4 per other one);
    what is kept for the backward pass comes from `OfflineModule.activation_bytes`; the batch is added. The process
    itself (Python, PyTorch, about half a gigabyte) and the dataset are not counted.

    Args:
        module: the model, e.g. from `build_on_meta`.
        config: its configuration.
        spaces: what a window holds.
    """
    training, hardware = config.training, config.hardware
    size = 2 if "16" in hardware.precision else 8 if "64" in hardware.precision else 4
    seen = spaces.observation
    observation_bytes = math.prod(seen.shape) * (1 if isinstance(seen, Frames) else 4)
    batch_bytes = training.batch_size * training.context_length * (2 * observation_bytes + 4 * (spaces.action.size + 8))
    activations = module.activation_bytes(training.batch_size, Numbers(size, fused_attention=on_gpu(hardware)))
    return state_bytes(module) + activations + batch_bytes
