"""Do the planned runs that are not done yet, here or side by side, after everything they need has been prepared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtbench.config import HardwareConfig
from dtbench.console import err
from dtbench.errors import ConfigError, ResultError, UnknownNameError
from dtbench.hardware import is_first_rank, started_by_srun, started_by_torchrun
from dtbench.results.expectations import Verdict, check
from dtbench.results.files import read_or_set_aside, read_result
from dtbench.results.schema import DONE, Result
from dtbench.runs.folder import Busy
from dtbench.runs.plan import RunPlan, RunRequest, plan_runs
from dtbench.runs.sweep import noted
from dtbench.runs.work import Work, check_stackable, divide, numbered
from dtbench.suites.suites import Suite

#: More processes than this wait for memory rather than for cores.
_MOST_JOBS = 8
#: Training steps below which a run is over before a process of its own has imported torch.
_WORTH_A_PROCESS = 100


@dataclass(frozen=True)
class RunSummary:
    """What `run` did.

    Attributes:
        results: the planned runs' results that exist now, failed and interrupted ones included.
        finished, skipped, failed: how many runs ended how; skipped ones were finished before.
        verdicts: whether the suite's expectations hold, where it states some.
    """

    results: list[Result]
    finished: int
    skipped: int
    failed: int
    verdicts: list[Verdict]

    @property
    def ok(self) -> bool:
        """Whether no run failed and no expectation is contradicted."""
        return not self.failed and all(verdict.holds is not False for verdict in self.verdicts)


def run(suite: str | Suite = RunRequest.suite, models: Sequence[str] | str = (), **options: Any) -> RunSummary:
    """Train, evaluate and record `models` on the tasks of `suite`: the command `dtbench run` as a function.

    Args:
        options: the further attributes of `RunRequest`, e.g. `preset="quick"`, `seeds=range(5)`, `output="results"`.

    Raises:
        DtbenchError: a user's mistake, found before the first run.
    """
    for name in options:
        if name not in RunRequest.__dataclass_fields__:
            raise UnknownNameError("option of run()", name, RunRequest.__dataclass_fields__)
    for name in ("output", "file"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    request = RunRequest(suite=suite, models=[models] if isinstance(models, str) else list(models), **options)
    return execute(request, plan_runs(request))


def execute(request: RunRequest, plans: Sequence[RunPlan]) -> RunSummary:
    """Do the planned runs; a failing one is recorded and the others continue.

    Raises:
        ConfigError: `existing` is `fail` and a result exists; hardware or a model that cannot work here.
        ResultError: a result could not be written.
        Stopped, KeyboardInterrupt: after the current runs were recorded as interrupted.
    """
    todo = _not_done(plans, request.existing)
    skipped = len(plans) - len(todo)
    if skipped:
        err.print(f"{skipped} of {len(plans)} runs are finished already and are skipped.")
    statuses = _do(request, plans, todo) if todo else []
    failed = sum(status != DONE for status in statuses)
    results = read_results(plans)
    verdicts = check(plans[0].suite, results) if plans and plans[0].suite.expected else []
    return RunSummary(results, len(todo) - failed, skipped, failed, verdicts)


def _do(request: RunRequest, plans: Sequence[RunPlan], todo: Sequence[RunPlan]) -> list[str]:
    """Do the runs of `todo`, which are those of `plans` that are not done, and return their statuses."""
    from dtbench.runs.preflight import check_hardware, check_models
    from dtbench.runs.prepare import prepare_data, prepare_models

    _check_that_it_is_alone(todo)
    if request.launcher == "local":
        check_hardware(todo)
    if request.stack_seeds:
        check_stackable(todo)
    prepare_models(todo)
    prepare_data(todo)
    divided = divide(plans, request.stack_seeds)
    works = numbered(_only(divided, todo))
    needed = check_models(works)
    with noted(request.output, todo):
        return _launch(request, works, needed, request.jobs or default_jobs(divided))


def _launch(request: RunRequest, works: Sequence[Work], needed: Sequence[int], jobs: int) -> list[str]:
    """Do the runs where the request says, and return their statuses.

    Args:
        request: the user's.
        works: the runs of each process.
        needed: bytes of memory of each.
        jobs: processes side by side on this machine.
    """
    if request.launcher == "ray":
        from dtbench.runs.launchers import ray

        options = ray.Options(
            address=request.address,
            jobs=request.jobs,
            retries=request.retries,
            fetch_checkpoints=request.fetch_checkpoints,
            afresh=request.existing == "rerun",
        )
        return ray.run_all(works, needed, options)
    from dtbench.runs.preflight import fit_into_memory

    jobs = fit_into_memory(works, needed, jobs, asked_for=request.jobs is not None)
    together = any(_is_part_of_several(plan.config.hardware) for work in works for plan in work.plans)
    worth_it = any(_is_worth_a_process(plan) for work in works for plan in work.plans)
    if together or (jobs == 1 and not worth_it):
        return _one_by_one(works)
    from dtbench.runs.launchers import local

    return local.run_all(works, jobs)


def _only(divided: Sequence[Sequence[RunPlan]], todo: Sequence[RunPlan]) -> list[list[RunPlan]]:
    """Return what is left of the processes' runs when only those in `todo` are done."""
    wanted = {id(plan) for plan in todo}
    left = ([plan for plan in plans if id(plan) in wanted] for plans in divided)
    return [plans for plans in left if plans]


