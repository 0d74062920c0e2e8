"""Tables for the terminal: nothing is cut off, neither on a narrow terminal nor in a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dtbench.results.sections import Row, Section
from dtbench.results.text import estimate_text, one_line, p_text, reason

#: At most this many runs without a score are listed; the others are counted.
_NAMED = 10
#: What a column adds to its content: two spaces and a line.
_FRAME = 3


@dataclass(frozen=True)
class Whole:
    """A table that is given the width it needs outside a terminal; on a terminal, cells are wrapped.

    It is to be printed by `console.out`, which does not cut long lines.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the table."""
        yield from console.render(self.table, _wide_enough(self.table, console, options))


@dataclass(frozen=True)
class ScoreTable:
    """A section's scores, tasks as rows and models as columns; models that do not fit beside the others go below."""

    section: Section

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render one table, or several below one another."""
        section = self.section
        if not section.rows:
            yield Text(f"{one_line(section.title)}: no run has finished")
        columns = [_column(section, row) for row in section.rows]
        for table in _tables(section, columns, options.max_width if console.is_terminal else None):
            yield Whole(table)
        yield from _unfinished(section)


@dataclass(frozen=True)
class _Column:
    """A model's column: its label, a score for each task, the aggregate, its p, and what it started from."""

    label: str
    scores: list[str]
    iqm: str
    p: str
    weights: str
    is_leader: bool

    @property
    def widest(self) -> int:
        """The width at which nothing is wrapped."""
        return max(len(text) for text in (self.label, *self.scores, self.iqm, self.p, self.weights))

    @property
    def narrowest(self) -> int:
        """The width at which scores and intervals stay whole, and other text is wrapped between words."""
        words = [*self.label.split(), *self.weights.split()]
        parts = [*_in_lines(self.iqm).split("\n"), *_in_lines(self.p).split("\n")]
        return max(len(text) for text in (*self.scores, *parts, *words))

    def cells(self, is_narrow: bool) -> list[Text]:
        """Return the cells from top to bottom."""
        iqm, p = (_in_lines(text) if is_narrow else text for text in (self.iqm, self.p))
        style = "bold" if self.is_leader else ""
        return [*map(Text, self.scores), Text(iqm, style), Text(p), Text(self.weights)]


def _in_lines(text: str) -> str:
    return text.replace(" [", "\n[").replace(" (", "\n(")


def _column(section: Section, row: Row) -> _Column:
    estimates = section.estimates.get(row.label)
    test = section.against_best.get(row.label)
    return _Column(
        row.label,
        [section.cell(row, task) for task in _lines(section)],
        estimate_text(estimates["iqm"]) if estimates else row.shortfall(section.tasks),
        p_text(test) if test else "–",
        one_line(row.initial_weights),
        row.label in section.leaders,
    )


def _lines(section: Section) -> list[str]:
    """Return the tasks with a score."""
    return [task for task in section.tasks if any(task in row.cells for row in section.rows)]


def _tables(section: Section, columns: Sequence[_Column], width: int | None) -> Iterator[Table]:
    """Yield the fewest tables that fit into `width` characters; one if that is None."""
    names = [*map(one_line, _lines(section)), "IQM [95 % interval]", "p against the best", "initial weights"]
    left = max(map(len, names)) + _FRAME + 1
    if width is None or left + sum(column.widest + _FRAME for column in columns) <= width:
        groups, is_narrow = ([list(columns)] if columns else []), False
    else:
        groups, is_narrow = _groups(columns, width - left), True
    for number, group in enumerate(groups):
        is_last = number == len(groups) - 1
        table = Table(
            title=Text(one_line(section.title), style="table.title") if number == 0 else None,
            caption=Text("normalised score × 100, last checkpoint, mean ± std over seeds", style="table.caption")
            if is_last
            else None,
        )
        cells = [column.cells(is_narrow) for column in group]
        table.add_column("task", overflow="fold")
        for column in group:
            table.add_column(
                Text(column.label), justify="right", overflow="fold", width=column.narrowest if is_narrow else None
            )
        for index, name in enumerate(names):
            table.add_row(
                Text(name),
                *(column[index] for column in cells),
                end_section=index in (len(names) - 4, len(names) - 2),
            )
        yield table


def _groups(columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """Return the columns in groups that fit side by side; a column that is too wide alone is a group of its own."""
    groups: list[list[_Column]] = []
    taken = 0
    for column in columns:
        needed = column.narrowest + _FRAME
        if not groups or taken + needed > width:
            groups.append([])
            taken = 0
        groups[-1].append(column)
        taken += needed
    return groups


def _unfinished(section: Section) -> Iterator[RenderableType]:
    if not section.unfinished:
        return
    lines = [f"Runs without a score: {len(section.unfinished)}"]
    for label, result in section.unfinished[:_NAMED]:
        lines.append(f"  {label} on {one_line(result.task.id)}, seed {result.seed}: {reason(result)}")
    if len(section.unfinished) > _NAMED:
        lines.append(f"  and {len(section.unfinished) - _NAMED} more")
    yield Text("\n".join(lines))


def _wide_enough(table: Table, console: Console, options: ConsoleOptions) -> ConsoleOptions:
    if console.is_terminal:
        return options
    natural = Measurement.get(console, options.update(max_width=1_000_000), table).maximum
    return options.update(width=max(natural, options.max_width), max_width=max(natural, options.max_width))
