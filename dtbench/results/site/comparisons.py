"""All pairs of rows of a section, compared beforehand by `results.compare`: the page only looks them up."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from dtbench.results.compare import Comparison, compare_rows
from dtbench.results.sections import Section
from dtbench.results.text import coverage_text, p_text


def pairs(section: Section) -> dict[str, Any]:
    """Return "place of a,place of b" → texts, the higher ranked first; pairs without a common task are left out.

    The order is the ranking's, as a user of `dtbench compare` would type it: the intervals of P(A > B) and of P(B > A)
    come from different resamples, so that only one of the two is shown.
    """
    found = {}
    for (place, row), (other, against) in combinations(enumerate(section.rows), 2):
        comparison = compare_rows(section, row.label, against.label)
        if comparison is not None:
            found[f"{place},{other}"] = texts(comparison)
    return found


def texts(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as the page shows it."""
    improvement, test = comparison.probability_of_improvement, comparison.permutation
    content: dict[str, Any] = {
        "tasks": [
            [
                difference.task,
                f"{100 * difference.a:.1f}",
                f"{100 * difference.b:.1f}",
                f"{100 * difference.difference:+.1f}",
                p_text(difference.permutation),
            ]
            for difference in comparison.tasks
        ]
    }
    if improvement is not None and test is not None:
        ends = improvement.interval
        interval = f"[{ends[0]:.2f}, {ends[1]:.2f}]{coverage_text(improvement)}" if ends else "[n/a]"
        content |= {
            "probability": f"{improvement.value:.2f} {interval}",
            "p": p_text(test),
            "separable": test.is_separable,
        }
    return content
