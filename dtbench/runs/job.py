"""One run: train from where it stopped, evaluate the last weights, record the result."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from dtbench.config import RunConfig
from dtbench.console import err, quieten_libraries
from dtbench.results.changes import changes_between, preset_config
from dtbench.results.schema import (
    DONE,
    EpisodeScores,
    ErrorRecord,
    EvaluationRecord,
    ModelRecord,
    Result,
    Scores,
    SuiteRecord,
    TaskRecord,
)
from dtbench.runs.folder import RUN_FILE
from dtbench.runs.plan import RunPlan
from dtbench.suites.scores import ReferenceScores
from dtbench.suites.suites import Task

if TYPE_CHECKING:
    import torch

    from dtbench.data.datamodule import TrajectoryDataModule
    from dtbench.data.store import TrajectoryStore
    from dtbench.evaluation.rollout import Protocol
    from dtbench.models.base import OfflineModule


def run_one(plan: RunPlan, number: str = "1/1") -> str:
    """Do one run and write its result; return its status.

    Every exception but an interruption is the run's own failure: it is recorded with its traceback and shown in one
    line, and the caller goes on with the next run.
    """
    from dtbench.results.files import write_result

    quieten_libraries()
    begun = _begin(plan)
    first_rank = int(os.environ.get("LOCAL_RANK", 0)) == int(os.environ.get("NODE_RANK", 0)) == 0
    try:
        result = _train_and_evaluate(plan, number, begun)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into SystemExit
        if first_rank:
            write_result(plan.result_path, begun.interrupted())
        raise KeyboardInterrupt from None
    except Exception as failure:  # noqa: BLE001 - whatever a model raises must not stop the other runs
        result = begun.failed(ErrorRecord.from_exception(failure))
        err.print(f"{number} {plan.label}: failed: {type(failure).__name__}: {failure}", markup=False)
    if result is None:  # another rank, which trained with the first and has nothing to add
        return DONE
    if first_rank:
        write_result(plan.result_path, result)
    return result.status


def _begin(plan: RunPlan) -> Result:
    """Return the record of a run that starts now, with what the plan says about it."""
    task, config = plan.task, plan.config
    changes: list[str] = []
    if not plan.is_preset_config:
        own = preset_config(plan.model.name, plan.preset, plan.suite, task)
        changes = changes_between(own.to_dict(), config.to_dict())
    return Result.begin(
        SuiteRecord(plan.suite.name, plan.suite.version),
        TaskRecord(
            id=task.id,
            source=plan.source,
            dataset_id=task.sources[plan.source],
            fingerprint=None,
            env_id=task.environment(plan.source),
            reference=task.reference,
            score_target=task.score_target,
            return_scale=task.return_scale,
        ),
        ModelRecord(plan.model.name, config.hash(), plan.is_preset_config, config.to_dict(), changes=changes),
        plan.preset,
        plan.seed,
    )


def _train_and_evaluate(plan: RunPlan, number: str, begun: Result) -> Result | None:
    """Train from the last checkpoint on, evaluate the last weights, and return the result; None on other ranks."""
    from dtbench.data.sources import open_store
    from dtbench.evaluation.callback import EvaluationCallback
    from dtbench.runs.training import fit

    task, config = plan.task, plan.config
    store = open_store(plan.source, task.sources[plan.source], config.data.steps)
    module = plan.model.load()(config.to_dict(), _dims(task, store), plan.seed)
    data = _data_module(plan, store, module)
    protocol = _protocol(plan, store, data)
    reference = _reference(task, store)
    measured_on = replace(
        begun.task,
        dataset_id=store.metadata["dataset_id"],
        fingerprint=store.fingerprint,
        env_id=protocol.env_id,
        reference=reference,
        kept_trajectories=_kept(data, store),
    )
    _prepare_folder(plan, store, protocol, begun, measured_on)
    watch = []
    if config.evaluation.every:
        how = {"every": config.evaluation.every, "episodes": config.evaluation.episodes, "seed": plan.seed}
        watch = [EvaluationCallback(protocol, reference, task.score_target, **how)]
    record = fit(module, data, config, plan.folder, [*watch])
    if module.global_rank:
        return None
    loss = "n/a" if record.final_loss is None else f"{record.final_loss:.4f}"
    trained = f"{record.steps:,} steps in {record.wall_s:.0f} s ({record.steps_per_s:.1f}/s), loss {loss}"
    err.print(f"{number} {plan.label}: trained {trained}; evaluating", markup=False)
    scores, seeds = _evaluate(module, plan, protocol, reference)
    if watch:
        scores = replace(scores, during_training=watch[0].history)
    mean, spread = 100 * statistics.fmean(scores.normalized), 100 * statistics.pstdev(scores.normalized)
    err.print(f"{number} {plan.label}: score {mean:.1f} ± {spread:.1f} ({len(seeds)} episodes)", markup=False)
    return begun.finished(
        task=measured_on,
        initial_weights=module.weights,
        scores=scores,
        training=record,
        evaluation=EvaluationRecord(config.evaluation.episodes, seeds),
    )


def _data_module(plan: RunPlan, store: TrajectoryStore, module: OfflineModule) -> TrajectoryDataModule:
    from dtbench.data.datamodule import TrajectoryDataModule
    from dtbench.data.windows import WindowOptions

    task, config = plan.task, plan.config
    wanted: dict[str, Any] = {
        "return_scale": task.return_scale,
        "normalize_states": config.data.normalize_states,
        "delayed_reward": task.delayed_reward,
        "trajectory_ratio": task.trajectory_ratio,
        "top_fraction": task.top_fraction,
    }
    options = WindowOptions(config.training.context_length, **{**wanted, **module.window_options})
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


def _protocol(plan: RunPlan, store: TrajectoryStore, data: TrajectoryDataModule) -> Protocol:
    """Say how models are evaluated: Minari's datasets name their own environment, for others the task does."""
    from dtbench.evaluation.rollout import Protocol

    task, windows = plan.task, data.windows
    own = plan.source == "minari"
    return Protocol(
        env_id=store.metadata["env_id"] if own else task.environment(plan.source),
        max_episode_steps=task.max_episode_steps,
        return_scale=task.return_scale,
        state_mean=windows.state_mean.cpu().numpy(),
        state_std=windows.state_std.cpu().numpy(),
        delayed_reward=task.delayed_reward,
        env_kwargs=store.metadata.get("env_kwargs", {}) if own else {},
    )


