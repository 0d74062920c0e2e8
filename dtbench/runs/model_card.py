"""The card of a run on the model hub, written from its record alone."""

from __future__ import annotations

import statistics

from dtbench.registry import models
from dtbench.results.schema import Result
from dtbench.results.text import markdown_table, markdown_text
from dtbench.results.tracking import episodes_by_target


def model_card(result: Result, repo: str) -> str:
    """Return the card: what was trained on what, the score with its protocol, and how to open it.

    Args:
        result: of a finished run.
        repo: where it will be.
    """
    task, model, provenance = result.task, result.model, result.provenance
    scores, training, evaluation = result.measured
    entry = models().get(model.name)
    title = f"{model.name} on {task.id}"
    what = f"{entry.title} ({entry.paper})" if entry is not None and entry.is_ours else model.name
    rows = [
        ["suite · task", f"{result.suite.id} · {task.id}"],
        ["data", f"{task.dataset_id} ({task.source}), fingerprint {str(task.fingerprint)[:12]}"],
        ["environment", task.env_id],
        ["preset · seed", f"{result.preset} · {result.seed}"],
        ["changed settings", ", ".join(model.changes or []) or "none"],
        ["initial weights", str(model.initial_weights)],
        ["training", f"{training.steps:,} steps in {training.wall_s:.0f} s on {training.device}, {training.precision}"],
        ["dtbench", f"{result.dtbench_version}, commit {provenance.git or 'unknown'}"],
    ]
    per_target = [
        [
            f"{target:g}{' (scored)' if target == task.score_target else ''}",
            f"{statistics.fmean(found.returns):.1f} ± {statistics.pstdev(found.returns):.1f}",
            f"{100 * found.mean:.1f}",
        ]
        for target, found in episodes_by_target(result).items()
    ]
    return "\n\n".join(
        [
            _front_matter(result, title),
            f"# {markdown_text(title)}",
            f"{markdown_text(what)}, trained and evaluated with dtbench. The score is **{100 * scores.mean:.1f}** "
            f"(normalised × 100, reference table {markdown_text(task.reference.table)}): the last checkpoint, asked "
            f"for a return of {task.score_target:g}, {evaluation.episodes} episodes. It is one seed; a comparison of "
            "models needs several.",
            markdown_table([[key, markdown_text(value)] for key, value in rows], ["", ""]),
            "## Returns",
            "Mean over the episodes ± their standard deviation.",
            markdown_table(per_target, ["asked for", "return", "normalised × 100"]),
            "## Use",
            f"```bash\ndtbench pull {repo}\n```",
            "The folder that it prints is a run: `dtbench evaluate FOLDER` repeats the returns of `result.json`, and "
            "`dtbench.open_run(FOLDER)` acts in a gymnasium loop. The repository holds weights and records, no code.",
        ]
    ) + "\n"  # fmt: skip


def _front_matter(result: Result, title: str) -> str:
    """Return what the hub's search and its tables of results read."""
    from huggingface_hub import EvalResult, ModelCardData

    task = result.task
    data = ModelCardData(
        library_name="dtbench",
        tags=["dtbench", "offline-reinforcement-learning", "reinforcement-learning", result.model.name],
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="reinforcement-learning",
                dataset_type=task.dataset_id,
                dataset_name=f"{result.suite.id} {task.id} ({task.source})",
                metric_type="normalized_score",
                metric_value=round(100 * result.score, 4),
                metric_name="normalised score × 100",
            )
        ],
    )
    return f"---\n{data.to_yaml()}\n---"
