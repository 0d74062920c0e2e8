"""The section `model` of a configuration, for each model: its options, their defaults and what they may be.

Planning runs needs the options but no networks, so this module imports neither torch nor Lightning.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dtbench.config import require, require_not_negative, require_one_of, require_positive
from dtbench.errors import ConfigError

if TYPE_CHECKING:
    from dtbench.models.parts.trunk import TrunkConfig

#: More blocks than any trunk has; building them would take minutes before the mistake is found.
MOST_LAYERS = 1000
#: By the names of GPT-2's option `activation_function`.
ACTIVATIONS = ("relu", "gelu", "gelu_new")
#: Initial weights of embeddings and head.
INITS = PUBLISHED, SMALL = "published", "small"
#: What a recurrent policy remembers when it acts: all steps of the episode, or those of a window.
MEMORIES = EPISODE, WINDOW = "episode", "window"
#: Which of two published codes tokens and head follow.
TOKENS = GYM, ATARI = "gym", "atari"
#: Kinds of embeddings and heads.
MAPS = ("linear", "mlp")
#: GPT-2-DT's loss that pulls the trajectory towards words.
ALIGNMENTS = ("cosine", "reference")
#: The text that papers use for the language loss.
WIKITEXT = "wikitext-103"
#: How critics learn values: by squared error (of discrete actions, by quantiles), or by classification.
VALUE_LOSSES = MSE, HL_GAUSS = "mse", "hl_gauss"
#: What the MLP of cloning sees; what its `top_fraction` is a share of.
STATES, TOP_BY = ("step", "window"), ("trajectories", "steps")
#: What the bins of a discretiser are: equally full, or equally wide.
DISCRETIZERS = ("quantile", "uniform")


def require_value_range(least: float | None, largest: float | None) -> None:
    """Refuse a `model.value_max` that is not above `model.value_min`; None stands for the data's."""
    is_range = least is None or largest is None or least < largest
    require(is_range, "model.value_max", f"must be greater than model.value_min={least}", largest)


@dataclass
class SequenceConfig:
    """Size of the trunk, and the options of all sequence policies.

    Attributes:
        layers: blocks of the trunk.
        heads: attention heads per block.
        width: size of a token.
        activation: `relu`, `gelu` or `gelu_new` (GPT-2's).
        dropout: dropout of embeddings, attention weights and residuals.
        tanh: whether the head's outputs go through tanh, which bounds actions to [−1, 1].
        init: initial weights of embeddings and head: `published` (PyTorch's defaults), or `small` (N(0, 0.02)).
    """

    layers: int = 3
    heads: int = 1
    width: int = 128
    activation: str = "relu"
    dropout: float = 0.1
    tanh: bool = True
    init: str = PUBLISHED

    def __post_init__(self) -> None:
        _require_trunk(self)
        require_one_of("model.activation", self.activation, ACTIVATIONS)
        require_one_of("model.init", self.init, INITS)

    def trunk(self) -> TrunkConfig:
        """Return a trunk that is trained from random weights."""
        return _trunk(self, self.layers)

    def describe_weights(self, trunk: str = "random") -> str:
        """Say for results and tables where the initial weights come from."""
        return f"{trunk}, {SMALL}" if self.init == SMALL else trunk


@dataclass
class DecisionTransformerConfig(SequenceConfig):
    """Size of the trunk, and which of the two published codes the tokens and the head follow.

    Attributes:
        tokens: `gym`, or `atari`, whose code comes from minGPT: see `parts.tokens.MinGptEmbedding`; its head has no
            bias and starts at N(0, 0.02).
    """

    tokens: str = GYM

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("model.tokens", self.tokens, TOKENS)


@dataclass
class DecisionConvFormerConfig(SequenceConfig):
    """Size of the trunk and its convolutions.

    Attributes:
        window: tokens that a filter spans.
        hybrid: whether the last layer attends instead (the paper's hybrid, which only its Atari code has); `heads`
            applies to that layer only.
        projection: a linear map with dropout after each convolution (`--conv_proj` of its Atari code).
        tokens: `gym`, or `atari`: which of the two published codes tokens and head follow; both are DT's.
    """

    width: int = 256
    activation: str = "gelu"
    window: int = 6
    hybrid: bool = False
    projection: bool = False
    tokens: str = GYM

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("model", self, "window")
        require_one_of("model.tokens", self.tokens, TOKENS)


