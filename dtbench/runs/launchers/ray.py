"""Runs as tasks of a Ray cluster (extra `ray`).

The cluster is the one `RAY_ADDRESS` names, or one of this machine. The output folder and `DTBENCH_HOME` must lie on a
file system that all nodes share: the data are built before the first run starts, and each run writes its own result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from dtbench.console import err
from dtbench.errors import ConfigError
from dtbench.results.provenance import now
from dtbench.results.schema import DONE, FAILED, ErrorRecord
from dtbench.runs.launchers import local
from dtbench.runs.record import describe_outcome, identify_result, record_without_scores
from dtbench.runs.work import Work


def run_all(works: Sequence[Work], jobs: int) -> list[str]:
    """Do the runs, at most `jobs` per node's share of CPUs, and return the statuses of all runs in order.

    Each process asks for its devices as GPUs where the cluster has any, and for an equal share of a node's CPUs. A task
    that dies without leaving a result is recorded as failed.

    Raises:
        ConfigError: Ray is not installed or cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("The launcher ray needs Ray: pip install 'dtbench[ray]'.") from error
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level="error")
    except ConnectionError as error:
        raise ConfigError(f"The Ray cluster of RAY_ADDRESS cannot be reached: {error}.") from error
    try:
        node = ray.nodes()[0]["Resources"]
        cpus = max(1, int(node.get("CPU", 1)) // max(1, jobs))
        has_gpu = ray.cluster_resources().get("GPU", 0) > 0
        tasks = {}
        for index, work in enumerate(works):
            gpus = work.plans[0].config.hardware.devices if has_gpu else 0
            remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_run)
            tasks[remote.remote(work.to_dict())] = index
        return _collect(ray, tasks, works)
    finally:
        ray.shutdown()


def _run(content: dict[str, Any]) -> list[str]:
    """Do the runs of one process on a node."""
    return local.run_all([Work.from_dict(content)], 1)


def _collect(ray: Any, tasks: dict[Any, int], works: Sequence[Work]) -> list[str]:
    statuses = [[FAILED] * len(work.plans) for work in works]
    started, before = now(), [[identify_result(plan) for plan in work.plans] for work in works]
    waiting = list(tasks)
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        index = tasks[done]
        work, failure = works[index], None
        try:
            statuses[index] = ray.get(done)
        except ray.exceptions.RayError as error:
            failure = ErrorRecord.from_exception(error)
        for plan, number, status, old in zip(work.plans, work.numbers, statuses[index], before[index], strict=True):
            if failure is not None and identify_result(plan) == old:
                record_without_scores(plan, FAILED, started, failure)
            if status != DONE or identify_result(plan) != old:
                err.print(describe_outcome(plan, number), markup=False)
    return [status for of_work in statuses for status in of_work]
