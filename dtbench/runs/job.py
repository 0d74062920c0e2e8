"""One run: train from where it stopped, evaluate the last weights, record the result."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dtbench.config import RunConfig
from dtbench.console import err, quieten_libraries
from dtbench.data.sources import open_store
from dtbench.environments.make import canonical_id
from dtbench.errors import ConfigError
from dtbench.hardware import is_first_rank
from dtbench.results.files import write_result
from dtbench.results.schema import (
    DONE,
    FAILED,
    EpisodeScores,
    ErrorRecord,
    EvaluationRecord,
    Result,
    Scores,
    TaskRecord,
    TrainingRecord,
)
from dtbench.runs.folder import RunFolder, set_aside
from dtbench.runs.plan import RunPlan
from dtbench.runs.record import RunRecord, begin, describe_outcome, has_finished
from dtbench.signals import Stopped, raise_if_stopped, stopped_by
from dtbench.spaces import Discrete, Spaces
from dtbench.suites.scores import ReferenceScores
from dtbench.suites.suites import Task

if TYPE_CHECKING:
    import torch

    from dtbench.data.datamodule import TrajectoryDataModule
    from dtbench.data.store import TrajectoryStore
    from dtbench.data.windows import Windows
    from dtbench.evaluation.callback import EvaluationCallback
    from dtbench.evaluation.rollout import EvaluationProtocol
    from dtbench.models.base import OfflineModule


#: How a run may end without a result of its own. Lightning turns KeyboardInterrupt into SystemExit.
_ENDINGS = (Stopped, KeyboardInterrupt, SystemExit, Exception)


def run_one(plan: RunPlan, number: str = "1/1") -> str:
    """Do one run and write its result; return its status.

    Every exception but an interruption is the run's own failure: it is recorded with its traceback and shown in one
    line, and the caller continues with the next run.

    Raises:
        Busy: another process is working on this run.
        Stopped, KeyboardInterrupt: after the run was recorded as interrupted.
    """
    return run_seeds([plan], [number])[0]


def run_seeds(plans: Sequence[RunPlan], numbers: Sequence[str]) -> list[str]:
    """Do runs that differ in their seeds only, trained as one, and write a result for each; return their statuses.

    Their evaluations follow one after the other, and a failing one harms no other.

    Args:
        plans: the runs; for one alone this is `run_one`.
        numbers: of each, for messages.

    Raises:
        Busy: another process is working on one of them.
        Stopped, KeyboardInterrupt: after all that had not ended were recorded as interrupted.
    """
    if not is_first_rank(plans[0].config.hardware):  # the others train and evaluate with it, and have nothing to record
        runs = [_open(plan, number, begin(plan)) for plan, number in zip(plans, numbers, strict=True)]
        for run, training in zip(runs, _train(runs), strict=True):
            if isinstance(training, TrainingRecord):
                _evaluate(run)
        return [DONE] * len(plans)
    with ExitStack() as locks:
        for plan in plans:
            locks.enter_context(plan.folder.lock())
        left = {index: begin(plan) for index, plan in enumerate(plans) if not has_finished(plan)}
        for index in left:
            _remove_half_written(plans[index])
        return _run_locked(plans, numbers, left) if left else [DONE] * len(plans)


def _remove_half_written(plan: RunPlan) -> None:
    """Delete the temporary files of a process that was killed while it wrote; nobody else writes under the lock."""
    result = plan.result_path
    for file in (*plan.folder.path.glob(".*.part"), *result.parent.glob(f".{result.name}.*")):
        file.unlink(missing_ok=True)


def _run_locked(plans: Sequence[RunPlan], numbers: Sequence[str], left: dict[int, Result]) -> list[str]:
    """Do the runs that are `left` (by their place); those that another command finished before are done."""
    quieten_libraries()
    statuses = [DONE] * len(plans)

    def end(index: int, result: Result) -> None:
        write_result(plans[index].result_path, result)
        style = "red" if result.status == FAILED else None
        err.print(describe_outcome(plans[index], numbers[index]), markup=False, style=style)
        statuses[index] = result.status
        del left[index]

    def failure(stop: BaseException) -> ErrorRecord:
        return _failure(stop, [(plans[index], result) for index, result in left.items()])

    try:
        runs: dict[int, _Run] = {}
        for index, result in left.items():
            first = next(iter(runs.values()), None)
            runs[index] = _open(plans[index], numbers[index], result, None if first is None else first.data.windows)
        trained = _train(list(runs.values()))
    except _ENDINGS as stop:
        error = failure(stop)
        for index in list(left):
            end(index, left[index].failed(error))
        return statuses
    for (index, run), training in zip(runs.items(), trained, strict=True):
        try:
            result = _result(run, training, left[index])
        except _ENDINGS as stop:
            result = left[index].failed(failure(stop))
        end(index, result)
    return statuses


def _failure(stop: BaseException, left: Sequence[tuple[RunPlan, Result]]) -> ErrorRecord:
    """Return what a failure is recorded as; an interruption is recorded for all that are left, and raised again."""
    is_exit = isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt)
    # A signal may also come amid a library's clean-up, which then fails.
    if is_exit or (isinstance(stop, Exception) and stopped_by() is None):
        return ErrorRecord.from_exception(stop)
    for plan, result in left:
        write_result(plan.result_path, result.interrupted())
    if isinstance(stop, Stopped):
        raise stop
    raise_if_stopped()
    raise KeyboardInterrupt from None


@dataclass(frozen=True)
class _Run:
    """A run whose data and model are open.

    Attributes:
        number: for messages.
        task: the plan's task with what is known once the data are open.
        targets: the returns to ask for.
        watch: evaluates the model during training, if that is wanted.
    """

    plan: RunPlan
    number: str
    task: TaskRecord
    module: OfflineModule
    data: TrajectoryDataModule
    protocol: EvaluationProtocol
    targets: list[float]
    watch: EvaluationCallback | None


def _open(plan: RunPlan, number: str, result: Result, windows: Windows | None = None) -> _Run:
    """Open the run's data, build its model, and describe it in its folder.

    Args:
        plan: the run.
        number: for messages.
        result: its record so far.
        windows: those of a run that differs in its seed only, if there is one.
    """
    from dtbench.evaluation.callback import EvaluationCallback

    task, config = plan.task, plan.config
    store = open_store(plan.source, task.sources[plan.source], config.data.steps)
    spaces = spaces_of(task, store)
    module = plan.model.load()(config, spaces, plan.seed)
    data = _data_module(plan, store, module, windows)
    module.observe_data(data.windows.steps())
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
    if is_first_rank(config.hardware):
        record = RunRecord(
            suite=result.suite,
            task=described,
            model=result.model,
            model_address=plan.model.address,
            preset=plan.preset,
            seed=plan.seed,
            spaces=spaces.to_dict(),
            protocol=protocol.to_dict(),
        )
        _prepare_folder(plan.folder, record)
    watch = None
    if config.evaluation.every:
        watch = EvaluationCallback(
            protocol,
            reference,
            task.score_target,
            every=config.evaluation.every,
            episodes=config.evaluation.episodes,
            seed=plan.seed,
            precision=config.hardware.precision,
        )
    return _Run(plan, number, described, module, data, protocol, _targets(plan, store), watch)


def _train(runs: Sequence[_Run]) -> list[TrainingRecord | ErrorRecord]:
    """Train from the last checkpoints on."""
    from dtbench.runs.stack_training import Seed, fit_seeds

    seeds = [Seed(run.module, run.data, run.plan.folder, run.watch) for run in runs]
    return fit_seeds(seeds, runs[0].plan.config)


def _result(run: _Run, training: TrainingRecord | ErrorRecord, result: Result) -> Result:
    """Evaluate the last weights, and return the result with what was measured."""
    if isinstance(training, ErrorRecord):
        return result.failed(training)
    plan = run.plan
    loss = "n/a" if training.final_loss is None else f"{training.final_loss:.4f}"
    trained = f"{training.steps:,} steps in {training.wall_s:.0f} s ({training.steps_per_s:.1f}/s), loss {loss}"
    err.print(f"{run.number} {plan.label}: trained {trained}; evaluating", markup=False)
    per_target, seeds = _evaluate(run)
    scored = per_target[str(plan.task.score_target)]
    return result.finished(
        task=run.task,
        initial_weights=run.module.initial_weights,
        scores=Scores(
            scored.returns,
            scored.lengths,
            scored.normalized,
            per_target,
            list(run.watch.history) if run.watch else None,
        ),
        training=training,
        evaluation=_evaluation_record(run, seeds),
    )


def _evaluation_record(run: _Run, seeds: list[int]) -> EvaluationRecord:
    """Say how the model was evaluated."""
    options, horizon = run.plan.config.evaluation, _horizon(run.plan)
    actions = None
    if isinstance(run.module.spaces.action, Discrete):
        random = f", {options.random_actions:.3g} of them at random" if options.random_actions else ""
        actions = f"{options.actions}{random}"
    cut = horizon if horizon < run.plan.task.max_episode_steps else None
    return EvaluationRecord(options.episodes, seeds, actions, cut)


def _data_module(
    plan: RunPlan, store: TrajectoryStore, module: OfflineModule, windows: Windows | None
) -> TrajectoryDataModule:
    from dtbench.data.datamodule import TrajectoryDataModule
    from dtbench.data.windows import WindowOptions

    task, config = plan.task, plan.config
    wanted: dict[str, Any] = {
        "return_scale": task.return_scale,
        "normalize_states": config.data.normalize_states,
        "delayed_reward": task.delayed_reward,
        "near_end": config.data.near_end,
        "return_includes_reward": config.data.return_includes_reward,
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
        windows=windows,
    )


def spaces_of(task: Task, store: TrajectoryStore) -> Spaces:
    """Return what the agent sees and does in a task's data, and how long its episodes can be."""
    longest = int(store.episode_lengths.max())
    return Spaces(store.observation_space, store.action_space, max(task.max_episode_steps, longest), longest)


