"""Do the planned runs that are not done yet, here or side by side, after everything they need is there."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dtbench.console import err, progress
from dtbench.errors import ConfigError, UnknownNameError
from dtbench.results.schema import DONE, Result
from dtbench.runs.job import run_one
from dtbench.runs.plan import RunPlan, default_preset, plan_runs
from dtbench.suites.suites import Suite, load_suite

EXISTING = ("skip", "rerun", "fail")
LAUNCHERS = {"local": "dtbench.runs.launchers.local", "ray": "dtbench.runs.launchers.ray"}
#: More processes than this wait for memory rather than for cores.
_MOST_JOBS = 8
#: Training steps below which a run is over before a process of its own has imported torch.
_WORTH_A_PROCESS = 100


@dataclass(frozen=True)
class RunSummary:
    """What `run` did: the results it can show now, and how many runs ended how."""

    results: list[Result]
    finished: int
    skipped: int
    failed: int


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
    """Return how many runs go side by side: one on a GPU or if all are short; else one per core, up to eight.

    These networks are small: two runs of one thread each are faster than two runs of two threads one after the other.
    All planned runs count, finished ones too, so that the same command gives a resumed run the same number of threads:
    the last bits depend on it.
    """
    import torch

    if all(plan.config.training.steps < _WORTH_A_PROCESS for plan in plans):
        return 1
    wanted = {plan.config.hardware.accelerator for plan in plans}
    if (torch.cuda.is_available() and wanted & {"auto", "gpu", "cuda"}) or any(
        p.config.hardware.devices > 1 for p in plans
    ):
        return 1
    return max(1, min(len(plans), os.cpu_count() or 1, _MOST_JOBS))


def finished_results(plans: Sequence[RunPlan]) -> list[Result]:
    """Read the results of the planned runs that are there."""
    from dtbench.results.files import read_result

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
    from dtbench.results.files import read_or_set_aside

    result = read_or_set_aside(plan.result_path)
    if result is None or result.model.config_hash != plan.config.hash():
        return None
    return result.status


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
        how = f"building {source}/{dataset} ({steps:,} steps)" if source == "local" else f"importing {source}/{dataset}"
        err.print(f"data {number}/{len(missing)}: {how}", markup=False)
        with progress(dataset) as report:
            open_store(source, dataset, steps, progress=report)
