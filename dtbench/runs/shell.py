"""Runs as command lines: for a cluster's scheduler, which starts each by itself (`dtbench run --dry-run --shell`)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dtbench.errors import ConfigError
from dtbench.runs.plan import RunPlan, RunRequest
from dtbench.runs.record import has_finished


def command_lines(request: RunRequest, plans: Sequence[RunPlan], per_line: int = 1) -> list[str]:
    """Return a shell's line for every `per_line` runs that are not finished; each line can be started on any machine.

    Paths are absolute. A line's runs follow one another, whether or not the ones before them succeed.

    Raises:
        ConfigError: the suite exists in Python only.
    """
    left = [plan for plan in plans if request.existing == "rerun" or not has_finished(plan)]
    commands = [_command(request, plan) for plan in left]
    return ["; ".join(commands[first : first + per_line]) for first in range(0, len(commands), per_line)]


def _command(request: RunRequest, plan: RunPlan) -> str:
    if not plan.suite.file:
        raise ConfigError("--shell needs a suite that has a file or ships with dtbench.")
    suite = plan.suite.name if request.suite == plan.suite.name else plan.suite.file
    words = ["dtbench", "run", "--suite", suite, "--task", plan.task.id]
    words += ["--model", plan.model.address, "--preset", plan.preset, "--seeds", str(plan.seed)]
    words += ["--source", plan.source, "--output", str(request.output.resolve()), "--jobs", "1"]
    if request.existing != "skip":
        words += ["--existing", request.existing]
    if request.file is not None:
        words += ["--config", str(request.file.resolve())]
    for override in request.overrides:
        words += ["--set", override]
    return shlex.join(words)
