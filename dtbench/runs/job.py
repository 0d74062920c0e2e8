"""One run: train from where it stopped, evaluate the last weights, record the result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dtbench.config import RunConfig
from dtbench.console import err, quieten_libraries
from dtbench.data.sources import open_store
from dtbench.environments.make import canonical_id
from dtbench.errors import ConfigError
from dtbench.results.files import write_result
from dtbench.results.schema import DONE, FAILED, EpisodeScores, ErrorRecord, EvaluationRecord, Result, Scores
from dtbench.runs.folder import RunFolder, set_aside
from dtbench.runs.plan import RunPlan
from dtbench.runs.record import RunRecord, begin, describe_outcome, has_finished
from dtbench.signals import Stopped, raise_if_stopped, stopped_by
from dtbench.suites.scores import ReferenceScores
from dtbench.suites.suites import Task

if TYPE_CHECKING:
    import torch

    from dtbench.data.datamodule import TrajectoryDataModule
    from dtbench.data.store import TrajectoryStore
    from dtbench.evaluation.rollout import EvaluationProtocol
    from dtbench.models.base import OfflineModule


def run_one(plan: RunPlan, number: str = "1/1") -> str:
    """Do one run and write its result; return its status.

    Every exception but an interruption is the run's own failure: it is recorded with its traceback and shown in one
    line, and the caller continues with the next run.

    Raises:
        Busy: another process is working on this run.
        Stopped, KeyboardInterrupt: after the run was recorded as interrupted.
    """
    if not _is_first_rank():  # the others train with it and have nothing to record
        _train_and_evaluate(plan, number, begin(plan))
        return DONE
    with plan.folder.lock():
        if has_finished(plan):  # by another command, while this one waited
            return DONE
        _remove_half_written(plan)
        return _run_locked(plan, number)


def _remove_half_written(plan: RunPlan) -> None:
    """Delete the temporary files of a process that was killed while it wrote; nobody else writes under the lock."""
    result = plan.result_path
    for file in (*plan.folder.path.glob(".*.part"), *result.parent.glob(f".{result.name}.*")):
        file.unlink(missing_ok=True)


def _run_locked(plan: RunPlan, number: str) -> str:
    quieten_libraries()
    result = begin(plan)
    try:
        result = _train_and_evaluate(plan, number, result)
    except (Stopped, KeyboardInterrupt, SystemExit) as stop:  # Lightning turns KeyboardInterrupt into SystemExit
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            result = result.failed(ErrorRecord.from_exception(stop))
        else:
            write_result(plan.result_path, result.interrupted())
            if isinstance(stop, Stopped):
                raise
            raise KeyboardInterrupt from None
    except Exception as failure:  # noqa: BLE001 - whatever a model raises must not stop the other runs
        if stopped_by() is not None:  # the signal came amid a library's clean-up, which then failed
            write_result(plan.result_path, result.interrupted())
            raise_if_stopped()
        result = result.failed(ErrorRecord.from_exception(failure))
    write_result(plan.result_path, result)
    err.print(describe_outcome(plan, number), markup=False, style="red" if result.status == FAILED else None)
    return result.status


def _is_first_rank() -> bool:
    return int(os.environ.get("LOCAL_RANK", 0)) == int(os.environ.get("NODE_RANK", 0)) == 0


def _train_and_evaluate(plan: RunPlan, number: str, result: Result) -> Result:
    """Train from the last checkpoint on, evaluate the last weights, and return the result with what was measured."""
    from dtbench.evaluation.callback import EvaluationCallback
    from dtbench.runs.training import fit

    task, config = plan.task, plan.config
    store = open_store(plan.source, task.sources[plan.source], config.data.steps)
    dims = model_dims(task, store)
    module = plan.model.load()(config, dims, plan.seed)
    data = _data_module(plan, store, module)
    protocol = _evaluation_protocol(plan, store, data)
    reference = _reference(task, store)
    described = replace(
        result.task,
        dataset_id=str(store.metadata["dataset_id"]),
        fingerprint=store.fingerprint,
        env_id=canonical_id(protocol.env_id),
        reference=reference,
        kept_trajectories=_kept(data, store),
    )
    if _is_first_rank():
        record = RunRecord(
            suite=result.suite,
            task=described,
            model=result.model,
            model_address=plan.model.address,
            preset=plan.preset,
            seed=plan.seed,
            dims=dims,
            protocol=protocol.to_dict(),
        )
        _prepare_folder(plan.folder, record)
    watch = []
    if config.evaluation.every:
        watch = [
            EvaluationCallback(
                protocol,
                reference,
                task.score_target,
                every=config.evaluation.every,
                episodes=config.evaluation.episodes,
                seed=plan.seed,
                precision=config.hardware.precision,
            )
        ]
    training = fit(module, data, config, plan.folder, [*watch])
    if module.global_rank:
        return result
    loss = "n/a" if training.final_loss is None else f"{training.final_loss:.4f}"
    trained = f"{training.steps:,} steps in {training.wall_s:.0f} s ({training.steps_per_s:.1f}/s), loss {loss}"
    err.print(f"{number} {plan.label}: trained {trained}; evaluating", markup=False)
    targets = _targets(plan, store)
    per_target, seeds = _evaluate(module, plan, protocol, reference, targets)
    scored = per_target[str(task.score_target)]
    return result.finished(
        task=described,
        initial_weights=module.initial_weights,
        scores=Scores(
            scored.returns,
            scored.lengths,
            scored.normalized,
            per_target,
            list(watch[0].history) if watch else None,
        ),
        training=training,
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


def model_dims(task: Task, store: TrajectoryStore) -> dict[str, int]:
    """Return `observation_dim`, `action_dim` and `max_timesteps` of a task's data."""
    return {
        "observation_dim": store.observation_dim,
        "action_dim": store.action_dim,
        "max_timesteps": max(task.max_episode_steps, int(store.episode_lengths.max())),
    }


