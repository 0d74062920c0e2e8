"""Run the papers' own modules beside ours on the same weights and windows, and print the largest differences.

The reference code is not part of dtbench: check the repositories out, and install a `transformers` of their time into a
folder of its own that precedes the current one on the path (README.md in this folder has the lines).

    PYTHONPATH=OLD_PACKAGES python benchmarks/fidelity/forward.py dt PATH_TO_CHECKOUT

One model per call: the checkouts all call their package `decision_transformer`. Everything is float32 on the CPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import file_utils

from dtbench.models.backbone.common import load_for
from dtbench.models.base import SequencePolicy
from dtbench.models.gpt2_dt import ALIGNMENTS, Gpt2Dt, alignment_schedule
from dtbench.models.gpt2_dtma import Gpt2Dtma
from dtbench.models.parts.language_loss import LanguageLoss
from dtbench.registry import model_entry
from dtbench.testing import DIMS, model_config, windows

WIDTH, LAYERS, HEADS, CONTEXT = 48, 3, 4, 5
STATE, ACTION, LONGEST = DIMS["observation_dim"], DIMS["action_dim"], DIMS["max_timesteps"]


def main() -> None:
    """Compare one model and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=COMPARISONS)
    parser.add_argument("checkout", type=Path, help="the reference repository")
    arguments = parser.parse_args()
    checkout = arguments.checkout.resolve()
    # A keyword of this decorator was renamed between the versions that the repositories were written for.
    file_utils.add_code_sample_docstrings = lambda *_, **__: lambda function: function
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where the code that loads "gpt2" finds a small one
        torch.manual_seed(0)
        _save_gpt2("gpt2")
        for what, difference in COMPARISONS[arguments.model](checkout).items():
            print(f"{arguments.model}: {what}: largest difference {difference:.1e}")


def dt(checkout: Path) -> dict[str, float]:
    """KZL `gym/`: DecisionTransformer with one head, as published, and with several: ours differ in their attention."""
    sys.path.insert(0, str(checkout / "gym"))
    from decision_transformer.models.decision_transformer import DecisionTransformer

    found = {}
    for heads in (1, HEADS):
        reference = DecisionTransformer(
            STATE, ACTION, WIDTH, max_length=CONTEXT, max_ep_len=LONGEST, n_layer=LAYERS, n_head=heads,
            n_inner=4 * WIDTH, activation_function="relu", n_positions=1024, n_ctx=1024, resid_pdrop=0.1,
            attn_pdrop=0.1,
        ).eval()  # fmt: skip
        _add_noise(reference)
        ours = _ours("dt", layers=LAYERS, heads=heads, width=WIDTH)
        _copy_embedding(reference, ours)
        _copy_trunk(reference.transformer, ours.trunk)
        _copy(reference.predict_action[0], ours.head.layers[0])
        compared = _actions(ours, lambda w: reference(*_of_kzl(w), attention_mask=w["padding_mask"].long())[1])  # noqa: B023
        found |= {f"{what}, heads {heads}": difference for what, difference in compared.items()}
    return found


def gpt2_dt(checkout: Path) -> dict[str, float]:
    """WIKI `code/`: DecisionTransformer with run.sh's flags, and its alignment loss."""
    sys.path.insert(0, str(checkout / "code"))
    sys.modules["kmeans_pytorch"] = types.SimpleNamespace(kmeans=None)  # clusters; the centres compared are ours
    sys.modules.setdefault("pynvml", types.SimpleNamespace())  # of a GPU, imported by torch_semiring_einsum
    from decision_transformer.models.decision_transformer import DecisionTransformer

    flags = {"pretrained_lm": "gpt2", "dropout": 0.2, "gpt_kmeans": None, "extend_positions": True, "frozen": False}
    reference = DecisionTransformer(
        {**flags, "share_input_output_proj": True}, STATE, ACTION, WIDTH, max_length=CONTEXT, max_ep_len=LONGEST
    )
    ours = _ours("gpt2_dt", backbone="gpt2", alignment_centres=10)
    assert isinstance(ours, Gpt2Dt)
    time = ours.embedding.embed_timestep.weight.clone()
    _copy_embedding(reference, ours)
    found = {"time table of extended positions": _distance(time, ours.embedding.embed_timestep.weight)}
    found |= _actions(ours, lambda w: reference.eval()(*_of_kzl(w), attention_mask=w["padding_mask"].long())[1])

    from decision_transformer.training.seq_trainer import kmeans_anneal, kmeans_cosine_max_loss

    window = _unpadded(windows(ours))
    assert ours.centres is not None
    embedded = ours.embedding.norm(ours.embedding.content(window)).flatten(1, 2)
    unit = nn.functional.normalize(embedded, dim=-1)
    expected = kmeans_cosine_max_loss(ours.centres, unit)
    found["alignment loss"] = _distance(expected, -ALIGNMENTS["reference"](embedded, ours.centres).mean())
    steps = (1, 100, 2500, 5000, 9000)
    found["its schedule"] = max(abs(kmeans_anneal(step) - alignment_schedule(step, 5000)) for step in steps)
    return found


