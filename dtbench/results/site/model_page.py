"""The page of a model: its card, its published settings, and its results everywhere."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dtbench.errors import DtbenchError
from dtbench.registry import MODELS, ModelEntry, models
from dtbench.resources import resource
from dtbench.results.schema import Result
from dtbench.results.sections import Row
from dtbench.results.site.render import Resolve, markdown, plain_link
from dtbench.results.site.section_page import Place
from dtbench.results.site.styles import colours_of
from dtbench.results.text import either, estimate_text, p_text

_CARD = "README.md"


def content(
    name: str, results: Sequence[Result], places: Sequence[Place], model_paths: Mapping[str, str]
) -> dict[str, Any]:
    """Return the values of the template `model.html`.

    Args:
        name: the model's name.
        results: all results of the site.
        places: the sections of the site.
        model_paths: model → its page.
    """
    entry = models().get(name)
    light, dark = colours_of(name)
    return {
        "title": entry.title if entry else name,
        "name": name,
        "paper": entry.paper if entry else "–",
        "is_ours": name in MODELS,
        "colour": light,
        "dark": dark,
        "card": _card(name, model_paths),
        "settings": settings(name),
        "results": [found for place in places for found in _standings(name, place)],
        "configs": configurations(name, places),
        "runs": sum(result.model.name == name for result in results),
        "statuses": _statuses(name, results),
    }


def _card(name: str, model_paths: Mapping[str, str]) -> Any:
    if name not in MODELS:
        return None
    file = resource("baselines", name, _CARD)
    return markdown(file.read_text(encoding="utf-8"), _links(name, model_paths)) if file.is_file() else None


def _links(name: str, model_paths: Mapping[str, str]) -> Resolve:
    """Lead links among the cards to pages of models, and those to settings to their place on the page."""
    own = {file.name for file in _setting_files(name)}

    def resolve(href: str) -> str | None:
        target, _, fragment = href.partition("#")
        if target in own:
            return f"#{setting_anchor(target)}"
        folder, file = posixpath.split(posixpath.normpath(posixpath.join(name, target)))
        if file == _CARD and folder in model_paths:
            return f"../{model_paths[folder]}{f'#{fragment}' if fragment else ''}"
        return plain_link(href)

    return resolve


def _setting_files(name: str) -> list[Path]:
    folder = resource("baselines", name)
    found = [*folder.glob("*.yaml"), *folder.glob("*.csv")] if name in MODELS else []
    return sorted(found, key=lambda file: (file.name != "config.yaml", file.name))


def settings(name: str) -> list[dict[str, str]]:
    """Return the files beside a card: the published settings, and published numbers."""
    return [
        {"name": file.name, "anchor": setting_anchor(file.name), "text": file.read_text(encoding="utf-8").rstrip()}
        for file in _setting_files(name)
    ]


def setting_anchor(file: str) -> str:
    """Return the id of a file of settings on its model's page."""
    return f"file-{file.replace('.', '-')}"


def _standings(name: str, place: Place) -> list[dict[str, Any]]:
    """Return the model's rows in one section, as its ranking shows them."""
    section = place.section
    complete = list(section.complete)
    found = []
    for row in (row for row in section.rows if row.model == name):
        is_complete = row.label in complete
        test = section.against_best.get(row.label) if is_complete else None
        found.append(
            {
                "label": row.label,
                "title": place.title,
                "path": place.path,
                "rank": f"{complete.index(row.label) + 1} of {len(complete)}" if is_complete else "–",
                "seeds": str(len(row.complete_seeds(section.tasks))) if is_complete else "–",
                "iqm": estimate_text(section.estimates[row.label]["iqm"]) if is_complete else "–",
                "note": "" if is_complete else row.shortfall(section.tasks),
                "p": p_text(test) if test else "–",
                "runs": len(row.results(section.tasks)),
            }
        )
    return found


def configurations(name: str, places: Sequence[Place]) -> list[dict[str, str]]:
    """Return the configurations that were run, each once, as YAML."""
    found: dict[str, dict[str, Any]] = {}
    for place in places:
        for row in (row for row in place.section.rows if row.model == name):
            for digits, (text, tasks) in _configs(row).items():
                entry = found.setdefault(digits, {"label": row.label, "hash": digits, "text": text, "tasks": set()})
                entry["tasks"] |= tasks
    return [{**entry, "tasks": either(sorted(entry["tasks"]))} for entry in found.values()]


def _configs(row: Row) -> dict[str, tuple[str, set[str]]]:
    """Return hash → configuration and the tasks that were run with it."""
    found: dict[str, tuple[str, set[str]]] = {}
    for result in (result for results in row.cells.values() for result in results):
        digits = result.model.config_hash
        if digits not in found:
            found[digits] = (yaml.safe_dump(result.model.config, sort_keys=False, allow_unicode=True).rstrip(), set())
        found[digits][1].add(result.task.id)
    return found


def _statuses(name: str, results: Sequence[Result]) -> str:
    found = [result.status for result in results if result.model.name == name]
    return ", ".join(f"{found.count(status)} {status}" for status in dict.fromkeys(sorted(found)))


def index(names: Sequence[str], results: Sequence[Result], model_paths: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a line per model, for the list of models."""
    known: Mapping[str, ModelEntry] = _known()
    return [
        {
            "name": name,
            "path": model_paths[name],
            "title": known[name].title if name in known else name,
            "paper": known[name].paper if name in known else "–",
            "runs": sum(result.model.name == name for result in results),
            "colours": colours_of(name),
        }
        for name in names
    ]


def _known() -> Mapping[str, ModelEntry]:
    try:
        return models()
    except DtbenchError:
        return MODELS
