"""Text of results as tables show it: on one line, and harmless to markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from dtbench.results.schema import ErrorRecord, Result
from dtbench.results.stats import Estimate, Permutation

#: An interval that holds the true value less often says so.
_GOOD_COVERAGE = 0.90


def one_line(text: str) -> str:
    r"""Return text without line breaks and control characters, e.g. a terminal's colours.

    >>> one_line("loss\n is \x1b[31mNaN")
    'loss is [31mNaN'
    """
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def markdown_text(text: str) -> str:
    r"""Return text that markdown shows as it is.

    >>> print(markdown_text("a `b` <c>"))
    a \`b\` \<c>
    """
    return re.sub(r"([\\`<])", r"\\\1", one_line(text))


def code(text: str) -> str:
    """Return text as markdown's inline code.

    >>> code("dt"), code("a`b")
    ('`dt`', '`` a`b ``')
    """
    text = one_line(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return f"`{text}`" if longest == 0 else f"{'`' * (longest + 1)} {text} {'`' * (longest + 1)}"


def code_block(lines: Sequence[str], indent: str) -> str:
    """Return lines as a fenced block of code, indented as part of a list."""
    shown = [one_line(line) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join(f"{indent}{line}".rstrip() for line in (f"{fence}text", *shown, fence))


def markdown_table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """Return a markdown table; a `|` in a cell stays in its cell."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (headers, *rows)]
    return tabulate(escaped[1:], headers=escaped[0], tablefmt="github", disable_numparse=True)


def estimate_text(estimate: Estimate) -> str:
    """Return an estimate × 100 with its interval, e.g. `41.3 [34.2, 47.3]`, and its coverage where that is low.

    >>> estimate_text(Estimate(0.413, (0.342, 0.473), coverage=0.86))
    '41.3 [34.2, 47.3] (covers about 86 %)'
    """
    if estimate.interval is None:
        return f"{100 * estimate.value:.1f} [n/a]"
    low, high = estimate.interval
    return f"{100 * estimate.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]{coverage_text(estimate)}"


def coverage_text(estimate: Estimate) -> str:
    """Say how often an interval holds the true value where that is low; empty for others."""
    if estimate.coverage is None or estimate.coverage >= _GOOD_COVERAGE:
        return ""
    return f" (covers about {100 * estimate.coverage:.0f} %)"


def p_text(test: Permutation) -> str:
    """Return the p of a permutation test, and its lower bound where that is above the level of significance.

    >>> p_text(Permutation(0.0004, 0.0001, is_exact=False)), p_text(Permutation(0.4, 0.1, is_exact=True))
    ('< 0.001', '0.400 (cannot be below 0.100)')
    """
    p = "< 0.001" if test.p < 0.001 else f"{test.p:.3f}"
    return p if test.can_separate else f"{p} (cannot be below {test.smallest_p:.3f})"


def p_sentence(test: Permutation) -> str:
    """Return `p_text` as part of a sentence.

    >>> p_sentence(Permutation(0.0004, 0.0001, is_exact=False)), p_sentence(Permutation(0.4, 0.1, is_exact=True))
    ('p < 0.001', 'p = 0.400 (cannot be below 0.100)')
    """
    text = p_text(test)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def signed_text(estimate: Estimate) -> str:
    """Return a difference × 100 with its sign and interval.

    >>> signed_text(Estimate(0.013, (-0.002, 0.028), coverage=0.95))
    '+1.3 [-0.2, 2.8]'
    """
    return f"{'+' if estimate.value > 0 else ''}{estimate_text(estimate)}"


def reason(result: Result) -> str:
    """Say why a run has no score, e.g. `failed: ValueError: the loss is NaN`."""
    error = result.error
    if error is None:
        return result.status
    return one_line(f"{result.status}: {error.type}: {error.message}{_end_of_process(error)}")


def _end_of_process(error: ErrorRecord) -> str:
    """Return a process's signal or exit code, unless the message already names it."""
    if error.signal is not None:
        return "" if error.signal in error.message else f" (killed by {error.signal})"
    if error.exit_code is not None:
        return "" if str(error.exit_code) in error.message else f" (exit code {error.exit_code})"
    return ""


def either(values: Sequence[Any]) -> str:
    """Join one, two (`a or b`) or several values (`a, b, c`)."""
    return " or ".join(map(str, values)) if len(values) < 3 else ", ".join(map(str, values))
