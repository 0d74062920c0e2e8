"""The command `site`: a static site from results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dtbench.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dtbench.results.schema import Result
    from dtbench.results.site.dataset_page import Datasets, Facts

#: Where the published results are in a checkout.
_PUBLISHED = Path("leaderboards/results")
#: Bars of a histogram of returns.
_BINS = 40


def site(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of results. Default: leaderboards/results.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the site: new, empty, or an earlier site.")] = Path("site"),
    boards: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A page for each board of a list, too, e.g. leaderboards/boards.yaml."),
    ] = None,
) -> None:
    """Build a static site from results: rankings, figures, comparisons, models, data (needs the extra `site`).

    It opens from disk and from any web server, and loads nothing from elsewhere.
    """
    from dtbench.console import err
    from dtbench.results.site.build import build

    root = folder or _PUBLISHED
    if folder is None and not root.is_dir():
        raise ConfigError(f"There is no {_PUBLISHED} here; name the folder of results: dtbench site DIR.")
    built = build(root, out, boards, _describe)
    for sentence in built.left_out:
        err.print(f"Left out: {sentence}", markup=False)
    typer.echo(
        f"Wrote {out / 'index.html'}: {built.pages} pages, {built.records} records, {built.size / 1e6:.1f} MB in all."
    )


def _describe(results: Sequence[Result]) -> Datasets:
    """Return what is known of the results' data: their licences, and facts of those that are on this machine."""
    from dtbench.data.licences import LICENCES
    from dtbench.results.site.dataset_page import Datasets

    wanted = {result.task.fingerprint for result in results if result.task.fingerprint}
    return Datasets(_facts_by_fingerprint(wanted), LICENCES)


def _facts_by_fingerprint(wanted: set[str]) -> dict[str, Facts]:
    from dtbench.data.store_files import METADATA, read_metadata
    from dtbench.resources import datasets_home

    found: dict[str, Facts] = {}
    for file in sorted(datasets_home().rglob(METADATA)):
        try:
            digits = str(read_metadata(file.parent)["fingerprint"])
            if digits in wanted and digits not in found:
                found[digits] = _facts(file.parent)
        except DataError:  # damaged data are as good as absent here; whatever uses them names what is wrong
            continue
    return found


def _facts(folder: Path) -> Facts:
    """Describe a store without its place on this machine."""
    import numpy as np

    from dtbench.data.info import info
    from dtbench.data.store import TrajectoryStore
    from dtbench.results.site.dataset_page import Facts

    store = TrajectoryStore.open(folder)
    facts: dict[str, Any] = info(store)
    for name in ("folder", "fingerprint", "dataset"):
        facts.pop(name, None)
    counts, edges = np.histogram(store.episode_returns, bins=_BINS)
    return Facts(facts, counts.tolist(), edges.tolist())
