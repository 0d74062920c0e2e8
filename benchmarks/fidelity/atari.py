"""Run the papers' own Atari networks beside ours on the same weights and windows, and print the largest differences.

The reference code is not part of dtbench: check the repository out, and name it.

    python benchmarks/fidelity/atari.py dt PATH_TO_CHECKOUT

One model per call: the checkouts use the same names for their modules. Everything is float32 on the CPU. LaMo's code
runs with the current `transformers` and `peft`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from dtbench.models.base import SequencePolicy
from dtbench.registry import model_entry
from dtbench.spaces import Discrete, Frames, Spaces
from dtbench.testing import model_config, windows

WIDTH, LAYERS, HEADS, CONTEXT, ACTIONS, LONGEST = 64, 3, 8, 6, 6, 40
SPACES = Spaces(Frames(4, 84, 84), Discrete(ACTIONS), LONGEST)
ATARI = {"tokens": "atari", "width": WIDTH, "layers": LAYERS, "activation": "gelu", "tanh": False}


def main() -> None:
    """Compare one model and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=COMPARISONS)
    parser.add_argument("checkout", type=Path, help="the reference repository")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        for what, difference in COMPARISONS[arguments.model](arguments.checkout.resolve()).items():
            print(f"{arguments.model}: {what}: largest difference {difference:.1e}")


def dt(checkout: Path) -> dict[str, float]:
    """KZL `atari/mingpt/model_atari.py`: logits, loss, acting on the first steps of an episode, what decays."""
    gpt, config = _mingpt(checkout)
    reference = gpt(config).eval()
    ours = _ours("dt", **ATARI, heads=HEADS)
    return _compare_mingpt(reference, ours)


def dc(checkout: Path) -> dict[str, float]:
    """DC `atari/mingpt/model_atari.py`: convolutions, with a projection, and the hybrid."""
    found = {}
    for mixer, projection in (("conv", False), ("conv", True), ("conv-attn", False)):
        gpt, config = _mingpt(checkout, token_mixer=mixer, window_size=6, conv_proj=projection)
        reference = gpt(config).eval()
        ours = _ours("dc", **ATARI, heads=HEADS, hybrid=mixer == "conv-attn", projection=projection)
        what = mixer + (" with projection" if projection else "")
        with mock.patch.object(torch.Tensor, "to", _without_cuda):
            compared = _compare_mingpt(reference, ours)
        found |= {f"{name}, {what}": difference for name, difference in compared.items()}
    return found


