"""Where the heads of a trained policy look while it acts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dtbench.errors import ConfigError
from dtbench.evaluation.rollout import EvaluationProtocol, evaluate
from dtbench.models.base import OfflineModule, SequencePolicy, Window
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.tokens import TOKENS_PER_STEP
from dtbench.models.parts.trunk import Trunk

TOKEN_KINDS = ("return", "state", "action")
_PER_BATCH = 256


class WindowRecorder:
    """A policy that acts like another one and keeps every `every`-th batch of windows, about `limit` at most."""

    def __init__(self, module: OfflineModule, every: int = 10, limit: int = 2000) -> None:
        self.module, self.context_length, self.draws = module, module.context_length, module.draws
        self.every, self.limit = every, limit
        self.windows: list[Window] = []
        self._calls = self._kept = 0

    def act(self, window: Window) -> Tensor:
        """Return the actions of the recorded policy."""
        if self._calls % self.every == 0 and self._kept < self.limit:
            self.windows.append({name: value.clone() for name, value in window.items()})
            self._kept += len(window["padding_mask"])
        self._calls += 1
        return self.module.act(window)


def record_windows(
    module: OfflineModule, protocol: EvaluationProtocol, target: float, episodes: int, seed: int = 0
) -> list[Window]:
    """Let the policy act in its environment and return some of the windows it acted on."""
    recorder = WindowRecorder(module)
    evaluate(recorder, protocol, target, episodes, seed)
    return recorder.windows


@torch.no_grad()
def attention_figures(module: OfflineModule, windows: list[Window]) -> list[dict[str, Any]]:
    """Measure the attention of the acting token (the last state) over the real tokens of the windows, head by head.

    Returns:
        Per layer `heads`, each with `last_token_mass` (on the last input token: the acting one itself), `entropy` in
        nats, `by_kind` (mass on return, state and action tokens) and `by_distance` (mass by tokens back, 0 = itself),
        all means over the windows.

    Raises:
        ConfigError: the model has no attention, or does not act in one pass.
    """
    trunk = getattr(module, "trunk", None)
    if not isinstance(trunk, Trunk) or not all(isinstance(block.mixer, Attention) for block in trunk.blocks):
        raise ConfigError(f"{type(module).__name__} has no attention.")
    if type(module).act is not SequencePolicy.act:
        raise ConfigError(
            f"{type(module).__name__} does not act in one pass over R̂ s a, which is what is measured here."
        )
    sums: dict[int, dict[str, Tensor]] = {}
    count = sum(len(window["padding_mask"]) for window in windows)
    merged = {name: torch.cat([window[name] for window in windows]) for name in windows[0]}
    for rows in torch.arange(count).split(_PER_BATCH):
        with _watched(trunk) as seen:
            module.act({name: value[rows] for name, value in merged.items()})
        for layer, weights in enumerate(seen):
            for name, value in _measure(weights).items():
                sums.setdefault(layer, {}).setdefault(name, torch.zeros_like(value[0])).add_(value.sum(dim=0))
    return [_describe(layer, figures, count) for layer, figures in sums.items()]


@contextmanager
def _watched(trunk: Trunk) -> Iterator[list[Tensor]]:
    """Yield a list that gets, layer by layer, the attention (B, heads, T) of the acting token."""
    seen: list[Tensor] = []

    def look(mixer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x, mask, _ = inputs
        assert isinstance(mixer, Attention)
        acting = slice(-2, -1)  # the last state token; the action slot after it is still empty
        query = mixer.query(x[:, acting]).unflatten(-1, (mixer.heads, -1)).transpose(1, 2)
        key = mixer.key(x).unflatten(-1, (mixer.heads, -1)).transpose(1, 2)
        scores = query @ key.mT / query.shape[-1] ** 0.5 + mask.bias[:, :, acting]
        seen.append(scores.softmax(dim=-1)[:, :, 0])

    mixers = [module for module in trunk.modules() if isinstance(module, Attention)]  # in the order of the layers
    hooks = [mixer.register_forward_pre_hook(look) for mixer in mixers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _measure(weights: Tensor) -> dict[str, Tensor]:
    """From the attention (B, heads, T) of the acting token to figures (B, heads, …)."""
    length = weights.shape[-1]
    kinds = torch.arange(length) % TOKENS_PER_STEP
    return {
        "by_distance": weights[..., : length - 1].flip(-1),
        "by_kind": torch.stack([weights[..., kinds == kind].sum(-1) for kind in range(TOKENS_PER_STEP)], dim=-1),
        "entropy": torch.special.entr(weights).sum(-1),
    }


def _describe(layer: int, sums: dict[str, Tensor], count: int) -> dict[str, Any]:
    means = {name: value / count for name, value in sums.items()}
    heads = [
        {
            "head": head,
            "last_token_mass": round(float(means["by_distance"][head, 0]), 4),
            "entropy": round(float(means["entropy"][head]), 4),
            "by_kind": {
                kind: round(float(mass), 4) for kind, mass in zip(TOKEN_KINDS, means["by_kind"][head], strict=True)
            },
            "by_distance": [round(float(mass), 4) for mass in means["by_distance"][head]],
        }
        for head in range(len(means["entropy"]))
    ]
    return {"layer": layer, "heads": heads}