@dataclass
class RecurrentConfig(SequenceConfig):
    """Size of the trunk, and what the policy remembers. `heads` stays 1: recurrent mixers have none.

    Attributes:
        memory: `episode`: the policy acts on a state that it carries through the whole episode, at the same cost in
            every step; `window`: on the last K steps, as it is trained.
    """

    memory: str = EPISODE

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.heads == 1, "model.heads", "must be 1, because recurrent mixers have no heads", self.heads)
        require_one_of("model.memory", self.memory, MEMORIES)


@dataclass
class DecisionLstmConfig(RecurrentConfig):
    """An LSTM in each layer, as wide as the tokens."""


@dataclass
class DecisionMambaConfig(RecurrentConfig):
    """A selective state space in each layer.

    Attributes:
        states: N, numbers that each channel carries.
        expand: channels of the mixer per channel of a token.
        convolution: tokens that the convolution before the state space spans.
    """

    activation: str = "gelu"
    memory: str = WINDOW
    states: int = 16
    expand: int = 2
    convolution: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("model", self, "states", "expand", "convolution")


@dataclass
class DecisionS4Config(RecurrentConfig):
    """A diagonal state space in each layer.

    Attributes:
        states: N, numbers that each channel carries; N / 2 are complex, the others their conjugates.
    """

    states: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        is_possible = self.states >= 2 and self.states % 2 == 0
        require(is_possible, "model.states", "must be positive and even", self.states)


@dataclass
class MaxReturnConfig(SequenceConfig):
    """A trunk as in min-decision-transformer, and the return that the model itself asks for.

    Attributes:
        dropout: dropout of the heads' outputs and of residuals.
        expectile: τ of the regression to the largest return: at 0.5 it is the mean, towards 1 the maximum.
        return_weight: weight of that regression's loss.
    """

    layers: int = 4
    activation: str = "gelu"
    expectile: float = 0.99
    return_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.expectile < 1, "model.expectile", "must lie in (0, 1)", self.expectile)
        require_not_negative("model", self, "return_weight")

    def trunk(self) -> TrunkConfig:
        """Return a trunk whose blocks normalise after their sums, with PyTorch's initial weights."""
        trunk = super().trunk()
        return replace(trunk, embedding_dropout=0.0, scaled_residuals=False, post_norm=True, small_maps=False)


@dataclass
class ReinformerConfig(MaxReturnConfig):
    """Reinformer. The temperatures count for continuous actions only.

    Attributes:
        temperature: initial weight of the entropy of the action's distribution.
        temperature_learning_rate: learning rate of that weight, which moves the entropy to −(numbers per action).
    """

    heads: int = 8
    width: int = 256
    temperature: float = 0.1
    temperature_learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("model", self, "temperature", "temperature_learning_rate")


@dataclass
class ElasticDecisionTransformerConfig(MaxReturnConfig):
    """Elastic Decision Transformer.

    Attributes:
        bins: of returns, evenly spaced over the returns-to-go of the data.
        bins_weight: weight of the cross-entropy of the return's bin.
        state_weight: weight of the squared error of the next state, where states are vectors.
        expert_weight: what the highest bin's logit gains over the lowest's before a return is drawn (the reference's 15
            of Hopper, Walker2d and Ant, and 10 of `mgdt_logits`).
        top_share: share of the bins, least likely first, that are never drawn (`top_percentile`).
        length_stride: difference of the history lengths that are tried when acting (`rs_steps`).
    """

    heads: int = 4
    width: int = 512
    return_weight: float = 0.5
    bins: int = 60
    bins_weight: float = 1e-3
    state_weight: float = 1.0
    expert_weight: float = 25.0
    top_share: float = 0.15
    length_stride: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bins >= 2, "model.bins", "must be at least 2", self.bins)
        require_positive("model", self, "length_stride")
        require_not_negative("model", self, "bins_weight", "state_weight", "expert_weight")
        require(0 <= self.top_share < 1, "model.top_share", "must lie in [0, 1)", self.top_share)


