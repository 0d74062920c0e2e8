"""The published boards, listed in a YAML file: which results each shows, and whether its page is up to date.

boards:
  - file: d4rl-short.md                # beside the YAML file, as all paths
    title: Short horizons, one minute per run
    suite: d4rl-short
    preset: quick
    # Further keys, all optional:
    # kind: ranking                    # ranking (default), protocols, factorial
    # tasks: [hopper-medium]           # only these
    # models: [dt, lamo backbone=scratch]  # only these rows, by their labels
    # source: local                    # only this source's results
    # results: results                 # folder of results
    # trials: 12                       # hyper-parameter trials per model; default: as the preset records
  - file: factorial.md
    kind: factorial                    # see `factorial`
    title: Language, heads, gate
    suite: [d4rl-short, d4rl-long]     # several are possible here
    preset: quick
    factors: {heads: [no, yes], gate: [no, yes]}   # two levels each; an effect is the second minus the first
    cells:                             # a row's label, and its level of each factor
      - {model: gpt2_dtma, heads: yes, gate: yes}
      - {model: gpt2_dtma gate=false, heads: yes, gate: no}
      - …
    task_factor: {horizon: {short: [hopper-medium], long: [pointmaze-dtma-large]}}   # or tasks: […]
    interactions: [[heads, gate, horizon]]         # beyond those of two factors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dtbench.config import preset_names
from dtbench.errors import ConfigError, ResultError, UnknownNameError
from dtbench.results import factorial_page, leaderboard, protocol_page
from dtbench.results.factorial import Design
from dtbench.results.files import read_folder
from dtbench.results.pages import Page
from dtbench.results.schema import Result
from dtbench.results.sections import Section, Selection, sections
from dtbench.suites import fields
from dtbench.suites.suites import load_suite, read_mapping, suite_names

RANKING, PROTOCOLS, FACTORIAL = "ranking", "protocols", "factorial"
KINDS = (RANKING, PROTOCOLS, FACTORIAL)
_COMMON = ("file", "kind", "title", "suite", "preset", "source", "results", "trials", "tasks")
#: The keys of a board of each kind.
_KEYS = {
    RANKING: (*_COMMON, "models"),
    PROTOCOLS: (*_COMMON, "models"),
    FACTORIAL: (*_COMMON, "factors", "cells", "task_factor", "interactions"),
}


@dataclass(frozen=True)
class Board:
    """One published page.

    Attributes:
        file: the markdown file, relative to the list.
        suites: names of the suites; several for a factorial only.
        preset: name of the preset.
        kind: `ranking`, `protocols` or `factorial`.
        title: the page's heading; empty for the usual one.
        tasks: only these; empty for all.
        models: only rows with these labels; empty for all.
        source: only this source's results; None for all.
        results: folder of results, relative to the list.
        trials: hyper-parameter trials per model; None for what the preset records.
        design: the factorial's; None for other kinds.
    """

    file: str
    suites: tuple[str, ...]
    preset: str
    kind: str = RANKING
    title: str = ""
    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    source: str | None = None
    results: str = "results"
    trials: int | None = None
    design: Design | None = None

    def page(self, results: Sequence[Result], left_out: Sequence[str]) -> Page:
        """Render the board.

        Args:
            results, left_out: as `files.read_folder` returns them.

        Raises:
            ConfigError: no run of the board is finished, or its results cannot be in one table.
        """
        how: dict[str, Any] = {"figures": Path(self.file).stem, "trials": self.trials}
        if self.title:
            how["title"] = self.title
        with fields.located(f"board {self.file!r}"):
            if self.design is not None:
                selections = [self._selection(suite, self.design.tasks) for suite in self.suites]
                return factorial_page.page(results, left_out, self.design, selections, **how)
            self.check_finished(sections(results, self.selection))
            draw = protocol_page.page if self.kind == PROTOCOLS else leaderboard.page
            return draw(results, left_out, self.selection, **how)

    def check_finished(self, found: Sequence[Section]) -> None:
        """Refuse sections without a finished run.

        Raises:
            ResultError: naming suite and preset.
        """
        if not any(section.rows for section in found):
            raise ResultError(f"no run of it is finished ({self.suites[0]}, preset {self.preset}).")

    @property
    def selection(self) -> Selection:
        """What a board of one suite shows."""
        return self._selection(self.suites[0], self.tasks)

    def _selection(self, suite: str, tasks: Sequence[str]) -> Selection:
        """Select a suite's results; of tasks that are listed for several suites, those of this one."""
        own = _tasks_of(suite)
        chosen = [task for task in tasks if own is None or task in own]
        return Selection(suite, chosen, self.preset, must_exist=False, source=self.source, models=self.models)


