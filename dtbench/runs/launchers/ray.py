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
from dtbench.runs.plan import RunPlan
from dtbench.runs.record import describe_outcome, identify_result, record_without_scores


def run_all(plans: Sequence[RunPlan], jobs: int) -> list[str]:
    """Do the runs, at most `jobs` per node's share of CPUs, and return their statuses in order.

    Each run asks for its devices as GPUs where the cluster has any, and for an equal share of a node's CPUs. A task
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
        for index, plan in enumerate(plans):
            gpus = plan.config.hardware.devices if has_gpu else 0
            remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_run)
            tasks[remote.remote(plan.to_dict())] = index
        return _collect(ray, tasks, plans)
    finally:
        ray.shutdown()


def _run(content: dict[str, Any]) -> str:
    """Do one run on a node, in a process of its own."""
    return local.run_all([RunPlan.from_dict(content)], 1)[0]


def _collect(ray: Any, tasks: dict[Any, int], plans: Sequence[RunPlan]) -> list[str]:
    statuses = [FAILED] * len(plans)
    started, before = now(), [identify_result(plan) for plan in plans]
    waiting = list(tasks)
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        index = tasks[done]
        plan = plans[index]
        try:
            statuses[index] = ray.get(done)
        except ray.exceptions.RayError as error:
            if identify_result(plan) == before[index]:
                record_without_scores(plan, FAILED, started, ErrorRecord.from_exception(error))
        if statuses[index] != DONE or identify_result(plan) != before[index]:
            err.print(describe_outcome(plan, f"{index + 1}/{len(plans)}"), markup=False)
    return statuses