@dataclass
class BackboneConfig(SequenceConfig):
    """A pretrained backbone and what is put around it. `layers`, `heads` and `width` apply to `scratch` only.

    Attributes:
        dropout: GPT-2's `resid_pdrop`.
        backbone: see `backbone.load.load_backbone`.
        embedding: `linear` or `mlp`.
        head: `linear` or `mlp`.
        reinit_heads: heads of layer 0 whose query weights are drawn again, the probe of arXiv 2409.06985.
        language_weight: λ of the auxiliary language loss; at 0 no text is read and no language forward pass happens.
        text: a file or folder of .txt or .txt.gz, or `wikitext-103` from the hub.
        text_batch: sequences of text per step.
        text_context: tokens per sequence, at most the backbone's.
    """

    layers: int = 12
    heads: int = 12
    width: int = 768
    activation: str = "gelu_new"
    backbone: str = "gpt2"
    embedding: str = "linear"
    head: str = "linear"
    reinit_heads: list[int] = field(default_factory=list)
    language_weight: float = 0.0
    text: str = WIKITEXT
    text_batch: int = 2
    text_context: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("model.embedding", self.embedding, MAPS)
        require_one_of("model.head", self.head, MAPS)
        require_not_negative("model", self, "language_weight")
        require_positive("model", self, "text_batch")
        require(self.text_context >= 2, "model.text_context", "must be at least 2", self.text_context)
        are_indices = all(head >= 0 for head in self.reinit_heads)
        require(are_indices, "model.reinit_heads", "must be indices of heads, counted from 0", list(self.reinit_heads))


@dataclass
class Gpt2DtConfig(BackboneConfig):
    """Fully fine-tuned GPT-2.

    Attributes:
        extended_positions: whether the time table starts from the language model's positions, repeated to the length
            of the longest episode; a backbone without them has random ones, N(0, 0.02), as an untrained GPT-2.
        shared_projections: whether the action head is the transposed embedding of actions, without bias.
        alignment: loss that pulls the embedded trajectory towards the nearest of `alignment_centres` clusters of words:
            `reference` as in the published code (whose einsum never sums the feature axis), `cosine` as in the paper,
            or `none`. A backbone without words has no such loss.
        alignment_weight: its initial weight.
        alignment_steps: steps after which it has faded to 0.7 % of that; half of it is left after half of them.
        alignment_centres: number of clusters.
    """

    dropout: float = 0.2
    extended_positions: bool = True
    shared_projections: bool = True
    alignment: str = "reference"
    alignment_weight: float = 0.1
    alignment_steps: int = 5000
    alignment_centres: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("model.alignment", self.alignment, (*ALIGNMENTS, "none"))
        require_not_negative("model", self, "alignment_weight")
        require_positive("model", self, "alignment_centres", "alignment_steps")
        if self.shared_projections and "mlp" in (self.embedding, self.head):
            raise ConfigError("model.shared_projections needs model.embedding=linear and model.head=linear.")


@dataclass
class LamoConfig(BackboneConfig):
    """MLP embeddings and head, and a frozen GPT-2 with LoRA.

    Attributes:
        trained: which weights of the backbone are trained: `lora` (low-rank updates of queries, keys and values),
            `full` or `frozen`. Embeddings and head are always trained.
        lora_rank: rank of the update for each of queries, keys and values.
        lora_alpha: updates are scaled by lora_alpha / lora_rank.
        lora_dropout: dropout of the updates' input.
        lora_shared: whether the updates of queries, keys and values share the first of their two maps, as where `peft`
            adapts GPT-2's one map for all three (the Atari code).
        lora_biases: whether the biases of the adapted maps are trained as well (the D4RL code).
        tokens: `gym`, or `atari`: which of the two published codes the tokens follow. The Atari code adds the time
            vector before the LayerNorm instead of after it, and then the backbone's own vectors of positions.
    """

    embedding: str = "mlp"
    head: str = "mlp"
    tanh: bool = False
    trained: str = "lora"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    lora_shared: bool = False
    lora_biases: bool = True
    tokens: str = GYM

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("model.trained", self.trained, ("lora", "full", "frozen"))
        require_one_of("model.tokens", self.tokens, TOKENS)
        require_positive("model", self, "lora_rank", "lora_alpha")
        require(0 <= self.lora_dropout < 1, "model.lora_dropout", "must lie in [0, 1)", self.lora_dropout)


