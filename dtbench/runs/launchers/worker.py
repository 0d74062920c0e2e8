"""One run in a process of its own: `python -m dtbench.runs.launchers.worker SPEC.json`.

Lightning's DDP starts this command again for the other ranks, which is why a run on several devices gets its own
process: the other ranks then repeat this run and nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from dtbench.config import RunConfig, from_dict
from dtbench.registry import model_entry
from dtbench.results.schema import DONE
from dtbench.runs.job import run_one
from dtbench.runs.plan import RunPlan
from dtbench.suites.suites import load_suite


def to_spec(plan: RunPlan) -> dict[str, Any]:
    """Describe a plan in plain JSON values."""
    return {
        "model": plan.model.name,
        "suite": plan.suite.file,
        "task": plan.task.id,
        "source": plan.source,
        "preset": plan.preset,
        "config": plan.config.to_dict(),
        "is_preset_config": plan.is_preset_config,
        "seed": plan.seed,
        "output": str(plan.output.resolve()),
    }


def from_spec(spec: dict[str, Any]) -> RunPlan:
    """Rebuild the plan that `to_spec` described."""
    entry, suite = model_entry(spec["model"]), load_suite(spec["suite"])
    config: RunConfig = from_dict(spec["config"], entry.load().Config)
    return RunPlan(
        model=entry,
        suite=suite,
        task=suite.task(spec["task"]),
        source=spec["source"],
        preset=spec["preset"],
        config=config,
        is_preset_config=spec["is_preset_config"],
        seed=spec["seed"],
        output=Path(spec["output"]),
    )


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped worker records itself as interrupted
    plan = from_spec(json.loads(Path(sys.argv[1]).read_text()))
    number = os.environ.get("DTBENCH_RUN_NUMBER", "1/1")
    try:
        return 0 if run_one(plan, number) == DONE else 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
