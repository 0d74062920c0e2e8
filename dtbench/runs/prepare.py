"""What runs need before they begin: pretrained weights and datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtbench.console import err, progress
from dtbench.data.sources import is_ready, open_store
from dtbench.runs.plan import RunPlan


def prepare_models(plans: Sequence[RunPlan]) -> None:
    """Find, fetch or make what the models need, e.g. pretrained weights, before anything long begins."""
    prepared: list[Any] = []
    for plan in plans:
        wanted = (plan.model, plan.config.model)
        if wanted not in prepared:
            prepared.append(wanted)
            plan.model.load().prepare(plan.config.model)


def prepare_data(plans: Sequence[RunPlan]) -> None:
    """Build or find every dataset before the first run, so that a missing one is known at once.

    Processes that want the same one wait for each other.
    """
    wanted = {(plan.source, plan.task.sources[plan.source], plan.config.data.steps) for plan in plans}
    missing = [key for key in sorted(wanted) if not is_ready(*key)]
    for number, (source, dataset, steps) in enumerate(missing, start=1):
        how = f"building {source}/{dataset} ({steps:,} steps)" if source == "local" else f"importing {source}/{dataset}"
        err.print(f"data {number}/{len(missing)}: {how}", markup=False)
        with progress(dataset) as report:
            open_store(source, dataset, steps, progress=report)
