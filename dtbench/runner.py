"""Plan runs (model × task × seed), do what is not done yet, and record every one of them."""

from __future__ import annotations

import importlib
import json
import os
import statistics
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtbench.config import RunConfig, compose, load_preset
from dtbench.console import err, progress, quieten_libraries
from dtbench.errors import ConfigError, UnknownNameError
from dtbench.registry import ModelEntry, model_entry
from dtbench.scores import ReferenceScores
from dtbench.suites import Suite, Task, load_suite

if TYPE_CHECKING:  # torch and Lightning are imported when something runs, so that the command line is quick
    import torch

    from dtbench.data.datamodule import TrajectoryDataModule
    from dtbench.data.store import TrajectoryStore
    from dtbench.evaluation.rollout import Protocol
    from dtbench.models.base import OfflineModule

EXISTING = ("skip", "rerun", "fail")
LAUNCHERS = {"local": "dtbench.launchers.local", "ray": "dtbench.launchers.ray"}
DONE, FAILED, INTERRUPTED = "ok", "failed", "interrupted"
#: In a run's folder: what `evaluate` needs beside the weights, and what its checkpoints belong to.
RUN_FILE = "run.json"
#: More processes than this wait for memory rather than for cores.
_MOST_JOBS = 8


@dataclass(frozen=True)
class RunPlan:
    """One run, fully decided: nothing about it is looked up later."""

    model: ModelEntry
    suite: Suite
    task: Task
    source: str
    preset: str
    config: RunConfig
    is_preset_config: bool
    seed: int
    output: Path

    @property
    def label(self) -> str:
        return f"{self.model.name} · {self.task.id} · seed {self.seed}"

    @property
    def result_path(self) -> Path:
        """Where the result is written: the path is the run's identity."""
        from dtbench.results import result_path

        model = self.model.name if self.is_preset_config else f"{self.model.name}+{self.config.hash()}"
        return result_path(self.output, self.suite.id, self.source, self.preset, model, self.task.id, self.seed)

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs are kept, beside the result."""
        return self.result_path.with_suffix("")


@dataclass(frozen=True)
class RunSummary:
    """What `run` did: the results it can show now, and how many runs ended how."""

    results: list[dict[str, Any]]
    finished: int
    skipped: int
    failed: int


def default_preset() -> tuple[str, str]:
    """Return the preset for this machine and the reason: `paper` with a CUDA GPU, else `quick`."""
    import torch

    if torch.cuda.is_available():
        return "paper", f"CUDA is present ({torch.cuda.get_device_name(0)})"
    return "quick", "no CUDA GPU is present"


def plan_runs(
    suite: Suite,
    models: Sequence[str],
    *,
    output: Path,
    preset: str,
    seeds: Sequence[int] = (0,),
    tasks: Sequence[str] | None = None,
    source: str = "auto",
    file: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[RunPlan]:
    """Decide every run of model × task × seed, in an order that finishes one model's tasks before the next.

    Raises:
        UnknownNameError: a model, task, preset or source that does not exist.
        ConfigError: a key or a value of the configuration.
        SourceError: no source of a task can be had.
    """
    from dtbench.data.sources import resolve_source

    if not models:
        raise ConfigError("Name at least one model with --model, e.g. --model dt.")
    if len(set(seeds)) != len(seeds) or any(seed < 0 for seed in seeds):
        raise ConfigError(f"Seeds must be distinct and not negative, not {list(seeds)}.")
    entries = [model_entry(name) for name in dict.fromkeys(models)]
    layer = load_preset(preset)
    plans = []
    for entry in entries:
        typed = entry.load().Config
        for task in suite.select(list(tasks or [])):
            chosen = resolve_source(task, suite.sources, source)
            config = compose(entry.name, typed, entry.defaults, layer, suite, task, file, overrides)
            plain = compose(entry.name, typed, entry.defaults, layer, suite, task)
            same = config.hash() == plain.hash()
            plans += [RunPlan(entry, suite, task, chosen, preset, config, same, seed, Path(output)) for seed in seeds]
    return plans


def run(
    suite: str | Suite = "d4rl-short",
    models: Sequence[str] | str = ("dt",),
    *,
    output: str | Path = "results",
    preset: str | None = None,
    seeds: Sequence[int] = (0,),
    tasks: Sequence[str] | None = None,
    source: str = "auto",
    file: str | Path | None = None,
    overrides: Sequence[str] = (),
    existing: str = "skip",
    jobs: int | None = None,
    launcher: str = "local",
) -> RunSummary:
    """Train, evaluate and record `models` on the tasks of `suite`: the command `dtbench run` as a function.

    Args:
        output: folder of results; finished runs found there are skipped, an interrupted one is resumed.
        preset: `smoke`, `quick`, `learn` or `paper`; None chooses by the hardware.
        overrides: `section.key=value`, as `--set`.
        existing: what to do with a finished run: `skip`, `rerun` or `fail`.
        jobs: runs in parallel, each in a process of its own; None chooses by the hardware (`default_jobs`).
        launcher: `local` for this machine, `ray` for a Ray cluster (extra `ray`).
    """
    plans = plan_runs(
        load_suite(suite) if isinstance(suite, str) else suite,
        [models] if isinstance(models, str) else models,
        output=Path(output),
        preset=preset or default_preset()[0],
        seeds=seeds,
        tasks=tasks,
        source=source,
        file=Path(file) if file else None,
        overrides=overrides,
    )
    return execute(plans, existing=existing, jobs=jobs, launcher=launcher)


def execute(
    plans: Sequence[RunPlan], *, existing: str = "skip", jobs: int | None = None, launcher: str = "local"
) -> RunSummary:
    """Do the planned runs; a failing one is recorded and the others go on.

    Raises:
        ConfigError: `existing` is unknown, or is `fail` and a run is there already.
        ResultError: a result could not be written.
        KeyboardInterrupt: after the current run was recorded as interrupted.
    """
    if launcher not in LAUNCHERS:
        raise UnknownNameError("launcher", launcher, LAUNCHERS)
    todo = _not_done(plans, existing)
    skipped = len(plans) - len(todo)
    if skipped:
        err.print(f"{skipped} of {len(plans)} runs are finished already and are skipped.")
    prepare_models(todo)
    prepare_data(todo)
    jobs = jobs or default_jobs(plans)
    if launcher != "local" or jobs > 1 or any(plan.config.hardware.devices > 1 for plan in todo):
        module = importlib.import_module(LAUNCHERS[launcher])
        statuses = module.run_all(todo, jobs)
    else:
        statuses = [run_one(plan, f"{number}/{len(todo)}") for number, plan in enumerate(todo, start=1)]
    failed = sum(status != DONE for status in statuses)
    return RunSummary(finished_results(plans), len(todo) - failed, skipped, failed)


def default_jobs(plans: Sequence[RunPlan]) -> int:
    """Return how many runs go side by side: one on a GPU; on a CPU as many as there are cores, up to eight.

    These networks are small: two runs of one thread each are faster than two runs of two threads one after the other.
    All planned runs count, finished ones too, so that the same command gives a resumed run the same number of threads:
    the last bits depend on it.
    """
    import torch

    wanted = {plan.config.hardware.accelerator for plan in plans}
    if (torch.cuda.is_available() and wanted & {"auto", "gpu", "cuda"}) or any(
        p.config.hardware.devices > 1 for p in plans
    ):
        return 1
    return max(1, min(len(plans), os.cpu_count() or 1, _MOST_JOBS))


def finished_results(plans: Sequence[RunPlan]) -> list[dict[str, Any]]:
    """Read the results of the planned runs that are there."""
    from dtbench.results import read_result

    return [read_result(plan.result_path) for plan in plans if plan.result_path.is_file()]


def _not_done(plans: Sequence[RunPlan], existing: str) -> list[RunPlan]:
    if existing not in EXISTING:
        raise ConfigError(f"--existing must be {', '.join(EXISTING[:-1])} or {EXISTING[-1]}, not {existing!r}.")
    todo = []
    for plan in plans:
        if _status(plan) != DONE:
            todo.append(plan)
        elif existing == "fail":
            raise ConfigError(f"{plan.result_path} exists; choose --existing skip or rerun, or another --output.")
        elif existing == "rerun":
            _forget(plan)
            todo.append(plan)
    return todo


def _status(plan: RunPlan) -> str | None:
    """Return the status of the run's result, or None; an unreadable result is set aside and planned again."""
    from dtbench.results import read_or_set_aside

    result = read_or_set_aside(plan.result_path)
    if result is None or result["model"]["config_hash"] != plan.config.hash():
        return None
    return str(result["status"])


