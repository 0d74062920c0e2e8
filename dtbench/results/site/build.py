"""A site from results: every page rendered first, then written. Equal results give equal bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtbench._version import __version__
from dtbench.errors import ResultError
from dtbench.registry import MODELS
from dtbench.results.boards import RANKING, Board, load_boards
from dtbench.results.files import error_reason, read_folder
from dtbench.results.schema import Result
from dtbench.results.sections import sections
from dtbench.results.site import dataset_page, folder, model_page, overview, section_page
from dtbench.results.site.dataset_page import Datasets
from dtbench.results.site.libraries import scripts
from dtbench.results.site.names import ASSETS, BOARDS, DATA, RECORDS, SECTIONS, own_path, slugs
from dtbench.results.site.names import MODELS as MODEL_PAGES
from dtbench.results.site.render import environment, markdown
from dtbench.results.site.section_page import Place
from dtbench.suites import fields


@dataclass(frozen=True)
class Built:
    """What was built.

    Attributes:
        pages: number of pages.
        records: number of records that the site holds.
        size: bytes of all files.
        left_out: a sentence for each file that could not be read.
    """

    pages: int
    records: int
    size: int
    left_out: Sequence[str]


@dataclass(frozen=True)
class _Document:
    """A board that is a text with figures: a factorial, or protocols."""

    path: str
    title: str
    html: Any


def build(
    root: Path, out: Path, boards: Path | None = None, describe: Callable[[Sequence[Result]], Datasets] | None = None
) -> Built:
    """Build the site of the results under `root` in the folder `out`.

    Args:
        root: the folder of results.
        out: a new or empty folder, or one with an earlier site.
        boards: a list of boards, whose selections get pages of their own.
        describe: returns what is known of the results' data, which this room cannot read.

    Raises:
        ConfigError: `out` holds files of others, a package is missing, or a board is none.
        ResultError: no results, or results that cannot be in one table.
    """
    folder.check(out)  # before the work
    template = environment()
    assets = scripts()
    results, left_out = read_folder(root)
    datasets = describe(results) if describe else Datasets({}, {})
    made = _Site(template, results, left_out, datasets, load_boards(boards) if boards else [])
    pages = made.pages()
    files = {name: html.encode("utf-8") for name, html in pages.items()}
    files |= made.figures
    files |= {f"{ASSETS}/{name}": content for name, content in assets.items()}
    files |= {f"{RECORDS}/{own_path(result).as_posix()}": _bytes(root / own_path(result)) for result in results}
    folder.write(out, files)
    return Built(len(pages), len(results), sum(map(len, files.values())), left_out)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ResultError(f"{file} cannot be read: {error_reason(error)}.") from error


class _Site:
    """The pages of a site, and what they link to."""

    def __init__(
        self,
        template: Any,
        results: Sequence[Result],
        left_out: Sequence[str],
        datasets: Datasets,
        boards: Sequence[Board],
    ) -> None:
        self.template, self.results, self.left_out, self.datasets = template, results, left_out, datasets
        self.figures: dict[str, bytes] = {}
        self.places = _places(results)
        self.rankings = [place for board in boards if board.kind == RANKING for place in _board_places(board, results)]
        self.documents = [self._document(board) for board in boards if board.kind != RANKING]
        self.by_dataset = dataset_page.by_dataset(results)
        names = slugs([*MODELS, *sorted({result.model.name for result in results})])
        self.model_paths = {name: f"{MODEL_PAGES}/{slug}.html" for name, slug in names.items()}
        self.dataset_paths = {name: f"{DATA}/{slug}.html" for name, slug in slugs(self.by_dataset).items()}

    def pages(self) -> dict[str, str]:
        """Return path → HTML of all pages."""
        everywhere = [*self.rankings, *self.places]
        found = {"index.html": self._page("index.html", "index.html", overview.content(self.results, everywhere))}
        for place in everywhere:
            content = section_page.content(place, self.model_paths)
            content["data_paths"] = self._data_of(place)
            found[place.path] = self._page("section.html", place.path, content)
        for document in self.documents:
            content = {"title": document.title, "html": document.html}
            found[document.path] = self._page("document.html", document.path, content)
        for name, path in self.model_paths.items():
            content = model_page.content(name, self.results, everywhere, self.model_paths)
            found[path] = self._page("model.html", path, content)
        for name, path in self.dataset_paths.items():
            content = dataset_page.content(name, self.by_dataset[name], everywhere, self.datasets)
            found[path] = self._page("dataset.html", path, content)
        return found | self._lists()

    def _lists(self) -> dict[str, str]:
        models, data = f"{MODEL_PAGES}/index.html", f"{DATA}/index.html"
        listed = model_page.index(list(self.model_paths), self.results, self.model_paths)
        datasets = [
            {
                "name": name,
                "path": path,
                "env": self.by_dataset[name][0].task.env_id,
                "runs": len(self.by_dataset[name]),
                "here": any(result.task.fingerprint in self.datasets.found for result in self.by_dataset[name]),
            }
            for name, path in self.dataset_paths.items()
        ]
        return {
            models: self._page("models.html", models, {"title": "Models", "models": listed}),
            data: self._page("datasets.html", data, {"title": "Data", "datasets": datasets}),
        }

    def _page(self, template: str, path: str, content: Mapping[str, Any]) -> str:
        shared = {
            "root": "../" * path.count("/"),
            "path": path,
            "version": __version__,
            "rankings": self.rankings,
            "places": self.places,
            "documents": self.documents,
            "left_out": self.left_out,
            "records": len(self.results),
            "page_data": None,
        }
        return str(self.template.get_template(template).render({**shared, **content}))

    def _data_of(self, place: Place) -> list[tuple[str, str]]:
        """Return the pages of a section's data, task by task."""
        found = {result.task.id: dataset_page.name_of(result) for result in place.section.finished}
        return [(task, self.dataset_paths[found[task]]) for task in place.section.tasks if task in found]

    def _document(self, board: Board) -> _Document:
        """Render a board that is a text, and keep its figures."""
        page = board.page(self.results, [])  # the first page names the files left out
        with tempfile.TemporaryDirectory() as scratch:
            for name, draw in page.figures.items():
                file = Path(scratch) / Path(name).name
                draw(file)
                self.figures[f"{BOARDS}/{name}"] = file.read_bytes()
        title, _, text = page.text.partition("\n")
        html = markdown(text, lambda href: href if href in page.figures else None, demote=0)
        return _Document(f"{BOARDS}/{Path(board.file).stem}.html", board.title or title.lstrip("# "), html)


def _places(results: Sequence[Result]) -> list[Place]:
    found = sections(results)
    names = slugs(section.title for section in found)
    return [Place(section, f"{SECTIONS}/{names[section.title]}.html", section.title) for section in found]


def _board_places(board: Board, results: Sequence[Result]) -> list[Place]:
    """Return the sections of a board that ranks: nearly always one.

    Raises:
        ConfigError: no run of the board is finished, or its results cannot be in one table.
    """
    with fields.located(f"board {board.file!r}"):
        found = sections(results, board.selection)
        board.check_finished(found)
    stem = Path(board.file).stem
    return [
        Place(
            section,
            f"{BOARDS}/{stem}{f'-{number}' if number > 1 else ''}.html",
            f"{board.title or stem}{f' ({number})' if number > 1 else ''}",
            board.trials,
        )
        for number, section in enumerate(found, start=1)
    ]