@dataclass
class Gpt2DtmaConfig(BackboneConfig):
    """Fully fine-tuned GPT-2 with a gate on the heads of layer 0.

    Attributes:
        gate: whether the gate is there. Without it, initial weights, settings and the steps' windows are the same, and
            every step updates everything; trajectories that are held out for the gate are then not used.
        time_before_norm: whether the time vector is added before the LayerNorm of the tokens (the paper's PointMaze
            code) instead of after it (its D4RL code).
        gate_every: every `gate_every`-th step updates the gate alone, the others everything else; 0 updates everything
            in every step.
        gate_data: `same` (the paper's D4RL code), or `held_out`: the gate's steps draw from `held_out_share` of the
            trajectories and the others from the rest (its PointMaze code).
        held_out_share: share of the trajectories for the gate.
    """

    embedding: str = "mlp"
    head: str = "mlp"
    tanh: bool = False
    gate: bool = True
    time_before_norm: bool = False
    gate_every: int = 20
    gate_data: str = "same"
    held_out_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("model.gate_data", self.gate_data, ("same", "held_out"))
        is_possible = self.gate_every == 0 or self.gate_every >= 2
        require(is_possible, "model.gate_every", "must be 0 or at least 2", self.gate_every)
        require(0 < self.held_out_share < 1, "model.held_out_share", "must lie in (0, 1)", self.held_out_share)
        if self.gate and self.gate_data == "held_out" and not self.gate_every:
            raise ConfigError("model.gate_data=held_out needs model.gate_every > 0.")


@dataclass
class ConservativeQLearningConfig:
    """SAC with twin critics and a conservative penalty; of discrete actions, quantile regression with that penalty.

    `optimizer.learning_rate` applies to the critics and to the Lagrange multiplier. Of discrete actions only `width`,
    `critic_layers`, `discount`, `penalty_weight`, the reward's scale and bias, those of values and the last four count.

    Attributes:
        width: units of a hidden layer.
        policy_layers: hidden layers of the policy.
        critic_layers: hidden layers of each critic.
        policy_learning_rate: learning rate of the policy and of the entropy's temperature.
        orthogonal_policy: whether the policy's initial weights are orthogonal.
        discount: γ.
        target_rate: τ of the moving average that the target critics are.
        penalty_weight: α of the penalty (`cql_alpha`, `min_q_weight`).
        sampled_actions: actions in the penalty from each of three sources: uniform, policy at s, policy at s′.
        temperature: T of the penalty's logsumexp.
        importance_sampling: whether the log-densities are subtracted; without it Q(s, a of the data) joins the
            logsumexp.
        lagrange: whether a multiplier is learned that keeps the penalty's difference at `target_gap`.
        target_gap: see `lagrange`.
        max_target_backup: whether the best of `sampled_actions` next actions is backed up.
        backup_entropy: whether the entropy term is subtracted from the target.
        clip_difference_min: lower bound of the penalty's difference, None for none.
        calibrated: whether Q of the policy's actions, in the penalty, is at least the discounted return that the data
            continued with. It needs `reward_bias` 0.
        clone_steps: number of first steps that train the policy by cloning instead of by the critics.
        orthogonal: whether the critics' initial weights are orthogonal.
        reward_scale: raw rewards r become reward_scale · r + reward_bias.
        reward_bias: see `reward_scale`.
        value_loss: how critics learn: `mse` (of discrete actions, by quantile regression), or `hl_gauss`, by
            classification (see `parts.histogram`).
        value_bins: bins of `hl_gauss`.
        value_smoothing: standard deviation of its targets, in widths of a bin.
        value_min: least value of its bins; None takes the least discounted return of the data (`Windows.return_range`).
        value_max: largest value of its bins; None takes the largest discounted return of the data.
        quantiles: quantiles per discrete action.
        target_interval: steps after which the target of a discrete critic is renewed.
        double: whether the next discrete action is chosen by the critic itself instead of its target.
        clip_rewards: whether rewards of a task with discrete actions are clipped to [−1, 1].
    """

    width: int = 256
    policy_layers: int = 3
    critic_layers: int = 3
    policy_learning_rate: float = 3e-5
    discount: float = 0.99
    target_rate: float = 0.005
    penalty_weight: float = 10.0
    sampled_actions: int = 10
    temperature: float = 1.0
    importance_sampling: bool = True
    lagrange: bool = False
    target_gap: float = -1.0
    max_target_backup: bool = False
    backup_entropy: bool = False
    clip_difference_min: float | None = None
    calibrated: bool = False
    clone_steps: int = 0
    orthogonal: bool = True
    orthogonal_policy: bool = False
    reward_scale: float = 1.0
    reward_bias: float = 0.0
    value_loss: str = MSE
    value_bins: int = 51
    value_smoothing: float = 0.75
    value_min: float | None = None
    value_max: float | None = None
    quantiles: int = 200
    target_interval: int = 2000
    double: bool = False
    clip_rewards: bool = False

    def __post_init__(self) -> None:
        require_positive("model", self, "width", "policy_layers", "critic_layers", "sampled_actions")
        require_positive("model", self, "temperature", "policy_learning_rate")
        require_positive("model", self, "quantiles", "target_interval")
        require_not_negative("model", self, "clone_steps", "penalty_weight")
        require(0 <= self.discount < 1, "model.discount", "must lie in [0, 1)", self.discount)
        require(0 < self.target_rate <= 1, "model.target_rate", "must lie in (0, 1]", self.target_rate)
        biased = self.calibrated and self.reward_bias != 0
        require(not biased, "model.reward_bias", "must be 0 with model.calibrated", self.reward_bias)
        require_one_of("model.value_loss", self.value_loss, VALUE_LOSSES)
        require(self.value_bins >= 2, "model.value_bins", "must be at least 2", self.value_bins)
        require_positive("model", self, "value_smoothing")
        require_value_range(self.value_min, self.value_max)


