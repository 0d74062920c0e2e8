"""Train reference implementations of the Decision Transformer and dtbench's on the same data with equal settings.

    python benchmarks/fidelity/dt_side_by_side.py --reference decision-transformer --corl CORL --data data.hdf5

README.md beside this file says where the three come from and what was measured. A run is one JSON file in `--output`,
and is not repeated if its file exists.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common
import corl
import kzl
import numpy as np
import ours
import torch
from common import ENV_ID, HORIZON, SCALE, Settings, Trained
from scipy.stats import permutation_test, ttest_ind
from torch import Tensor

from dtbench import atomic
from dtbench.evaluation.rollout import EvaluationProtocol, episode_seeds, evaluate

#: Where the curves are compared: the mean loss of the steps from the first to the second number, and of the whole curve
#: after the warm-up.
PARTS = ((150, 250), (400, 500), (900, 1000), (1400, 1500), (1900, 2000), (300, 2000))
#: Episodes of the reference's own evaluation loop, which plays them one by one.
OWN_LOOP = 3
#: The runs of a side are compared with those of another; CORL's network has GELU, so its counterpart has it, too.
PAIRS = (("kzl", "ours"), ("corl", "small"), ("ours", "small_relu"))
SMALL = ("model.init=small", "model.activation=gelu")
SMALL_RELU = ("model.init=small",)
SIDES = ("kzl", "ours", "corl", "small", "small_relu")


def main() -> None:
    """Compare the computation, train what is missing, and print the report."""
    options = _options()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.report:
        for seed in options.seeds:
            for side in options.sides:
                _run(side, seed, options)
    if options.compare:
        print(compare(options))
    print(report(options.output))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Decision Transformers side by side.")
    parser.add_argument("--reference", type=Path, required=True, help="checkout of kzl/decision-transformer")
    parser.add_argument("--corl", type=Path, required=True, help="checkout of corl-team/CORL")
    parser.add_argument("--data", type=Path, required=True, help="file of roll_out_actor.py")
    parser.add_argument("--output", type=Path, default=Path("side_by_side"))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["kzl", "ours"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--batch-size", type=int, default=Settings.batch_size)
    parser.add_argument("--episodes", type=int, default=10, help="per target")
    parser.add_argument("--own-loop", action="store_true", help="also evaluate kzl with its own loop, one by one")
    parser.add_argument("--compare", action="store_true", help="also compare the computation with copied weights")
    parser.add_argument("--report", action="store_true", help="train nothing")
    return parser.parse_args()


def _run(side: str, seed: int, options: argparse.Namespace) -> None:
    """Train and evaluate one side with one seed, unless its file exists."""
    file = options.output / f"{side}-{seed}.json"
    settings = Settings(steps=options.steps, batch_size=options.batch_size)
    if file.exists():
        if json.loads(file.read_text(encoding="utf-8"))["settings"] != asdict(settings):
            raise SystemExit(f"{file} has other settings; choose another --output.")
        return
    columns = common.read_columns(options.data)
    best = max(float(episode["rewards"].sum(dtype=np.float64)) for episode in common.split_episodes(columns))
    sides: dict[str, Callable[[], Trained]] = {
        "kzl": lambda: kzl.train(options.reference, columns, settings, seed),
        "corl": lambda: corl.train(options.corl, columns, settings, seed),
        "ours": lambda: ours.train(options.data, settings, seed),
        "small": lambda: ours.train(options.data, settings, seed, "small", SMALL),
        "small_relu": lambda: ours.train(options.data, settings, seed, "small_relu", SMALL_RELU),
    }
    started = time.process_time()
    trained = sides[side]()
    seconds = time.process_time() - started
    protocol = EvaluationProtocol(ENV_ID, HORIZON, SCALE, trained.state_mean, trained.state_std)
    returns: dict[str, Any] = {}
    for name, target in {"6000": 6000.0, "best": best}.items():
        episodes = evaluate(trained.policy, protocol, target, options.episodes, seed=seed)
        has_own = options.own_loop and trained.own_loop is not None
        own = trained.own_loop(target, episodes.seeds[:OWN_LOOP]) if has_own else None
        returns[name] = {"target": target, "returns": episodes.returns, "own_loop": own}
        print(f"{side} seed {seed}, target {target:.0f}: {np.mean(episodes.returns):.0f}", flush=True)
    result = {
        "side": side,
        "seed": seed,
        "settings": asdict(settings),
        "losses": trained.losses,
        "returns": returns,
        "environment_seeds": episode_seeds(seed, options.episodes),
        "training_cpu_seconds": seconds,
        "torch": torch.__version__,
    }
    atomic.write_text(file, json.dumps(result) + "\n")


def compare(options: argparse.Namespace, steps: int = 50) -> str:
    """Copy each reference's weights into `dt`, and compare actions, losses and weights over `steps` training steps.

    Both sides get the same batches, and dropout is off, because they draw its masks in different orders.
    """
    settings = Settings(dropout=0.0, warmup_steps=10)
    data = ours.data_module(options.data, settings, seed=0)
    lines = ["| reference | actions, largest difference | loss of step 1 | step 50 | largest difference of 50 losses |"]
    lines += ["|---|---|---|---|---|"]
    common.seed_everything(0)
    theirs = _kzl_network(options.reference, settings)
    module = ours.build(ours.configure(settings), seed=0)
    ours.copy_from_kzl(module, theirs)
    loops = _compare_loops(options, theirs.eval(), module.eval())
    lines.append(_compare("kzl", module, theirs, kzl.predict, data.windows, steps))
    theirs = corl.load(options.corl).DecisionTransformer(17, 6, **corl.model_options(settings))
    module = ours.build(ours.configure(settings, ("model.activation=gelu",)), seed=0)
    ours.copy_from_corl(module, theirs)
    lines.append(_compare("corl", module, theirs, corl.predict, data.windows, steps))
    return "\n".join([*lines, "", *loops]) + "\n"


def _compare_loops(options: argparse.Namespace, theirs: torch.nn.Module, module: Any, steps: int = 20) -> list[str]:
    """Play the first `steps` steps of five episodes in the reference's own loop and in dtbench's.

    From there on a difference in the last bit grows into another episode.
    """
    columns = common.read_columns(options.data)
    mean, std = kzl.state_statistics(columns)
    protocol = EvaluationProtocol(ENV_ID, steps, SCALE, mean, std)
    seeds = episode_seeds(0, 5)
    own = kzl.own_loop(kzl.load(options.reference), theirs, columns, 6000.0, seeds, steps)
    lines = [f"returns of {steps} steps in the reference's own loop: {', '.join(f'{value:.4f}' for value in own)}"]
    for name, policy in {
        "its network in dtbench's loop": common.Acting(theirs, kzl.predict),
        "dtbench's network": module,
    }.items():
        returns = evaluate(policy, protocol, 6000.0, len(seeds), seed=0).returns
        apart = max(abs(mine - other) for mine, other in zip(returns, own, strict=True))
        lines.append(f"{name}: {', '.join(f'{value:.4f}' for value in returns)}; largest difference {apart:.1e}")
    return lines


def _kzl_network(checkout: Path, settings: Settings) -> torch.nn.Module:
    experiment = kzl.load(checkout)
    return experiment.DecisionTransformer(state_dim=17, act_dim=6, embd_pdrop=0.0, **kzl.model_options(settings))


def _compare(name: str, module: Any, theirs: torch.nn.Module, predict: Any, windows: Any, steps: int) -> str:
    """Return one line of the comparison's table."""
    batches = [windows.gather(windows.draw(64, seed=0, step=step)) for step in range(steps)]
    if name == "corl":  # which pads on the other side: only windows without padding can be compared at once
        batches = [{key: value[batch["padding_mask"].all(1)] for key, value in batch.items()} for batch in batches]
    with torch.no_grad():
        real = batches[0]["padding_mask"]
        difference = float((module(batches[0]) - predict(theirs, batches[0]))[real].abs().max())
    curves = [
        _losses(module, lambda batch: module(batch), batches),
        _losses(theirs, lambda batch: predict(theirs, batch), batches),
    ]
    apart = max(abs(mine - other) for mine, other in zip(*curves, strict=True))
    first, last = (f"{curves[0][step]:.6f} / {curves[1][step]:.6f}" for step in (0, -1))
    return f"| {name} | {difference:.1e} | {first} | {last} | {apart:.1e} |"


