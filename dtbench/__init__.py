"""dtbench: a benchmark suite for sequence models in offline reinforcement learning."""

from __future__ import annotations

from typing import Any

from dtbench._version import __version__

__all__ = ["__version__", "make_dataset", "run"]


def __getattr__(name: str) -> Any:
    # `import dtbench` stays instant: torch is imported only when something is run.
    if name == "run":
        from dtbench.runs.execute import run

        return run
    if name == "make_dataset":
        from dtbench.data.sources.own import make_dataset

        return make_dataset
    raise AttributeError(f"module 'dtbench' has no attribute {name!r}")