def _forget(plan: RunPlan) -> None:
    import shutil

    plan.result_path.unlink(missing_ok=True)
    shutil.rmtree(plan.folder, ignore_errors=True)


def prepare_models(plans: Sequence[RunPlan]) -> None:
    """Find, fetch or make what the models need, e.g. pretrained weights, before anything long begins."""
    seen = []
    for plan in plans:
        wanted = (plan.model, plan.config.model)
        if wanted not in seen:
            seen.append(wanted)
            plan.model.load().prepare(plan.config.model)


def prepare_data(plans: Sequence[RunPlan]) -> None:
    """Build or find every dataset before the first run, so that a missing one is known at once."""
    from dtbench.data.sources import is_ready, open_store

    wanted: dict[tuple[str, str, int], RunPlan] = {}
    for plan in plans:
        wanted.setdefault((plan.source, plan.task.sources[plan.source], plan.config.data.steps), plan)
    missing = [key for key in wanted if not is_ready(*key)]
    for number, (source, dataset, steps) in enumerate(missing, start=1):
        err.print(f"data {number}/{len(missing)}: building {source}/{dataset} ({steps:,} steps)")
        with progress(dataset) as report:
            open_store(source, dataset, steps, progress=report)


def run_one(plan: RunPlan, number: str = "1/1") -> str:
    """Do one run and write its result; return its status.

    Every exception but an interruption is the run's own failure: it is recorded with its traceback and shown in one
    line, and the caller goes on with the next run.
    """
    from dtbench import provenance
    from dtbench.results import new_result, write_result

    quieten_libraries()
    started = provenance.now()
    first_rank = int(os.environ.get("LOCAL_RANK", 0)) == int(os.environ.get("NODE_RANK", 0)) == 0
    try:
        parts = _train_and_evaluate(plan, number)
        status, error = DONE, None
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into SystemExit
        if first_rank:
            write_result(plan.result_path, new_result(_identity(plan), INTERRUPTED, started))
        raise KeyboardInterrupt from None
    except Exception as failure:  # noqa: BLE001 - whatever a model raises must not stop the other runs
        status, parts = FAILED, {}
        error = {"type": type(failure).__name__, "message": str(failure), "traceback": traceback.format_exc()}
        err.print(f"[red]{number} {plan.label}: failed[/red]: {type(failure).__name__}: {failure}", markup=True)
    if first_rank:  # the others trained with it and have nothing to add
        write_result(plan.result_path, new_result(_identity(plan), status, started, error=error, **parts))
    return status