def lamo(checkout: Path) -> dict[str, float]:
    """LAMO `experiment-d4rl/`: DecisionTransformer with LoRA and MLP embeddings, and its language loss."""
    sys.path.insert(0, str(checkout / "experiment-d4rl"))
    from decision_transformer.models.decision_transformer import DecisionTransformer

    flags = {"pretrained_lm": "gpt2", "lora": True, "dropout": 0.1, "extend_positions": False}
    reference = DecisionTransformer(
        {**flags, "mlp_embedding": True, "share_input_output_proj": False}, STATE, ACTION, WIDTH,
        max_length=CONTEXT, max_ep_len=LONGEST, action_tanh=False,
    )  # fmt: skip
    ours = _ours("lamo", backbone="gpt2", embedding="mlp", head="mlp", tanh=False)
    _copy_embedding(reference, ours)
    _copy_mlp_head(reference, ours)
    for theirs, block in zip(reference.transformer.h, ours.trunk.blocks, strict=True):
        _copy_lora(theirs.attn.c_attn, block.mixer)
    reference.eval()
    found = _actions(ours, lambda w: reference(*_of_kzl(w), attention_mask=w["padding_mask"].long())[1])
    ids = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(0))
    tables = load_for(model_config("lamo", backbone="gpt2").model).language
    language = LanguageLoss(tables, lambda seed, step, rank: ids, (2, 16), learns=False, positions=False)
    expected = reference.transformer_model(input_ids=ids, labels=ids).loss
    found["language loss"] = _distance(expected, language(ours.trunk, 0, 0, 0))
    return found


def gpt2_dtma(checkout: Path) -> dict[str, float]:
    """MH `experiment-d4rl/`: DecisionTransformer on the GPT-2 path, with its gate and without."""
    sys.path.insert(0, str(checkout / "experiment-d4rl"))
    from decision_transformer.models.decision_transformer import DecisionTransformer

    found = {}
    for gate in (True, False):
        # The published head never sets `use_control` on this path; what its attention does once it is set is compared.
        transformers.GPT2Config.use_control = gate
        flags = {"pretrained_lm": "gpt2", "lora": False, "dropout": 0.1, "extend_positions": False}
        reference = DecisionTransformer(
            {**flags, "mlp_embedding": True, "share_input_output_proj": False, "use_control": gate}, STATE, ACTION,
            WIDTH, max_length=CONTEXT, max_ep_len=LONGEST, action_tanh=False,
        )  # fmt: skip
        ours = _ours("gpt2_dtma", backbone="gpt2", gate=gate, embedding="mlp", head="mlp", tanh=False)
        assert isinstance(ours, Gpt2Dtma)
        _copy_embedding(reference, ours)
        _copy_mlp_head(reference, ours)
        if ours.gate is not None:
            theirs = reference.transformer_model.transformer.h[0].attn.control_net
            nn.init.normal_(theirs.weight)
            _copy(theirs, ours.gate, transposed=True)
        reference.eval()
        compared = _actions(ours, lambda w: reference(*_of_kzl(w), attention_mask=w["padding_mask"].long())[1])  # noqa: B023
        found |= {f"{what}, {'gate' if gate else 'no gate'}": difference for what, difference in compared.items()}
    return found


def gpt2_dtma_maze(checkout: Path) -> dict[str, float]:
    """MH `experiment-pointmaze/`: time before the LayerNorm, linear embeddings, no gate."""
    transformers.GPT2Config.use_control = False
    sys.path.insert(0, str(checkout / "experiment-pointmaze" / "offlinerlkit" / "policy"))
    from decision_transformer.decision_transformer import DecisionTransformer

    reference = DecisionTransformer(STATE, ACTION, WIDTH, max_length=CONTEXT, max_ep_len=LONGEST).eval()
    ours = _ours("gpt2_dtma", backbone="gpt2", gate=False, embedding="linear", head="linear", tanh=True,
                 time_before_norm=True)  # fmt: skip
    _copy_embedding(reference, ours)
    _copy(reference.predict_action[0], ours.head.layers[0])

    def theirs(window: Mapping[str, Tensor]) -> Tensor:
        states, actions, _, returns, timesteps = _of_kzl(window)
        return reference(states, actions, returns, timesteps, attention_mask=window["padding_mask"].long())[1]

    return _actions(ours, theirs)