def _losses(model: torch.nn.Module, predict: Callable[[dict[str, Tensor]], Tensor], batches: Any) -> list[float]:
    """Train on the batches with the settings that all sides have."""
    settings, losses = Settings(warmup_steps=10), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / settings.warmup_steps, 1))
    for batch in batches:
        real = batch["padding_mask"]
        loss = torch.nn.functional.mse_loss(predict(batch)[real], batch["actions"][real])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def report(folder: Path) -> str:
    """Return the tables of all finished runs, as Markdown."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*-*.json"))]
    by_side: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_side.setdefault(run["side"], []).append(run)
    sections = [_pair(by_side[first], by_side[second]) for first, second in PAIRS if {first, second} <= set(by_side)]
    sections.append(_single(by_side))
    return "\n".join(sections)


def _pair(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> str:
    """Compare two sides: seeds' values, relative difference of the means with its interval, exact permutation p."""
    names = first[0]["side"], second[0]["side"]
    rows = [f"| | {names[0]} | {names[1]} | difference, 95 % | p |", "|---|---|---|---:|---:|"]
    shortest = min(len(run["losses"]) for run in first + second)
    for start, end in (part for part in PARTS if part[1] <= shortest):
        values = [[float(np.mean(run["losses"][start:end])) for run in side] for side in (first, second)]
        rows.append(_row(f"loss, steps {start + 1:,} to {end:,}", values, "{:.4f}"))
    for target in first[0]["returns"]:
        values = [[float(np.mean(run["returns"][target]["returns"])) for run in side] for side in (first, second)]
        rows.append(_row(f"return at {first[0]['returns'][target]['target']:,.0f}", values, "{:,.0f}"))
    return "\n".join(rows) + "\n"