@dataclass
class BehaviourCloningConfig:
    """An MLP with ReLU; frames pass convolutions first, whose output its first hidden layer takes.

    Attributes:
        layers: hidden layers.
        width: units of a hidden layer.
        dropout: dropout behind each hidden layer.
        tanh: whether the outputs go through tanh, which bounds actions to [−1, 1].
        states: `step`: each action is predicted from its own state; `window`: the last action of a window is predicted
            from all its states.
        top_fraction: share of the data to train on, best return first; 1 leaves that to the task.
        top_by: whether `top_fraction` counts `trajectories` or their `steps` (see `WindowOptions`).
        state_std_floor: added to the standard deviation by which states are divided.
        drop_timeouts: whether the last step of an episode that a time limit cut is left out.
    """

    layers: int = 2
    width: int = 256
    dropout: float = 0.0
    tanh: bool = True
    states: str = "step"
    top_fraction: float = 1.0
    top_by: str = "trajectories"
    state_std_floor: float = 1e-3
    drop_timeouts: bool = True

    def __post_init__(self) -> None:
        require_positive("model", self, "layers", "width", "state_std_floor")
        require(0 <= self.dropout < 1, "model.dropout", "must lie in [0, 1)", self.dropout)
        require_one_of("model.states", self.states, STATES)
        require(0 < self.top_fraction <= 1, "model.top_fraction", "must lie in (0, 1]", self.top_fraction)
        require_one_of("model.top_by", self.top_by, TOP_BY)


@dataclass
class QTransformerConfig:
    """Two small trunks, one over states and one over the dimensions of an action, and Q-learning on their values.

    Attributes:
        layers: blocks of the trunk over states.
        action_layers: blocks of the trunk over an action's dimensions.
        heads: attention heads per block.
        width: size of a token.
        activation: `relu`, `gelu` or `gelu_new` (GPT-2's).
        dropout: dropout of embeddings, attention weights and residuals.
        bins: bins per dimension of a continuous action, between its bounds.
        discount: γ.
        target_rate: τ of the moving average that the target is.
        penalty_weight: α, by which the squared values of unseen actions are weighed.
        monte_carlo: whether a target is at least the discounted return that the data continued with.
        n_step: steps whose rewards a target sums, within a window, before it takes the target's value.
        value_min: return that counts as 0; None takes the least discounted return of the data (`Windows.return_range`).
        value_max: return that counts as 1; None takes the largest discounted return of the data.
    """

    layers: int = 3
    action_layers: int = 2
    heads: int = 4
    width: int = 128
    activation: str = "gelu"
    dropout: float = 0.1
    bins: int = 256
    discount: float = 0.98
    target_rate: float = 0.01
    penalty_weight: float = 1.0
    monte_carlo: bool = True
    n_step: int = 1
    value_min: float | None = None
    value_max: float | None = None

    def __post_init__(self) -> None:
        _require_trunk(self)
        require_positive("model", self, "action_layers", "n_step")
        within = self.action_layers <= MOST_LAYERS
        require(within, "model.action_layers", f"must be at most {MOST_LAYERS}", self.action_layers)
        require_one_of("model.activation", self.activation, ACTIVATIONS)
        require(self.bins >= 2, "model.bins", "must be at least 2", self.bins)
        require(0 <= self.discount < 1, "model.discount", "must lie in [0, 1)", self.discount)
        require(0 < self.target_rate <= 1, "model.target_rate", "must lie in (0, 1]", self.target_rate)
        require_not_negative("model", self, "penalty_weight")
        require_value_range(self.value_min, self.value_max)

    def trunk(self, layers: int) -> TrunkConfig:
        """Return a trunk of so many blocks."""
        return _trunk(self, layers)