def dc(checkout: Path) -> dict[str, float]:
    """DC `gym/`: DecisionConvFormer on windows without padding, which its code does not mask."""
    sys.path.insert(0, str(checkout / "gym"))
    from models.decision_convformer import DecisionConvFormer

    to = Tensor.to
    Tensor.to = lambda self, *args, **kwargs: self if args == ("cuda",) else to(self, *args, **kwargs)
    reference = DecisionConvFormer(
        STATE, ACTION, WIDTH, max_length=CONTEXT, max_ep_len=LONGEST, n_layer=LAYERS, window_size=6, drop_p=0.1,
        env_name="hopper", conv_proj=False,
    ).eval()  # fmt: skip
    _add_noise(reference)
    ours = _ours("dc", layers=LAYERS, width=WIDTH, heads=1)
    _copy_embedding(reference, ours)
    _copy(reference.predict_action[0], ours.head.layers[0])
    for theirs, block in zip(reference.transformer.h, ours.trunk.blocks, strict=True):
        for name, filtered in zip(("rtg_conv1d", "obs_conv1d", "act_conv1d"), block.mixer.filters, strict=True):
            _copy(getattr(theirs.conv, name), filtered)
        for source, target in ((theirs.ln_1, block.mixer_norm), (theirs.ln_2, block.mlp_norm)):
            _copy(source, target)
        _copy(theirs.mlp[0], block.mlp_in)
        _copy(theirs.mlp[2], block.mlp_out)
    _copy(reference.transformer.ln_f, ours.trunk.final_norm)

    def run(window: Mapping[str, Tensor]) -> Tensor:
        states, actions, _, returns, timesteps = _of_kzl(window)
        return reference(states, actions, returns, timesteps)

    return {what: value for what, value in _actions(ours, run).items() if "padded" not in what}


def dmamba(checkout: Path) -> dict[str, float]:
    """Decision Mamba `gym/` with the block in plain PyTorch that it brings, on windows without padding, as `dc`."""
    sys.path.insert(0, str(checkout / "gym"))
    kernels = types.ModuleType("mamba_ssm")
    vars(kernels)["Mamba"] = None
    sys.modules["mamba_ssm"] = kernels
    from models import layers

    layers.Mamba = lambda width: layers.MambaBlock(layers.ModelArgs(d_model=width))
    from models.decision_mamba import DecisionMamba

    reference = DecisionMamba(
        STATE, ACTION, WIDTH, max_length=CONTEXT, max_ep_len=LONGEST, model_type="dmamba", n_layer=LAYERS,
        n_inner=4 * WIDTH, activation_function="gelu", resid_pdrop=0.1, drop_p=0.1, window_size=6,
    ).eval()  # fmt: skip
    _add_noise(reference)
    ours = _ours("dmamba", layers=LAYERS, width=WIDTH, states=16)
    _copy_embedding(reference, ours)
    _copy(reference.predict_action[0], ours.head.layers[0])
    for theirs, block in zip(reference.transformer.h, ours.trunk.blocks, strict=True):
        for source, target in ((theirs.norm_mamba, block.mixer_norm), (theirs.ln_2, block.mlp_norm)):
            _copy(source, target)
        _copy(theirs.mlp_channels[0], block.mlp_in)
        _copy(theirs.mlp_channels[2], block.mlp_out)
        for name, target in (
            ("in_proj", block.mixer.input),
            ("conv1d", block.mixer.convolution),
            ("x_proj", block.mixer.selection),
            ("out_proj", block.mixer.output),
        ):
            _copy(getattr(theirs.mamba, name), target)
        with torch.no_grad():
            block.mixer.delta_weight.copy_(theirs.mamba.dt_proj.weight)
            block.mixer.delta_bias.copy_(theirs.mamba.dt_proj.bias)
            block.mixer.log_decay.copy_(theirs.mamba.A_log)
            block.mixer.skip.copy_(theirs.mamba.D)
    _copy(reference.transformer.ln_f, ours.trunk.final_norm)

    def run(window: Mapping[str, Tensor]) -> Tensor:
        states, actions, _, returns, timesteps = _of_kzl(window)
        return reference(states, actions, returns, timesteps)

    return {what: value for what, value in _actions(ours, run).items() if "padded" not in what}


COMPARISONS: dict[str, Callable[[Path], dict[str, float]]] = {
    function.__name__: function for function in (dt, gpt2_dt, lamo, gpt2_dtma, gpt2_dtma_maze, dc, dmamba)
}