@dataclass(frozen=True)
class State:
    """What `check` found of a board.

    Attributes:
        file: the page.
        is_current: whether it is what its results render to; None if the folder of results is not there.
    """

    file: Path
    is_current: bool | None


def load_boards(path: str | Path) -> list[Board]:
    """Read a list of boards.

    Raises:
        ConfigError: no such file, or an entry that is no board; the message names the file, the board and the key.
    """
    path = Path(path)
    with fields.located(str(path)):
        content = read_mapping(path)
        _check_keys(content, ("boards",), "key")
        if "boards" not in content:
            raise ConfigError("boards is missing; it lists the boards, and may be empty.")
        boards = [
            _board(entry, number, path) for number, entry in enumerate(_list(content["boards"], "boards"), start=1)
        ]
        fields.distinct(tuple(board.file for board in boards), "boards")
    return boards


def write_boards(path: str | Path) -> list[Path]:
    """Render all boards of a list, with their figures.

    Raises:
        ConfigError: as `load_boards`, and for a board without a finished run.
        ResultError: there are no results at all, or a file cannot be written.
    """
    path = Path(path)
    read = cache(read_folder)
    written = []
    for board in load_boards(path):
        file = path.parent / board.file
        board.page(*read(path.parent / board.results)).write(file)
        written.append(file)
    return written


def check_boards(path: str | Path) -> list[State]:
    """Say of all boards of a list whether they are up to date; one whose folder of results is not there is not checked.

    Raises:
        ConfigError: as `load_boards`, and for a board without a finished run.
        ResultError: the folder holds no results at all, or a file cannot be read.
    """
    path = Path(path)
    read = cache(read_folder)
    states = []
    for board in load_boards(path):
        file, results = path.parent / board.file, path.parent / board.results
        is_current = board.page(*read(results)).is_current(file) if results.is_dir() else None
        states.append(State(file, is_current))
    return states


def _board(entry: object, number: int, path: Path) -> Board:
    content = fields.mapping(entry, f"board number {number}")
    named = content.get("file")
    with fields.located(f"board {named!r}" if isinstance(named, str) else f"board number {number}"):
        kind = content.get("kind", RANKING)
        if kind not in KINDS:
            raise UnknownNameError("kind of board", str(kind), KINDS)
        _check_keys(content, _KEYS[kind], f"key of a board of kind {kind}")
        for key in ("file", "suite", "preset"):
            if key not in content:
                raise ConfigError(f"{key} is missing.")
        file = fields.path_of_names(content["file"], "file")
        if not file.endswith(".md"):
            raise ConfigError(f"file must be a markdown file (.md), not {fields.shown(file)}.")
        board = Board(
            file,
            _suites(content["suite"], kind),
            fields.name(content["preset"], "preset"),
            kind,
            fields.text(content.get("title", ""), "title"),
            fields.distinct(_names(content.get("tasks", []), "tasks"), "tasks"),
            fields.distinct(_names(content.get("models", []), "models"), "models"),
            fields.name(content["source"], "source") if "source" in content else None,
            fields.non_empty_text(content.get("results", "results"), "results"),
            fields.positive_integer(content["trials"], "trials") if "trials" in content else None,
            _design(content) if kind == FACTORIAL else None,
        )
        _check_names(board, path.parent / board.results)
    return board