def _kept(data: TrajectoryDataModule, store: TrajectoryStore) -> list[int] | None:
    """Return the trajectories that were trained on, by their number in the dataset; None stands for all."""
    kept = data.windows.kept_episodes
    return None if len(kept) == store.num_episodes else kept.tolist()


def _reference(task: Task, store: TrajectoryStore) -> ReferenceScores:
    """Return the dataset's own reference scores where it has some, else the task's."""
    own = store.metadata.get("reference")
    return task.reference if own is None else ReferenceScores(**own)


def _prepare_folder(
    plan: RunPlan, store: TrajectoryStore, protocol: Protocol, begun: Result, measured_on: TaskRecord
) -> None:
    """Describe the run beside its checkpoints; checkpoints of another configuration or other data are not resumed."""
    import shutil

    description = {
        "suite": asdict(begun.suite),
        "task": asdict(measured_on),
        "model": asdict(begun.model),
        "preset": begun.preset,
        "seed": begun.seed,
        "fingerprint": store.fingerprint,
        "dims": _dims(plan.task, store),
        "protocol": {
            "env_id": protocol.env_id,
            "max_episode_steps": protocol.max_episode_steps,
            "return_scale": protocol.return_scale,
            "state_mean": protocol.state_mean.tolist(),
            "state_std": protocol.state_std.tolist(),
            "delayed_reward": protocol.delayed_reward,
            "env_kwargs": dict(protocol.env_kwargs),
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


def _evaluate(
    module: OfflineModule, plan: RunPlan, protocol: Protocol, reference: ReferenceScores
) -> tuple[Scores, list[int]]:
    """Score the trained weights at the score target; further targets are diagnostics."""
    from dtbench.evaluation.rollout import evaluate

    task, options = plan.task, plan.config.evaluation
    device = _evaluation_device(plan.config)
    module.to(device).eval()
    per_target = {}
    for target in [task.score_target, *(task.targets if options.all_targets else ())]:
        done = evaluate(module, protocol, target, options.episodes, plan.seed, device)
        normalized = reference.normalize(done.returns).tolist()
        per_target[str(target)] = EpisodeScores(done.returns, done.lengths, normalized)
    own = per_target[str(task.score_target)]
    return Scores(own.returns, own.lengths, own.normalized, per_target), done.seeds


def _evaluation_device(config: RunConfig) -> torch.device:
    import torch

    wanted = config.hardware.accelerator
    return torch.device("cuda" if torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda") else "cpu")
