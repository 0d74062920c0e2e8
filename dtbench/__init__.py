"""dtbench: a benchmark suite for sequence models in offline reinforcement learning.

What is listed in `__all__` is the stable interface; `import dtbench` imports nothing heavy, each name when it is used.

>>> import dtbench
>>> runs = dtbench.load_results("leaderboards/results")
>>> dtbench.suite("d4rl-short").task("hopper-medium").score_target
3600.0
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dtbench._version import __version__

if TYPE_CHECKING:
    from dtbench.api import (
        aggregate,
        compare,
        evaluate,
        leaderboard,
        list_models,
        list_suites,
        load_results,
        model,
        open_run,
        suite,
    )
    from dtbench.data.sources.own import make_dataset
    from dtbench.runs.execute import run

#: Where each name is at home; it is imported from there when it is used for the first time.
_HOMES = {
    "aggregate": "dtbench.api",
    "compare": "dtbench.api",
    "evaluate": "dtbench.api",
    "leaderboard": "dtbench.api",
    "list_models": "dtbench.api",
    "list_suites": "dtbench.api",
    "load_results": "dtbench.api",
    "make_dataset": "dtbench.data.sources.own",
    "model": "dtbench.api",
    "open_run": "dtbench.api",
    "run": "dtbench.runs.execute",
    "suite": "dtbench.api",
}

__all__ = [
    "__version__",
    "aggregate",
    "compare",
    "evaluate",
    "leaderboard",
    "list_models",
    "list_suites",
    "load_results",
    "make_dataset",
    "model",
    "open_run",
    "run",
    "suite",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dtbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