def _check_keys(content: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for key in content:
        if key not in known:
            raise UnknownNameError(what, key, known)


def _suites(value: object, kind: str) -> tuple[str, ...]:
    suites = (fields.name(value, "suite"),) if isinstance(value, str) else _names(value, "suite")
    if not suites:
        raise ConfigError("suite must name at least one.")
    if len(suites) > 1 and kind != FACTORIAL:
        raise ConfigError(f"suite must name one for a board of kind {kind}; results of several suites are never mixed.")
    return fields.distinct(suites, "suite")


def _check_names(board: Board, results: Path) -> None:
    """Refuse suites, presets and tasks that neither are shipped nor have results."""
    with_results = sorted(results.glob("*@*/*/*")) if results.is_dir() else []
    suites = {*suite_names(), *(folder.parts[-3].partition("@")[0] for folder in with_results)}
    presets = {*preset_names(), *(folder.name for folder in with_results)}
    for suite in board.suites:
        if suite not in suites:
            raise UnknownNameError("suite", suite, suites)
    if board.preset not in presets:
        raise UnknownNameError("preset", board.preset, presets)
    known = [_tasks_of(suite) for suite in board.suites]
    if any(tasks is None for tasks in known):
        return
    for task in board.tasks if board.design is None else board.design.tasks:
        homes = [suite for suite, tasks in zip(board.suites, known, strict=True) if tasks and task in tasks]
        if not homes:
            raise UnknownNameError("task", task, {name for tasks in known for name in tasks or ()})
        if len(homes) > 1:
            raise ConfigError(f"the task {task!r} is in both suites, {' and '.join(homes)}; list one of them.")


@cache
def _tasks_of(suite: str) -> frozenset[str] | None:
    """Return a shipped suite's tasks; None of another, whose tasks are those with results."""
    return frozenset(task.id for task in load_suite(suite).tasks) if suite in suite_names() else None


def _design(content: Mapping[str, Any]) -> Design:
    for key in ("factors", "cells"):
        if key not in content:
            raise ConfigError(f"{key} is missing.")
    factors = {
        _level(name, "factors"): _pair(_names(levels, f"factors.{name}"), f"factors.{name}")
        for name, levels in fields.mapping(content["factors"], "factors").items()
    }
    cells = {}
    for index, entry in enumerate(_list(content["cells"], "cells")):
        levels = {key: _level(value, f"cells[{index}].{key}") for key, value in fields.mapping(entry, "a cell").items()}
        if "model" not in levels:
            raise ConfigError(f"cells[{index}] needs model, the label of a leaderboard's row.")
        model = levels.pop("model")
        if model in cells:
            raise ConfigError(f"cells names {model!r} twice.")
        cells[model] = levels
    interactions = tuple(
        _names(names, "interactions") for names in _list(content.get("interactions", []), "interactions")
    )
    if ("tasks" in content) == ("task_factor" in content):
        raise ConfigError("give tasks, or task_factor, which groups them; not both.")
    if "tasks" in content:
        tasks = _names(content["tasks"], "tasks")
        return Design(factors, cells, fields.distinct(tasks, "tasks"), interactions=interactions)
    named = fields.mapping(content["task_factor"], "task_factor")
    if len(named) != 1:
        raise ConfigError("task_factor must name one factor, e.g. {horizon: {short: [...], long: [...]}}.")
    ((name, groups),) = named.items()
    if not isinstance(groups, Mapping):
        raise ConfigError(f"task_factor.{name} must map its two levels to their tasks, not be {fields.shown(groups)}.")
    levels_of = {_level(level, name): _names(tasks, f"task_factor.{name}.{level}") for level, tasks in groups.items()}
    _pair(tuple(levels_of), f"task_factor.{name}")
    tasks = fields.distinct(tuple(task for tasks in levels_of.values() for task in tasks), f"task_factor.{name}")
    return Design(factors, cells, tasks, name, levels_of, interactions)


def _pair(levels: tuple[str, ...], field: str) -> tuple[str, str]:
    if len(levels) != 2:
        raise ConfigError(f"{field} must have two levels, not {len(levels)}.")
    return levels[0], levels[1]


def _list(value: object, field: str) -> tuple[Any, ...]:
    return fields.listed(value, field, lambda item, _: item)


def _names(value: object, field: str) -> tuple[str, ...]:
    return fields.listed(value, field, _level)


def _level(value: object, field: str) -> str:
    """Return a name as text; YAML reads yes, no, on and off as truth values."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return fields.non_empty_text(str(value) if isinstance(value, int | float) else value, field)
