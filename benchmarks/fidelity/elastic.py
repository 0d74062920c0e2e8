"""Run Elastic DT's own module beside ours on the same weights and windows, and print the largest differences.

The reference code (kristery/Elastic-DT) is not part of dtbench: check it out, and give its folder.

    python benchmarks/fidelity/elastic.py PATH_TO_CHECKOUT

Windows are random, some of them of episodes shorter than K; everything is float32 on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dtbench.models.edt import ElasticDecisionTransformer
from dtbench.models.parts.returns import expert_probabilities
from dtbench.testing import DIMS, model_config, windows

WIDTH, LAYERS, HEADS, CONTEXT, BINS, BATCH = 48, 3, 4, 20, 60, 32
STATE, ACTION, LONGEST = DIMS["observation_dim"], DIMS["action_dim"], DIMS["max_timesteps"]
#: Of Hopper, divided by the scale of returns.
LOW, HIGH = -0.020272305, 3.2343
_DRAWS = 20_000


def main() -> None:
    """Compare and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="the reference repository")
    sys.path.insert(0, str(parser.parse_args().checkout.resolve()))
    sys.modules["timm"] = types.ModuleType("timm")  # imported there, but not used
    from decision_transformer import model as code
    from decision_transformer import utils

    torch.manual_seed(0)
    size = (STATE, ACTION, LAYERS, WIDTH, CONTEXT, HEADS, 0.1, "hopper-medium-v2")
    theirs = code.ElasticDecisionTransformer(*size, num_bin=BINS, rtg_scale=1000).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    ours = copied(theirs)
    window = windows(ours, BATCH)
    window["returns_to_go"] = (window["returns_to_go"] + 1.5).clamp(LOW, HIGH - 0.01) * window["padding_mask"]
    with torch.no_grad():
        found = passes(ours, theirs, window, utils)
        code.encode_return = lambda name, returns, **_: ours.embedding.bins(returns).float()  # which loses the last bin
        found |= acting(ours, theirs, window)
        found["share of draws"] = draws(utils)
    for what, difference in found.items():
        print(f"edt: {what}: largest difference {difference:.1e}")


def copied(theirs: Any) -> ElasticDecisionTransformer:
    """Return our model with the weights of theirs."""
    sizes = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "bins": BINS}
    config = model_config("edt", **sizes)
    config.training.context_length = CONTEXT
    ours = ElasticDecisionTransformer(config, DIMS).eval()
    embedding = ours.embedding
    embedding.bins.span(LOW, HIGH)
    pairs = [
        (theirs.embed_rtg, embedding.embed_return),
        (theirs.embed_state, embedding.embed_state),
        (theirs.embed_action, embedding.embed_action),
        (theirs.embed_ln, embedding.norm),
        (theirs.predict_action[0], ours.head.layers[0]),
        (theirs.predict_rtg, ours.bin_head),
        (theirs.predict_rtg2, ours.return_head),
        (theirs.predict_state, ours.state_head),
    ]
    for block, own in zip(theirs.transformer, ours.trunk.blocks, strict=True):
        names = {"q_net": "query", "k_net": "key", "v_net": "value", "proj_net": "output"}
        pairs += [(getattr(block.attention, name), getattr(own.mixer, other)) for name, other in names.items()]
        pairs += [(block.ln1, own.mixer_norm), (block.ln2, own.mlp_norm)]
        pairs += [(block.mlp[0], own.mlp_in), (block.mlp[2], own.mlp_out)]
    for source, target in pairs:
        target.load_state_dict(source.state_dict())
    embedding.embed_timestep.weight.data.copy_(theirs.embed_timestep.weight[:LONGEST])
    return ours


def ask(theirs: nn.Module, window: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Call their module on windows of any length without padding: next states, actions, bins, largest returns."""
    names = ("timesteps", "observations", "actions")
    return theirs(*(window[name] for name in names), window["returns_to_go"][..., None])[:4]


def real_steps(window: dict[str, Tensor], row: int, left_out: int = 0) -> dict[str, Tensor]:
    """Return a row's real steps but the first few, as a window of their own."""
    first = int((~window["padding_mask"][row]).sum()) + left_out
    return {name: value[row : row + 1, first:] for name, value in window.items() if name != "draws"}


def passes(
    ours: ElasticDecisionTransformer, theirs: nn.Module, window: dict[str, Tensor], utils: Any
) -> dict[str, float]:
    """Compare what is predicted of the real steps, and the losses of full windows as their training computes them."""
    found, predicted = (
        dict.fromkeys(("next states", "actions", "logits of bins", "largest returns"), 0.0),
        ours.outputs(window),
    )
    of_ours = (predicted.following, predicted.actions, predicted.bins, predicted.largest[..., None])
    for row in range(BATCH):
        steps = int(window["padding_mask"][row].sum())
        for what, own, other in zip(found, of_ours, ask(theirs, real_steps(window, row)), strict=True):
            found[what] = max(found[what], float((own[row, -steps:] - other[0]).abs().max()))
    full = {name: value[window["padding_mask"].all(dim=1)] for name, value in window.items()}
    states, actions, logits, largest = ask(theirs, full)
    returns = full["returns_to_go"]
    error = returns - largest[..., 0]
    bins = utils.encode_return("hopper", returns, num_bin=BINS, rtg_scale=1000).long()
    loss = functional.mse_loss(actions, full["actions"]) + functional.mse_loss(states, full["next_observations"])
    loss += 0.5 * (torch.where(error > 0, 0.99, 1 - 0.99) * error**2).mean()
    loss += 0.001 * functional.cross_entropy(logits.flatten(0, 1), bins.flatten())
    return {**found, "loss": float((ours.loss(full)[0] - loss).abs())}


def acting(ours: ElasticDecisionTransformer, theirs: nn.Module, window: dict[str, Tensor]) -> dict[str, float]:
    """Compare the search over histories with a loop over their module, with our drawn returns in place."""
    histories = ours.histories(window["padding_mask"])
    first = ours.first_returns(window, window["draws"][:, :-1])
    values, logits = ours.judge(window, first, histories)
    actions, found = ours.act(window), {"values of histories": 0.0, "actions chosen": 0.0}
    for row in range(BATCH):
        best, steps = int(values[row].argmax()), int(window["padding_mask"][row].sum())
        judged = []
        for number, left_out in enumerate(range(0, steps, ours.options.length_stride)):
            history = real_steps({**window, "returns_to_go": first}, row, left_out)
            judged.append(float(ask(theirs, history)[3][0, -1, 0]))
            found["values of histories"] = max(
                found["values of histories"], abs(judged[-1] - float(values[row, number]))
            )
        assert judged.index(max(judged)) == best
        history = real_steps({**window, "returns_to_go": first}, row, best * ours.options.length_stride)
        history["returns_to_go"][0, -1] = ours.draw(logits[row, best], window["draws"][row, -1])
        difference = float((ask(theirs, history)[1][0, -1] - actions[row]).abs().max())
        found["actions chosen"] = max(found["actions chosen"], difference)
    return found


def draws(utils: Any) -> float:
    """Compare how often their sampling draws each bin with our probabilities."""
    logits = 2 * torch.randn(1, 1, BINS)
    expected = expert_probabilities(logits[0, 0], 25.0, 0.15)
    many = utils.mgdt_logits(logits.expand(1, _DRAWS, BINS))
    drawn = utils.expert_sampling(many, top_percentile=0.15, expert_weight=15.0).flatten()
    return float((drawn.bincount(minlength=BINS) / _DRAWS - expected).abs().max())


if __name__ == "__main__":
    main()