@dataclass
class TrajectoryTransformerConfig:
    """Size of the trunk, the bins, the weights of the loss, and how plans are searched for.

    Attributes:
        layers: blocks of the trunk.
        heads: attention heads per block.
        width: size of a token.
        dropout: dropout of embeddings, attention weights and residuals.
        bins: N, bins per dimension.
        discretizer: `quantile` (equally full bins) or `uniform` (equally wide ones).
        discount: γ, of the values in the data and of plans.
        termination_penalty: what a step that terminates its episode pays instead of its reward; None for its own.
        action_weight: weight of the action tokens in the loss; that of observation tokens is 1.
        reward_weight: weight of the reward tokens.
        value_weight: weight of the value tokens.
        horizon: steps of a plan.
        beam_width: plans that are kept after each step of the search.
        n_expand: actions that each of them is continued with.
        plan_context: most steps that the model looks back on in a search, the current one included; at most K.
        k_obs: observations are drawn from the most likely `k_obs` bins of each dimension; 1 takes the most likely one,
            None all.
        k_act: the same of actions.
        cdf_obs: the least likely bins of observations are left out, those that have less than this share of the
            probability together; None leaves out none.
        cdf_act: the same of actions.
    """

    layers: int = 4
    heads: int = 4
    width: int = 128
    dropout: float = 0.1
    bins: int = 100
    discretizer: str = "quantile"
    discount: float = 0.99
    termination_penalty: float | None = -100.0
    action_weight: float = 5.0
    reward_weight: float = 1.0
    value_weight: float = 1.0
    horizon: int = 15
    beam_width: int = 128
    n_expand: int = 2
    plan_context: int = 5
    k_obs: int | None = 1
    k_act: int | None = None
    cdf_obs: float | None = None
    cdf_act: float | None = 0.6

    def __post_init__(self) -> None:
        _require_trunk(self)
        require_positive("model", self, "horizon", "beam_width", "n_expand", "plan_context")
        require_not_negative("model", self, "action_weight", "reward_weight", "value_weight")
        require(self.bins >= 2, "model.bins", "must be at least 2", self.bins)
        require_one_of("model.discretizer", self.discretizer, DISCRETIZERS)
        require(0 < self.discount < 1, "model.discount", "must lie in (0, 1)", self.discount)
        for name in ("k_obs", "k_act"):
            most = getattr(self, name)
            require(most is None or most >= 1, f"model.{name}", "must be at least 1, or null", most)
        for name in ("cdf_obs", "cdf_act"):
            share = getattr(self, name)
            require(share is None or 0 <= share < 1, f"model.{name}", "must lie in [0, 1), or be null", share)
        if self.plan_context == 1 and self.horizon > 1:
            raise ConfigError("model.plan_context=1 needs model.horizon=1: a longer plan looks back on its last step.")


def _trunk(options: SequenceConfig | QTransformerConfig, layers: int) -> TrunkConfig:
    from dtbench.models.parts.trunk import TrunkConfig

    return TrunkConfig(
        width=options.width,
        layers=layers,
        heads=options.heads,
        activation=options.activation,
        embedding_dropout=options.dropout,
        attention_dropout=options.dropout,
        residual_dropout=options.dropout,
    )


def _require_trunk(options: SequenceConfig | QTransformerConfig | TrajectoryTransformerConfig) -> None:
    """Refuse impossible sizes and dropouts of a trunk."""
    require_positive("model", options, "layers", "heads", "width")
    require(options.layers <= MOST_LAYERS, "model.layers", f"must be at most {MOST_LAYERS}", options.layers)
    whole = options.width % options.heads == 0
    require(whole, "model.width", f"must be a multiple of model.heads={options.heads}", options.width)
    require(0 <= options.dropout < 1, "model.dropout", "must lie in [0, 1)", options.dropout)