def _save_gpt2(folder: str) -> None:
    """Write a small GPT-2 with random weights."""
    config = transformers.GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=16, vocab_size=50)
    model = transformers.GPT2LMHeadModel(config)
    _add_noise(model)
    model.save_pretrained(folder)


def _add_noise(module: nn.Module) -> None:
    """Move all weights: a new trunk has biases of 0, norms of 1 and almost uniform attention, which tests little."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.1 * torch.randn_like(weight))


def _ours(name: str, **options: Any) -> SequencePolicy:
    config = model_config(name, **options)
    config.training.context_length = CONTEXT
    module = model_entry(name).load()(config, DIMS)
    assert isinstance(module, SequencePolicy)
    return module.eval()


def _unpadded(window: dict[str, Tensor]) -> dict[str, Tensor]:
    return window | {"padding_mask": torch.ones_like(window["padding_mask"])}


def _of_kzl(window: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, None, Tensor, Tensor]:
    """A window as the repositories that descend from KZL take it."""
    returns = window["returns_to_go"][..., None]
    return window["observations"], window["actions"], None, returns, window["timesteps"]


def _actions(ours: SequencePolicy, theirs: Callable[[Mapping[str, Tensor]], Tensor]) -> dict[str, float]:
    """Compare the actions of real steps and the losses, on windows with padding and without."""
    found = {}
    padded = windows(ours)
    for what, window in {"full windows": _unpadded(padded), "padded windows": padded}.items():
        real = window["padding_mask"]
        with torch.no_grad():
            expected, actions = theirs(window), ours(window)
        found[f"actions, {what}"] = _distance(expected[real], actions[real])
        error = (expected[real] - window["actions"][real]).square().mean()
        found[f"loss, {what}"] = _distance(error, nn.functional.mse_loss(actions[real], window["actions"][real]))
    return found


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def _copy(theirs: nn.Module, ours: nn.Module, transposed: bool = False) -> None:
    """Copy weight and bias; `Conv1D` of transformers stores its weight transposed."""
    with torch.no_grad():
        ours.weight.copy_(theirs.weight.T if transposed else theirs.weight)
        if ours.bias is not None:
            ours.bias.copy_(theirs.bias)


def _copy_embedding(theirs: nn.Module, ours: SequencePolicy) -> None:
    for name in ("embed_return", "embed_state", "embed_action"):
        source, target = getattr(theirs, name), getattr(ours.embedding, name)
        if isinstance(source, nn.Linear):
            _copy(source, target)
        else:  # the residual block of LaMo
            linear = [layer for layer in source.modules() if isinstance(layer, nn.Linear)]
            for old, new in zip(linear, (target.first, target.second), strict=True):
                _copy(old, new)
    _copy(theirs.embed_ln, ours.embedding.norm)
    with torch.no_grad():
        ours.embedding.embed_timestep.weight.copy_(theirs.embed_timestep.weight[:LONGEST])


def _copy_mlp_head(theirs: nn.Module, ours: SequencePolicy) -> None:
    linear = [layer for layer in theirs.predict_action.modules() if isinstance(layer, nn.Linear)]
    for source, target in zip(linear, (ours.head.layers[0], ours.head.layers[-1]), strict=True):
        _copy(source, target)


def _copy_trunk(theirs: nn.Module, ours: nn.Module) -> None:
    for source, target in zip(theirs.h, ours.blocks, strict=True):
        _copy(source.ln_1, target.mixer_norm)
        _copy(source.ln_2, target.mlp_norm)
        maps = (target.mixer.query, target.mixer.key, target.mixer.value)
        for part, linear in enumerate(maps):
            columns = slice(part * WIDTH, (part + 1) * WIDTH)
            with torch.no_grad():
                linear.weight.copy_(source.attn.c_attn.weight[:, columns].T)
                linear.bias.copy_(source.attn.c_attn.bias[columns])
        _copy(source.attn.c_proj, target.mixer.output, transposed=True)
        _copy(source.mlp.c_fc, target.mlp_in, transposed=True)
        _copy(source.mlp.c_proj, target.mlp_out, transposed=True)
    _copy(theirs.ln_f, ours.final_norm)


def _copy_lora(theirs: nn.Module, mixer: nn.Module) -> None:
    """From `loralib.MergedLinear` on the fused map to three of peft's."""
    nn.init.normal_(theirs.lora_B, std=0.1)
    rank = len(theirs.lora_A) // 3
    for part, linear in enumerate((mixer.query, mixer.key, mixer.value)):
        with torch.no_grad():
            linear.lora_A["default"].weight.copy_(theirs.lora_A[part * rank : (part + 1) * rank])
            linear.lora_B["default"].weight.copy_(theirs.lora_B[part * WIDTH : (part + 1) * WIDTH])


if __name__ == "__main__":
    main()
