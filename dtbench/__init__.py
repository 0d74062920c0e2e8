"""dtbench: a benchmark suite for sequence models in offline reinforcement learning."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "run"]


def __getattr__(name: str) -> Any:
    # `import dtbench` stays instant: torch is imported only when something is run.
    if name == "run":
        from dtbench.runner import run

        return run
    raise AttributeError(f"module 'dtbench' has no attribute {name!r}")