def lamo(checkout: Path) -> dict[str, float]:
    """LAMO `experiment-atari/model.py`: logits and loss, with LoRA on a small GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sys.path.insert(0, str(checkout / "experiment-atari"))
    from model import DecisionTransformer

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where the code that loads "gpt2" finds a small one
        small = GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=64, vocab_size=100)
        GPT2LMHeadModel(small).save_pretrained("gpt2")
        reference = DecisionTransformer(
            (4, 84, 84), ACTIONS, CONTEXT, 0.1, None, 1, LONGEST, "cpu", [32, 64, 64], [8, 4, 3], [4, 2, 1], [0, 0, 0],
            "gpt2", True, False, _flags(use_adapt=True, adapt_embed=True), _flags(use_lora=True, lora_attn_dim=4),
            False, False,
        ).eval()  # fmt: skip
        _add_noise(reference)
        options = {"embedding": "mlp", "head": "linear", "tanh": True, "lora_rank": 4, "lora_alpha": 4}
        ours = _ours(
            "lamo", tokens="atari", backbone="gpt2", lora_dropout=0.0, lora_shared=True, lora_biases=False, **options
        )
    _copy_lamo(reference, ours)

    def theirs(window: dict[str, Tensor], count: int) -> Tensor:
        """Right-padded there: the real steps first."""
        part = slice(CONTEXT - count, None)
        states = window["observations"][:, part].float()
        return reference(states, *(window[name][:, part] for name in ("actions",)), _returns(window, part),
                         window["timesteps"][:, part])  # fmt: skip

    window = _unpadded(windows(ours))
    logits, expected = ours(window), theirs(window, CONTEXT)
    found = {"logits": _distance(logits, expected), "loss": _loss_distance(ours, window, expected)}
    for count in (1, 3):
        short = _padded(window, count)
        found[f"acting after {count - 1} steps"] = _distance(ours.act(short), theirs(short, count)[:, -1])
    return found


def _flags(**given: bool | int) -> Any:
    names = ("adapt_wte", "adapt_ln", "adapt_attn", "adapt_ff", "only_adapt_last_two_blocks", "adapt_last_two_blocks")
    return types.SimpleNamespace(**{**dict.fromkeys(names, False), **given})


def _returns(window: dict[str, Tensor], part: slice) -> Tensor:
    return window["returns_to_go"][:, part, None]


def _mingpt(checkout: Path, **options: Any) -> tuple[Any, Any]:
    sys.path.insert(0, str(checkout / "atari"))
    from mingpt.model_atari import GPT, GPTConfig

    config = GPTConfig(
        ACTIONS, 3 * CONTEXT, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, model_type="reward_conditioned",
        max_timestep=LONGEST, **options,
    )  # fmt: skip
    return GPT, config


def _compare_mingpt(reference: Any, ours: SequencePolicy) -> dict[str, float]:
    _add_noise(reference)
    _copy_mingpt(reference, ours)
    window = _unpadded(windows(ours))

    def theirs(window: dict[str, Tensor], count: int, time: Tensor, targets: Tensor | None = None) -> Any:
        part = slice(CONTEXT - count, None)
        actions = window["actions"][:, part, None]
        if targets is None:  # when it acts, the last action is missing
            actions = actions[:, :-1] if count > 1 else None
        states = window["observations"][:, part].float() / 255
        return reference(states, actions, targets, _returns(window, part), time[:, None, None])

    targets = window["actions"][..., None]
    expected, loss = theirs(window, CONTEXT, window["timesteps"][:, 0], targets)
    found = {"logits": _distance(ours(window), expected), "loss": _distance(ours.loss(window)[0], loss)}
    for count in (1, 3, CONTEXT):
        short = _padded(window, count)
        logits, _ = theirs(short, count, short["timesteps"][:, -1])
        found[f"acting after {count - 1} steps"] = _distance(ours.act(short), logits[:, -1])
    decayed = reference.configure_optimizers(
        types.SimpleNamespace(weight_decay=0.1, learning_rate=1e-3, betas=(0.9, 0.95))
    )
    ours.optimizer_config.decayed = "maps"
    counts = [[sum(p.numel() for p in group["params"]) for group in groups]
              for groups in (decayed.param_groups, ours.parameter_groups())]  # fmt: skip
    # Its table for words is never used; it counts among what does not decay.
    counts[0][1] -= reference.tok_emb.weight.numel()
    found["numbers of weights with and without decay"] = max(abs(a - b) for a, b in zip(*counts, strict=True))
    return found


def _copy_mingpt(theirs: Any, ours: SequencePolicy) -> None:
    embedding: Any = ours.embedding
    for index, layer in enumerate((0, 2, 4)):
        _copy(theirs.state_encoder[layer], embedding.embed_state[0].convolutions[2 * index])
    _copy(theirs.state_encoder[7], embedding.embed_state[0].output)
    _copy(theirs.ret_emb[0], embedding.embed_return[0])
    embedding.embed_action[0].weight.copy_(theirs.action_embeddings[0].weight)
    embedding.positions.copy_(theirs.pos_emb[0])
    embedding.times.copy_(theirs.global_pos_emb[0])
    for block, mine in zip(theirs.blocks, ours.trunk.blocks, strict=True):
        _copy(block.ln1, mine.mixer_norm)
        _copy(block.ln2, mine.mlp_norm)
        _copy(block.mlp[0], mine.mlp_in)
        _copy(block.mlp[2], mine.mlp_out)
        if hasattr(block, "attn"):
            for name, part in (("query", "query"), ("key", "key"), ("value", "value"), ("proj", "output")):
                _copy(getattr(block.attn, name), getattr(mine.mixer, part))
        else:
            for name, part in zip(("rtg", "obs", "act"), mine.mixer.filters, strict=True):
                _copy(getattr(block.conv, f"{name}_conv1d"), part)
            if block.conv.conv_proj:
                _copy(block.conv.fc, mine.mixer.output)
    _copy(theirs.ln_f, ours.trunk.final_norm)
    ours.head.layers[0].weight.copy_(theirs.head.weight)


def _copy_lamo(theirs: Any, ours: SequencePolicy) -> None:
    embedding: Any = ours.embedding
    cnn, residual = theirs.embed_state
    encoder, block = embedding.embed_state
    for index, layer in enumerate((0, 2, 4)):
        _copy(cnn[layer], encoder.convolutions[2 * index])
    _copy(cnn[7], encoder.output)
    for source, target in ((residual, block), (theirs.embed_rtg, embedding.embed_return)):
        _copy(source.fc1, target.first)
        _copy(source.fc2, target.second)
    embedding.embed_action.table.weight.copy_(theirs.embed_action.fc1.weight)
    _copy(theirs.embed_action.fc2, embedding.embed_action.second)
    embedding.embed_timestep.weight.copy_(theirs.embed_timestep.weight)
    _copy(theirs.embed_ln, embedding.norm)
    _copy(theirs.predict_action[0], ours.head.layers[0])
    gpt2 = theirs.transformer.base_model.model.transformer
    embedding.positions.copy_(gpt2.wpe.weight[: len(embedding.positions)])
    for block, mine in zip(gpt2.h, ours.trunk.blocks, strict=True):
        _copy(block.ln_1, mine.mixer_norm)
        _copy(block.ln_2, mine.mlp_norm)
        _copy(block.mlp.c_fc, mine.mlp_in, transposed=True)
        _copy(block.mlp.c_proj, mine.mlp_out, transposed=True)
        _copy(block.attn.c_proj, mine.mixer.output, transposed=True)
        fused, parts = block.attn.c_attn, (mine.mixer.query, mine.mixer.key, mine.mixer.value)
        second = fused.lora_B["default"].weight.chunk(3)
        for part, weight, bias, update in zip(
            parts, fused.base_layer.weight.chunk(3, dim=1), fused.base_layer.bias.chunk(3), second, strict=True
        ):
            part.base_layer.weight.copy_(weight.T)
            part.base_layer.bias.copy_(bias)
            part.lora_B["default"].weight.copy_(update)
        parts[0].lora_A["default"].weight.copy_(fused.lora_A["default"].weight)
    _copy(gpt2.ln_f, ours.trunk.final_norm)


def _ours(name: str, **options: Any) -> SequencePolicy:
    config = model_config(name, **options)
    config.training.context_length = CONTEXT
    model = model_entry(name).load()
    model.prepare(config.model)
    module = model(config, SPACES)
    assert isinstance(module, SequencePolicy)
    return module.eval()


def _add_noise(module: nn.Module) -> None:
    """Move all weights: positions start at 0, biases at 0 and norms at 1, which tests little."""
    for weight in module.parameters():
        weight.add_(0.1 * torch.randn_like(weight))


def _unpadded(window: dict[str, Tensor]) -> dict[str, Tensor]:
    steps = torch.arange(CONTEXT)
    first = torch.arange(len(window["timesteps"]))[:, None]
    return window | {"padding_mask": torch.ones_like(window["padding_mask"]), "timesteps": first + steps}


def _padded(window: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return the window of an episode of which `count` steps are known."""
    mask = torch.zeros_like(window["padding_mask"])
    mask[:, CONTEXT - count :] = True
    content = {name: value * mask.reshape(*mask.shape, *[1] * (value.dim() - 2)) for name, value in window.items()}
    return {**content, "padding_mask": mask}


def _loss_distance(ours: SequencePolicy, window: dict[str, Tensor], logits: Tensor) -> float:
    expected = functional.cross_entropy(logits.flatten(0, 1), window["actions"].flatten())
    return _distance(ours.loss(window)[0], expected)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def _copy(theirs: Any, ours: Any, transposed: bool = False) -> None:
    """Copy weight and bias; `Conv1D` of transformers stores its weight transposed."""
    ours.weight.copy_(theirs.weight.T if transposed else theirs.weight)
    ours.bias.copy_(theirs.bias)


_to = torch.Tensor.to


def _without_cuda(tensor: Tensor, *where: Any, **options: Any) -> Tensor:
    """Leave a tensor on the CPU: the reference's convolution moves one to a GPU by name."""
    return tensor if where == ("cuda",) else _to(tensor, *where, **options)


COMPARISONS: dict[str, Callable[[Path], dict[str, float]]] = {"dt": dt, "dc": dc, "lamo": lamo}

if __name__ == "__main__":
    main()