def environment_of(plan: RunPlan, store: TrajectoryStore) -> tuple[str, dict[str, Any]]:
    """Return the environment of the evaluation, and its constructor's arguments.

    Minari's datasets name their own; for others the task does.
    """
    if plan.source == "minari":
        return str(store.metadata["env_id"]), dict(store.metadata.get("env_kwargs", {}))
    return plan.task.environment(plan.source), dict(plan.task.env_kwargs)


def _evaluation_protocol(plan: RunPlan, store: TrajectoryStore, data: TrajectoryDataModule) -> EvaluationProtocol:
    """Say how the model is evaluated: on windows like those it was trained on."""
    from dtbench.evaluation.rollout import EvaluationProtocol

    windows = data.windows
    env_id, env_kwargs = environment_of(plan, store)
    return EvaluationProtocol(
        env_id=env_id,
        max_episode_steps=_horizon(plan),
        return_scale=windows.options.return_scale,
        state_mean=windows.state_mean.cpu().numpy(),
        state_std=windows.state_std.cpu().numpy(),
        delayed_reward=windows.options.delayed_reward,
        env_kwargs=env_kwargs,
        actions=plan.config.evaluation.actions,
        random_actions=plan.config.evaluation.random_actions,
    )


def _horizon(plan: RunPlan) -> int:
    """Return the steps after which an evaluated episode is cut."""
    limit = plan.config.evaluation.max_episode_steps
    return min(limit, plan.task.max_episode_steps) if limit else plan.task.max_episode_steps


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


def _evaluate(run: _Run) -> tuple[dict[str, EpisodeScores], list[int]]:
    """Evaluate the trained weights at each target."""
    from dtbench.evaluation.rollout import evaluate_together

    config, seed = run.plan.config, run.plan.seed
    episodes, precision, device = config.evaluation.episodes, config.hardware.precision, _evaluation_device(config)
    run.module.to(device).eval()
    per_target = {}
    for target in run.targets:
        done = evaluate_together(run.module, run.protocol, target, episodes, seed, device, precision)
        normalized = run.task.reference.normalize(done.returns).tolist()
        per_target[str(target)] = EpisodeScores(done.returns, done.lengths, normalized)
    return per_target, done.seeds


def _evaluation_device(config: RunConfig) -> torch.device:
    import torch

    wanted = config.hardware.accelerator
    if torch.cuda.is_available() and wanted in ("auto", "gpu", "cuda"):
        return torch.device("cuda", torch.cuda.current_device())  # each process of a training has its own
    return torch.device("cpu")