def _evaluation_protocol(plan: RunPlan, store: TrajectoryStore, data: TrajectoryDataModule) -> EvaluationProtocol:
    """Say how the model is evaluated: on windows like those it was trained on.

    Minari's datasets name their own environment, for others the task does.
    """
    from dtbench.evaluation.rollout import EvaluationProtocol

    windows, own = data.windows, plan.source == "minari"
    return EvaluationProtocol(
        env_id=store.metadata["env_id"] if own else plan.task.environment(plan.source),
        max_episode_steps=plan.task.max_episode_steps,
        return_scale=windows.options.return_scale,
        state_mean=windows.state_mean.cpu().numpy(),
        state_std=windows.state_std.cpu().numpy(),
        delayed_reward=windows.options.delayed_reward,
        env_kwargs=store.metadata.get("env_kwargs", {}) if own else {},
    )


def _kept(data: TrajectoryDataModule, store: TrajectoryStore) -> list[int] | None:
    """Return the trajectories that were trained on, by their number in the dataset; None stands for all."""
    kept = data.windows.kept_episodes
    return None if len(kept) == store.num_episodes else [int(episode) for episode in kept]


def _reference(task: Task, store: TrajectoryStore) -> ReferenceScores:
    """Return the dataset's own reference scores where it has some, else the task's."""
    own = store.metadata.get("reference")
    return task.reference if own is None else ReferenceScores(**own)


def _prepare_folder(folder: RunFolder, record: RunRecord) -> None:
    """Describe the run beside its checkpoints; checkpoints of another configuration or other data are not resumed."""
    if folder.record.exists():
        try:
            before = RunRecord.read(folder)
        except ConfigError as error:
            set_aside(folder.record, str(error))
            _remove_checkpoints(folder, "whose run is unknown")
        else:
            if not record.is_same_training(before):
                _remove_checkpoints(folder, "of other data or another configuration")
    record.write(folder)


def _remove_checkpoints(folder: RunFolder, whose: str) -> None:
    found = [file for file in (folder.latest, folder.final, folder.training) if file.exists()]
    if found:
        err.print(f"{folder.path} has checkpoints {whose}; training starts afresh.", markup=False)
    for file in found:
        file.unlink()
    for curves in ("csv", "tensorboard"):
        shutil.rmtree(folder.path / curves, ignore_errors=True)


def _targets(plan: RunPlan, store: TrajectoryStore) -> list[float]:
    """Return the returns to ask for: the score target, and those that are diagnostics."""
    task, options = plan.task, plan.config.evaluation
    further = list(task.targets) if options.all_targets else []
    if options.data_targets and plan.model.conditions_on_return:
        returns = store.episode_returns
        further += [
            float(f"{target:.4g}") for target in np.linspace(returns.min(), returns.max(), options.data_targets)
        ]
    return list(dict.fromkeys([task.score_target, *further]))


def _evaluate(
    module: OfflineModule,
    plan: RunPlan,
    protocol: EvaluationProtocol,
    reference: ReferenceScores,
    targets: Sequence[float],
) -> tuple[dict[str, EpisodeScores], list[int]]:
    """Evaluate the trained weights at each target."""
    from dtbench.evaluation.rollout import evaluate

    options = plan.config.evaluation
    device, precision = _evaluation_device(plan.config), plan.config.hardware.precision
    module.to(device).eval()
    per_target = {}
    for target in targets:
        done = evaluate(module, protocol, target, options.episodes, plan.seed, device, precision=precision)
        normalized = reference.normalize(done.returns).tolist()
        per_target[str(target)] = EpisodeScores(done.returns, done.lengths, normalized)
    return per_target, done.seeds


def _evaluation_device(config: RunConfig) -> torch.device:
    import torch

    wanted = config.hardware.accelerator
    return torch.device("cuda" if torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda") else "cpu")