def _identity(plan: RunPlan) -> dict[str, Any]:
    """Return the parts of a result that are known before the run."""
    task, config = plan.task, plan.config
    return {
        "suite": {"name": plan.suite.name, "version": plan.suite.version},
        "task": {
            "id": task.id,
            "source": plan.source,
            "dataset_id": task.sources[plan.source],
            "fingerprint": None,
            "env_id": task.env_id,
            "reference": asdict(task.reference),
            "score_target": task.score_target,
            "return_scale": task.return_scale,
        },
        "model": {
            "name": plan.model.name,
            "config_hash": config.hash(),
            "is_preset_config": plan.is_preset_config,
            "config": config.to_dict(),
            "weights": None,
        },
        "preset": plan.preset,
        "seed": plan.seed,
    }


def _train_and_evaluate(plan: RunPlan, number: str) -> dict[str, Any]:
    """Train from the last checkpoint on, evaluate the last weights, and return the measured parts of the result."""
    from dtbench.data.sources import open_store
    from dtbench.evaluation.callback import EvaluationCallback
    from dtbench.training import fit

    task, config = plan.task, plan.config
    store = open_store(plan.source, task.sources[plan.source], config.data.steps)
    module = plan.model.load()(config.to_dict(), _dims(task, store), plan.seed)
    data = _data_module(plan, store, module)
    protocol = _protocol(task, data)
    _prepare_folder(plan, store, protocol)
    watch = []
    if config.evaluation.every:
        how = {"every": config.evaluation.every, "episodes": config.evaluation.episodes, "seed": plan.seed}
        watch = [EvaluationCallback(protocol, task.reference, task.score_target, **how)]
    record = fit(module, data, config, plan.folder, [*watch])
    if module.global_rank:
        return {}
    loss = "n/a" if record.final_loss is None else f"{record.final_loss:.4f}"
    trained = f"{record.steps:,} steps in {record.wall_s:.0f} s ({record.steps_per_s:.1f}/s), loss {loss}"
    err.print(f"{number} {plan.label}: trained {trained}; evaluating", markup=False)
    scores, seeds = _evaluate(module, plan, protocol)
    if watch:
        scores["during_training"] = [list(entry) for entry in watch[0].history]
    mean, spread = 100 * _mean(scores["normalized"]), 100 * _std(scores["normalized"])
    err.print(f"{number} {plan.label}: score {mean:.1f} ± {spread:.1f} ({len(seeds)} episodes)", markup=False)
    return {
        "dataset_id": store.metadata["dataset_id"],
        "fingerprint": store.fingerprint,
        "weights": module.weights,
        "scores": scores,
        "training": asdict(record),
        "evaluation": {"episodes": config.evaluation.episodes, "env_seeds": seeds},
    }