def _row(name: str, values: list[list[float]], form: str) -> str:
    means = [float(np.mean(side)) for side in values]
    apart = (means[1] - means[0]) / means[0]
    cells = [
        f"**{form.format(mean)}** ({', '.join(form.format(value) for value in side)})"
        for mean, side in zip(means, values, strict=True)
    ]
    return f"| {name} | {' | '.join(cells)} | {apart:+.1%}{_interval(*values)} | {_permutation_p(*values)} |"


def _interval(first: list[float], second: list[float]) -> str:
    """Return Welch's 95 % interval of the difference of the means, relative to the first."""
    if min(len(first), len(second)) < 2:
        return ""
    interval = ttest_ind(second, first, equal_var=False).confidence_interval()
    low, high = (float(end) / float(np.mean(first)) for end in (interval.low, interval.high))
    return f" ({low:+.1%} to {high:+.1%})"


def _permutation_p(first: list[float], second: list[float]) -> str:
    """Return the two-sided p of the exact permutation test of the means, and its least possible value."""
    if min(len(first), len(second)) < 2:
        return "–"
    test = permutation_test((first, second), lambda a, b: np.mean(a) - np.mean(b), n_resamples=math.inf)
    least = 2 / math.comb(len(first) + len(second), len(first))
    return f"{test.pvalue:.3f} (least {least:.3f})"


def _single(by_side: dict[str, list[dict[str, Any]]]) -> str:
    heads = ("side, seed", "loss, last 100 steps", "return at 6,000", "at the best", "own loop, first three", "CPU")
    rows = [f"| {' | '.join(heads)} |"]
    rows.append("|---|---:|---:|---:|---|---:|")
    for side, runs in by_side.items():
        for run in runs:
            values = run["returns"].values()
            played = [f"{np.mean(v['returns']):,.0f} ± {np.std(v['returns']):,.0f}" for v in values]
            own = [_own_loop(v["own_loop"], v["returns"]) for v in values]
            loss, seconds = np.mean(run["losses"][-100:]), run["training_cpu_seconds"]
            row = f"| {side}, {run['seed']} | {loss:.4f} | {' | '.join(played)} | {', '.join(own)} | {seconds:,.0f} s |"
            rows.append(row)
    return "\n".join(rows) + "\n"


def _own_loop(own: list[float] | None, returns: list[float]) -> str:
    """Return the mean of the reference's own loop, and that of the same environment seeds in dtbench's."""
    return "–" if own is None else f"{np.mean(own):,.0f} (here {np.mean(returns[: len(own)]):,.0f})"


if __name__ == "__main__":
    main()