def _one_by_one(works: Sequence[Work]) -> list[str]:
    """Do short runs in this process; those that another command is working on are waited for at the end."""
    statuses, busy = list[str](), list[Work]()
    for work in works:
        try:
            statuses += work.do()
        except Busy:
            busy.append(work)
    if busy:
        from dtbench.runs.launchers.local import run_all

        statuses += run_all(busy, 1)
    return statuses


def _is_part_of_several(hardware: HardwareConfig) -> bool:
    """Say whether this command was started several times for one run: on other nodes, by torchrun, or by srun."""
    by_srun = hardware.devices > 1 and started_by_srun()
    return hardware.num_nodes > 1 or started_by_torchrun() or by_srun


def _check_that_it_is_alone(todo: Sequence[RunPlan]) -> None:
    """See that commands which train together have one run: their ranks meet once.

    Raises:
        ConfigError: several runs.
    """
    if len(todo) > 1 and any(_is_part_of_several(plan.config.hardware) for plan in todo):
        raise ConfigError(
            f"Several nodes, or processes of torchrun or srun, train one run at a time, and {len(todo)} are planned; "
            "`dtbench run --dry-run --shell` prints a command line for each."
        )


def _is_worth_a_process(plan: RunPlan) -> bool:
    """Say whether a run is worth a process of its own, whose crash harms no other run."""
    return plan.config.training.steps >= _WORTH_A_PROCESS or plan.config.hardware.devices > 1


def default_jobs(divided: Sequence[Sequence[RunPlan]]) -> int:
    """Return how many processes go side by side: one on a GPU or if all are short; else one per core, up to eight.

    These networks are small: two runs of one thread each are faster than two runs of two threads one after the other.
    All planned runs count, finished ones too, so that the same command gives a resumed run the same number of threads:
    the last bits depend on it.

    Args:
        divided: the runs of each process.
    """
    import torch

    plans = [plan for together in divided for plan in together]
    if not any(_is_worth_a_process(plan) for plan in plans):
        return 1
    wanted = {plan.config.hardware.accelerator for plan in plans}
    on_gpu = torch.cuda.is_available() and wanted & {"auto", "gpu", "cuda"}
    if on_gpu or any(plan.config.hardware.devices > 1 for plan in plans):
        return 1
    return max(1, min(len(divided), os.cpu_count() or 1, _MOST_JOBS))


def read_results(plans: Sequence[RunPlan]) -> list[Result]:
    """Read the results of the planned runs that exist; one that cannot be read is named and left out."""
    results = []
    for plan in plans:
        if plan.result_path.is_file():
            try:
                results.append(read_result(plan.result_path))
            except ResultError as error:
                err.print(str(error), markup=False)
    return results


def _not_done(plans: Sequence[RunPlan], existing: str) -> list[RunPlan]:
    todo = []
    for plan in plans:
        if _status(plan) != DONE:
            todo.append(plan)
        elif existing == "fail":
            raise ConfigError(f"{plan.result_path} exists; choose --existing skip or rerun, or another --output.")
        elif existing == "rerun":
            if is_first_rank(plan.config.hardware):
                _forget(plan)
            todo.append(plan)
    return todo


def _status(plan: RunPlan) -> str | None:
    """Return the status of the run's result, or None; an unreadable result is set aside and planned again."""
    result = read_or_set_aside(plan.result_path)
    if result is None or result.model.config_hash != plan.config.hash():
        return None
    return result.status


def _forget(plan: RunPlan) -> None:
    """Delete a finished run, unless another command is already working on it."""
    try:
        with plan.folder.lock():
            plan.result_path.unlink(missing_ok=True)
            plan.folder.clear()
    except Busy:
        err.print(f"{plan.label}: another command is working on it already", markup=False)