def _data_module(plan: RunPlan, store: TrajectoryStore, module: OfflineModule) -> TrajectoryDataModule:
    from dtbench.data.datamodule import TrajectoryDataModule
    from dtbench.data.windows import WindowOptions

    task, config = plan.task, plan.config
    options = WindowOptions(
        config.training.context_length,
        return_scale=task.return_scale,
        normalize_states=config.data.normalize_states,
        delayed_reward=task.delayed_reward,
        trajectory_ratio=task.trajectory_ratio,
        top_fraction=task.top_fraction,
    )
    training = config.training
    return TrajectoryDataModule(
        store.path,
        options,
        batch_size=training.batch_size,
        steps=training.steps,
        seed=plan.seed,
        held_out_share=module.held_out_share,
        is_held_out_step=module.is_held_out_step,
    )


def _dims(task: Task, store: TrajectoryStore) -> dict[str, int]:
    return {
        "observation_dim": store.observation_dim,
        "action_dim": store.action_dim,
        "max_timesteps": max(task.max_episode_steps, int(store.episode_lengths.max())),
    }


def _protocol(task: Task, data: TrajectoryDataModule) -> Protocol:
    from dtbench.evaluation.rollout import Protocol

    windows = data.windows
    return Protocol(
        env_id=task.env_id,
        max_episode_steps=task.max_episode_steps,
        return_scale=task.return_scale,
        state_mean=windows.state_mean.cpu().numpy(),
        state_std=windows.state_std.cpu().numpy(),
        delayed_reward=task.delayed_reward,
    )


def _prepare_folder(plan: RunPlan, store: TrajectoryStore, protocol: Protocol) -> None:
    """Describe the run beside its checkpoints; checkpoints of another configuration or other data are not resumed."""
    import shutil

    description = {
        **_identity(plan),
        "fingerprint": store.fingerprint,
        "dims": _dims(plan.task, store),
        "protocol": {
            "env_id": protocol.env_id,
            "max_episode_steps": protocol.max_episode_steps,
            "return_scale": protocol.return_scale,
            "state_mean": protocol.state_mean.tolist(),
            "state_std": protocol.state_std.tolist(),
            "delayed_reward": protocol.delayed_reward,
        },
    }
    file = plan.folder / RUN_FILE
    if file.is_file():
        before = json.loads(file.read_text())
        same = (before["fingerprint"], before["model"]["config_hash"]) == (store.fingerprint, plan.config.hash())
        if not same:
            err.print(f"{plan.folder} belongs to other data or another configuration; starting afresh.", markup=False)
            shutil.rmtree(plan.folder)
    plan.folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(description, indent=2) + "\n")


