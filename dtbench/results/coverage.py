"""How often the intervals hold the true value, as `benchmarks/coverage.py` measured it."""

from __future__ import annotations

import json
from functools import lru_cache

from dtbench.resources import resource


def measured_coverage(measure: str, seeds: int, tasks: int) -> float | None:
    """Return the lowest coverage that was measured for a measure's 95 % interval, over all simulated score shapes.

    Between the numbers of seeds and tasks that were simulated, the next lower ones count; above the highest, these.

    Args:
        measure: a name of `stats.AGGREGATES`, `profile` or `probability_of_improvement`.

    Returns:
        A share, 0–1; None below the lowest number of seeds.
    """
    by_seeds = _table()[measure]
    lower = [number for number in by_seeds if number <= seeds]
    if not lower:
        return None
    by_tasks = by_seeds[max(lower)]
    return by_tasks[max(number for number in by_tasks if number <= tasks)]


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[int, dict[int, float]]]:
    """Read measure → seeds → tasks → coverage."""
    content = json.loads(resource("benchmarks", "coverage.json").read_text(encoding="utf-8"))
    return {
        measure: {int(n): {int(m): float(value) for m, value in by_m.items()} for n, by_m in by_n.items()}
        for measure, by_n in content["lowest"].items()
    }
