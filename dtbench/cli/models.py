"""The commands about language models: `dtbench analyze …` looks inside heads, `dtbench backbone …` makes backbones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dtbench import atomic
from dtbench.cli.output import Json
from dtbench.errors import ConfigError

analyze_app = typer.Typer(help="Look inside the heads of a backbone or of a trained run.", no_args_is_help=True)
backbone_app = typer.Typer(help="Pretrain a small GPT-2 on text or on a Markov chain.", no_args_is_help=True)

Plot = Annotated[Path | None, typer.Option("--plot", help="Also draw a heat map, e.g. heads.png or heads.svg.")]


@analyze_app.command("markov-heads")
def markov_heads(
    what: Annotated[
        str, typer.Argument(help="bundled, a hub id, a backbone's folder, a run's folder, or a .safetensors file.")
    ],
    positive: Annotated[float, typer.Option(help="A Markov head's least share of positive diagonal entries.")] = 0.95,
    ratio: Annotated[float, typer.Option(help="A Markov head's least |diagonal| / |off-diagonal|.")] = 3.0,
    heads: Annotated[int | None, typer.Option(min=1, help="Heads per layer, if a file does not say.")] = None,
    plot: Plot = None,
    json_: Json = False,
) -> None:
    """Show which heads are Markov heads (arXiv 2409.06985): W_q W_kᵀ with a positive, dominating diagonal."""
    from dtbench.analysis.markov_heads import analyze_layers, load_layers, module_layers
    from dtbench.runs.folder import RunFolder
    from dtbench.runs.reopen import open_run

    is_run = RunFolder(Path(what).expanduser()).record.is_file()
    layers, count = module_layers(open_run(what).module) if is_run else load_layers(what, heads)
    content = {"what": what, **analyze_layers(layers, count, positive, ratio)}
    if plot is not None:
        from dtbench.analysis.heat_maps import markov_heat_map

        _draw(markov_heat_map, content, f"Markov heads of {Path(what).name}", plot)
    if json_:
        typer.echo(json.dumps(content, indent=2))
        return
    rows = []
    for layer in content["layers"]:
        for head in layer["heads"]:
            folded = head["folded"] or {"positive": None, "ratio": None, "markov": None}
            rows.append(
                {
                    "layer": layer["layer"],
                    "head": head["head"],
                    "positive": head["positive"],
                    "ratio": head["ratio"],
                    "Markov": "yes" if head["markov"] else "",
                    "positive, gain folded in": folded["positive"],
                    "ratio, folded": folded["ratio"],
                    "Markov, folded": "yes" if folded["markov"] else "",
                }
            )
    _table(rows)
    found = [
        f"{layer['layer']}.{head['head']}" for layer in content["layers"] for head in layer["heads"] if head["markov"]
    ]
    typer.echo(f"\nMarkov heads (layer.head; positive ≥ {positive:g}, ratio ≥ {ratio:g}): {', '.join(found) or 'none'}")


@analyze_app.command("attention")
def attention(
    run: Annotated[Path, typer.Argument(help="A run's folder (…/seed-<n>), or a folder above with one for --task.")],
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Which task, where the folder holds several.")
    ] = None,
    target: Annotated[float | None, typer.Option(help="Return to ask for. Default: the task's score target.")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to act in.")] = 10,
    plot: Plot = None,
    json_: Json = False,
) -> None:
    """Show where the heads of a trained policy attend while it acts, and where they did before training."""
    from dtbench.analysis.attention import attention_figures, record_windows
    from dtbench.runs.reopen import find_run, open_run

    folder = find_run(run, task)
    opened = open_run(folder)
    record, module = opened.record, opened.module
    asked = target if target is not None else record.task.score_target
    windows = record_windows(module, opened.protocol, asked, episodes, record.seed)
    content: dict[str, Any] = {
        "run": str(folder),
        "task": record.task.id,
        "target": asked,
        "windows": sum(len(window["padding_mask"]) for window in windows),
        "layers": attention_figures(module, windows),
        "before": {"layers": attention_figures(opened.untrained(), windows)},
    }
    if plot is not None:
        from dtbench.analysis.heat_maps import attention_heat_map

        _draw(attention_heat_map, content, f"{record.model.name} on {record.task.id}", plot)
    if json_:
        typer.echo(json.dumps(content, indent=2))
        return
    pairs = zip(content["layers"], content["before"]["layers"], strict=True)
    rows = [
        {
            "layer": after["layer"],
            "head": new["head"],
            "last token, before": old["last_token_mass"],
            "after": new["last_token_mass"],
            "entropy, before": old["entropy"],
            "after ": new["entropy"],
            **{f"on {kind} tokens": mass for kind, mass in new["by_kind"].items()},
        }
        for after, before in pairs
        for new, old in zip(after["heads"], before["heads"], strict=True)
    ]
    _table(rows)


@backbone_app.command("text")
def backbone_text(
    text: Annotated[Path, typer.Argument(help="File or folder of .txt or .txt.gz.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The backbone's folder.")],
    steps: Annotated[int, typer.Option(min=1, help="Training steps of 2,048 tokens.")] = 8000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    layers: Annotated[int, typer.Option(min=1)] = 4,
    heads: Annotated[int, typer.Option(min=1)] = 4,
    width: Annotated[int, typer.Option(min=1)] = 128,
    vocabulary: Annotated[int, typer.Option(min=300, max=65535, help="Tokens of the byte-level BPE.")] = 8192,
    repeat_share: Annotated[float, typer.Option(min=0, max=1, help="Share of sequences that repeat a stretch.")] = 0.0,
    symmetric_heads: Annotated[int, typer.Option(min=0, help="Heads of layer 0 that start with keys = queries.")] = 0,
    symmetric_std: Annotated[float, typer.Option(min=0, help="Standard deviation of their weights.")] = 0.02,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, or auto: bf16 where the CPU has it.")] = "auto",
    measure: Annotated[list[Path], typer.Option(help="Further texts to measure perplexity on; repeatable.")] = [],  # noqa: B006
) -> None:
    """Pretrain a GPT-2 and its tokenizer on a text; the same command continues an interrupted training."""
    from dtbench.console import resumable
    from dtbench.hardware import fast_precision
    from dtbench.models.backbone.pretrain import PretrainSettings
    from dtbench.models.backbone.recipes import make_text_backbone

    settings = PretrainSettings(
        vocabulary=vocabulary,
        steps=steps,
        layers=layers,
        heads=heads,
        width=width,
        repeat_share=repeat_share,
        symmetric_heads=symmetric_heads,
        symmetric_std=symmetric_std,
        seed=seed,
        precision=fast_precision(gpu=False) if precision == "auto" else precision,
    )
    with resumable():
        make_text_backbone(text, settings, output, {path.stem: path for path in measure})
    _finish(output)


@backbone_app.command("synthetic")
def backbone_synthetic(
    output: Annotated[Path, typer.Option("--output", "-o", help="The backbone's folder.")],
    states: Annotated[int, typer.Option(min=2, help="States of the Markov chain.")] = 100,
    temperature: Annotated[float, typer.Option(help="Of the transition probabilities; higher is more random.")] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of 2,048 tokens.")] = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Pretrain a GPT-2 on a one-step Markov chain (arXiv 2310.00771), deterministic in its seed."""
    from dtbench.console import resumable
    from dtbench.models.backbone.recipes import SyntheticOptions, make_synthetic_backbone

    if output.exists():
        raise ConfigError(f"{output} exists already; choose another --output.")
    with resumable():
        make_synthetic_backbone(SyntheticOptions(states, temperature, steps, seed), output)
    _finish(output)


def _finish(folder: Path) -> None:
    from dtbench.analysis.backbone_card import backbone_card

    text = backbone_card(folder)
    atomic.write_text(folder / "README.md", text)
    typer.echo(text)


def _draw(draw: Any, content: dict[str, Any], title: str, file: Path) -> None:
    try:
        draw(content, title, file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The figure {file} cannot be written: {error}.") from error
    typer.echo(f"Figure: {file}", err=True)


def _table(rows: list[dict[str, Any]]) -> None:
    from tabulate import tabulate

    typer.echo(tabulate(rows, headers="keys", tablefmt="simple"))