def _evaluate(module: OfflineModule, plan: RunPlan, protocol: Protocol) -> tuple[dict[str, Any], list[int]]:
    """Score the trained weights at the score target; further targets are diagnostics."""
    from dtbench.evaluation.rollout import evaluate

    task, options = plan.task, plan.config.evaluation
    device = _evaluation_device(plan.config)
    module.to(device).eval()
    per_target = {}
    for target in [task.score_target, *(task.targets if options.all_targets else ())]:
        done = evaluate(module, protocol, target, options.episodes, plan.seed, device)
        normalized = task.reference.normalize(done.returns).tolist()
        per_target[str(target)] = {"returns": done.returns, "lengths": done.lengths, "normalized": normalized}
    return {**per_target[str(task.score_target)], "per_target": per_target}, done.seeds


def _evaluation_device(config: RunConfig) -> torch.device:
    import torch

    wanted = config.hardware.accelerator
    return torch.device("cuda" if torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda") else "cpu")


def evaluate_again(
    folder: str | Path, *, targets: Sequence[float] = (), episodes: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Evaluate a finished run's weights again, at other targets or with more episodes.

    Args:
        folder: the run's folder, `…/<task>/seed-<n>`.

    Returns:
        One dict per target: target, returns, lengths, normalized, and mean and standard deviation of both.

    Raises:
        ConfigError: the folder holds no finished run.
    """
    from dtbench.evaluation.rollout import evaluate

    run_file, module, protocol = open_run(folder)
    reference = ReferenceScores(**run_file["task"]["reference"])
    rows = []
    for target in targets or [run_file["task"]["score_target"]]:
        count = episodes or run_file["model"]["config"]["evaluation"]["episodes"]
        done = evaluate(module, protocol, target, count, seed)
        normalized = reference.normalize(done.returns).tolist()
        rows.append(
            {
                "target": target,
                "returns": done.returns,
                "lengths": done.lengths,
                "normalized": normalized,
                "return_mean": _mean(done.returns),
                "return_std": _std(done.returns),
                "normalized_mean": _mean(normalized),
                "normalized_std": _std(normalized),
            }
        )
    return rows


def open_run(folder: str | Path) -> tuple[dict[str, Any], OfflineModule, Protocol]:
    """Return a finished run's description, its trained module in evaluation mode, and how to drive the environment.

    Raises:
        ConfigError: the folder holds no finished run.
    """
    import numpy as np

    from dtbench.evaluation.rollout import Protocol
    from dtbench.training import FINAL, load_weights

    folder = Path(folder)
    try:
        run_file = json.loads((folder / RUN_FILE).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is not the folder of a run (it has no {RUN_FILE}): name …/seed-<n>.") from error
    if not (folder / FINAL).is_file():
        raise ConfigError(f"The run in {folder} is not trained yet (it has no {FINAL}); run it first.")
    model = run_file["model"]
    module = model_entry(model["name"]).load()(model["config"], run_file["dims"], run_file["seed"])
    load_weights(module, folder / FINAL)
    settings = dict(run_file["protocol"])
    for name in ("state_mean", "state_std"):
        settings[name] = np.asarray(settings[name], dtype=np.float32)
    return run_file, module.eval(), Protocol(**settings)


def untrained(run_file: dict[str, Any]) -> OfflineModule:
    """Rebuild the module of a run as it was before its first step, in evaluation mode."""
    model = run_file["model"]
    return model_entry(model["name"]).load()(model["config"], run_file["dims"], run_file["seed"]).eval()


def find_run(folder: str | Path, task: str | None = None) -> Path:
    """Return the folder of the one run at or below `folder`, of `task` where that is named.

    Raises:
        ConfigError: no finished run there, or several.
    """
    from dtbench.training import FINAL

    folder = Path(folder)
    found = [path.parent for path in sorted(folder.rglob(RUN_FILE)) if (path.parent / FINAL).is_file()]
    if task is not None:
        found = [path for path in found if json.loads((path / RUN_FILE).read_text())["task"]["id"] == task]
    if not found:
        raise ConfigError(f"{folder} holds no finished run{f' of {task}' if task else ''} (…/seed-<n>).")
    if len(found) > 1:
        raise ConfigError(f"{folder} holds {len(found)} runs; name one, e.g. {found[0]}.")
    return found[0]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def _std(values: Sequence[float]) -> float:
    return statistics.pstdev(values)
