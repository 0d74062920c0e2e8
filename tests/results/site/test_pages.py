"""The pages as files: valid, whole, self-contained, and with the numbers of the leaderboard."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import Element

import html5lib
import pytest

from dtbench.results import leaderboard
from dtbench.results.compare import compare
from dtbench.results.files import scan
from dtbench.results.plots import COLOURS
from dtbench.results.sections import Selection, sections
from dtbench.results.site.build import build
from dtbench.results.site.names import own_path
from dtbench.results.site.styles import on_dark, styles
from dtbench.results.text import p_text
from tests.results import samples
from tests.results.site import tiny

SECTION = "sections/d4rl-short-1-local-data-preset-quick.html"
LEARN = "sections/d4rl-short-1-local-data-preset-learn.html"
#: What a browser fetches by itself.
LOADING = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}


@cache
def parsed(file: Path) -> Element:
    """Parse a page; html5lib's strict parser refuses what is not valid HTML."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    tree: Element = parser.parse(file.read_text(encoding="utf-8"))
    return tree


def pages(site: Path) -> list[Path]:
    found = sorted(site.rglob("*.html"))
    assert len(found) > 20
    return found


def text(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def table(file: Path, name: str) -> list[list[str]]:
    """Return the texts of a table's cells, its head first."""
    (found,) = (one for one in parsed(file).iter("table") if one.get("id") == name)
    return [[text(cell) for cell in row if cell.tag in ("td", "th")] for row in found.iter("tr")]


def markdown_table(content: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading of a leaderboard, without its marks."""
    lines = content.partition(f"### {heading}\n")[2].splitlines()
    rows = [line for line in lines[: lines.index("", lines.index(next(x for x in lines if x.startswith("|"))))] if line]
    rows = [line for line in rows if line.startswith("|") and not set(line) <= set("|-")]
    return [[re.sub(r"[*`]", "", cell).strip() for cell in line.strip("|").split("|")] for line in rows]


def page_data(file: Path) -> dict:
    (script,) = (one for one in parsed(file).iter("script") if one.get("id") == "page-data")
    return json.loads(script.text or "")


def test_every_page_is_valid_html_with_unique_ids(site):
    for file in pages(site):
        ids = Counter(element.get("id") for element in parsed(file).iter() if element.get("id"))
        assert [name for name, count in ids.items() if count > 1] == [], file.name


def test_every_link_leads_somewhere(site):
    for file in pages(site):
        for element in parsed(file).iter():
            for attribute in ("href", "src"):
                address = element.get(attribute)
                if address is None or address.startswith(("https:", "data:")):
                    continue
                parts = urlsplit(address)
                assert not parts.scheme, f"{file.name}: {address}"
                target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
                assert target.is_file(), f"{file.name}: {address}"
                assert target.is_relative_to(site.resolve())
                if parts.fragment:
                    names = {one.get("id") for one in parsed(target).iter()}
                    assert unquote(parts.fragment) in names, f"{file.name}: {address}"


def test_nothing_is_loaded_from_elsewhere(site):
    for file in pages(site):
        for element in parsed(file).iter():
            for attribute in ("src", "href"):
                address = element.get(attribute)
                if address and (element.tag, attribute) in LOADING:
                    assert not urlsplit(address).netloc, f"{file.name}: {address}"
    for file in (site / "assets").glob("*.css"):
        assert re.findall(r"@import|url\((?!['\"]?data:)", file.read_text(encoding="utf-8")) == [], file.name


def test_the_ranking_has_the_leaderboards_numbers(site, root):
    content = leaderboard.render(root, Selection(preset="quick"))
    expected = {row[0]: row for row in markdown_table(content, "Aggregate")[1:]}
    head, *rows = table(site / SECTION, "ranking-table")
    assert head[:6] == ["rank", "model", "backbone", "seeds", "IQM", "p against the best"]
    assert head[6:] == ["median", "mean", "optimality gap"]
    assert [row[1] for row in rows] == list(expected)
    for rank, label, _, seeds, iqm, p, *others in rows:
        wanted = expected[label]
        assert [seeds, iqm, p, *others] == wanted[1:], label
        assert rank == ("–" if seeds == "–" else str(list(expected).index(label) + 1))


def test_the_boards_ranking_is_over_its_tasks(site, root):
    selection = Selection("d4rl-short", tiny.TASKS, "quick", models=["gpt2_dtma", "gpt2_dtma gate=false", "dt"])
    expected = markdown_table(leaderboard.render(root, selection), "Aggregate")[1:]
    rows = table(site / "boards/two.html", "ranking-table")[1:]
    assert [[row[1], *row[3:]] for row in rows] == expected
    assert rows[0][0] == "1"
    assert "[" in rows[0][4]  # three seeds have an interval


def test_the_tasks_have_the_leaderboards_numbers(site, root):
    content = leaderboard.render(root, Selection(preset="quick"))
    expected = markdown_table(content, "Scores per task")
    filled = [place for place, column in enumerate(zip(*expected[1:], strict=True)) if set(column) != {"–"}]
    assert len(filled) == 1 + len(tiny.TASKS)
    assert table(site / SECTION, "task-table") == [[row[place] for place in filled] for row in expected]
    assert "Without results here: hopper-medium-replay" in text(parsed(site / SECTION))


def test_protocol_and_data_are_the_leaderboards(site, root):
    page = text(parsed(site / SECTION))
    for part in ("The last checkpoint is scored", "Hyper-parameter trials per model", "dtbench 0.1.0, commit 0000"):
        assert part in page


def test_pairs_are_those_of_compare(site, root):
    data = page_data(site / "boards/two.html")
    labels = [row["label"] for row in data["rows"]]
    selection = Selection("d4rl-short", tiny.TASKS, "quick")
    for place, label in enumerate(labels):
        for other, against in enumerate(labels[place + 1 :], start=place + 1):
            (found,) = compare(root, label, against, selection)
            shown = data["pairs"][f"{place},{other}"]
            improvement = found.probability_of_improvement
            low, high = improvement.interval or (None, None)
            assert shown["probability"].startswith(f"{improvement.value:.2f} [")
            if low is not None:
                assert f"[{low:.2f}, {high:.2f}]" in shown["probability"]
            assert shown["p"] == p_text(found.permutation)
            assert [row[0] for row in shown["tasks"]] == list(tiny.TASKS)
            assert [row[3] for row in shown["tasks"]] == [f"{100 * one.difference:+.1f}" for one in found.tasks]


def test_figures_hold_the_scores(site, root):
    data = page_data(site / "boards/two.html")
    (section,) = sections(scan(root)[0], Selection("d4rl-short", tiny.TASKS, "quick", models=["gpt2_dtma", "dt"]))
    shown = {
        trace["meta"]["row"]: trace["x"]
        for trace in data["figures"]["task-0"]["data"]
        if "customdata" in trace and trace["meta"]["row"] in ("gpt2_dtma", "dt")
    }
    for row in section.rows:
        assert shown[row.label] == pytest.approx([100 * one.score for one in row.cells[tiny.TASKS[0]]])
    episodes = [t for t in data["figures"]["task-0"]["data"] if t["meta"].get("when") == {"episodes": True}]
    assert sum(len(trace["x"]) for trace in episodes) == 3 * 3 * 2  # rows, seeds, episodes
    best = section.estimates["gpt2_dtma"]["iqm"]
    trace = next(t for t in data["figures"]["intervals"]["data"] if t["meta"]["row"] == "gpt2_dtma")
    assert trace["x"] == pytest.approx([100 * best.value], abs=0.01)
    assert trace["x"][0] + trace["error_x"]["array"][0] == pytest.approx(100 * best.interval[1], abs=0.02)


def test_learning_curves_are_shown_where_there_are_some(site):
    data = page_data(site / LEARN)
    thick = [t for t in data["figures"]["curves-0"]["data"] if "when" not in t["meta"]]
    assert [trace["x"] for trace in thick] == [[100, 200]]
    assert thick[0]["y"] == pytest.approx([15, 30])  # the means of seeds 0 and 1
    assert "no evaluations during training" in text(parsed(site / SECTION))


def test_the_records_are_copied(site, root):
    results, _ = scan(root)
    linked = {
        unquote(str(link.get("href"))).partition("records/")[2]
        for file in (site / SECTION, site / LEARN)
        for link in parsed(file).iter("a")
        if "records/" in str(link.get("href"))
    }
    assert linked == {own_path(one).as_posix() for one in results if one.status == "ok"}
    for result in results:
        path = own_path(result)
        assert (site / "records" / path).read_bytes() == (root / path).read_bytes()


def test_what_could_not_be_read_is_named(site):
    assert "schema" in text(parsed(site / "index.html")) or "dc/hopper-medium" in text(parsed(site / "index.html"))
    assert "Files left out" in text(parsed(site / "index.html"))


def test_runs_without_a_score_say_why(site):
    assert "loss is <b>NaN</b>" in text(parsed(site / SECTION))


def test_a_name_cannot_bring_script_or_tags(site):
    for file in pages(site):
        assert not [one for one in parsed(file).iter("img") if one.get("onerror")]
    assert any("onerror" in row["label"] for row in page_data(site / SECTION)["rows"])


def test_a_model_page_has_its_card_and_its_results(site):
    page = parsed(site / "models/gpt2_dtma.html")
    said = text(page)
    assert "Where dtbench deviates" in said or "deviat" in said
    assert "config.yaml" in said
    assert "gpt2_dtma gate=false" in said
    links = [link.get("href") for link in page.iter("a")]
    assert "../boards/two.html" in links
    foreign = text(parsed(site / "models/their-package-linear.html"))
    assert "not one of dtbench's own" in foreign
    assert "No finished run" in text(parsed(site / "models/tt.html"))


def test_a_dataset_page_says_what_is_known(site):
    here = text(parsed(site / "data/local-hopper-medium.html"))
    for part in ("made here", "Hopper-v5", tiny.FINGERPRINT, "3,234.3", "3,600", "levelmedium", "2.0"):
        assert part in here, part
    (figure,) = page_data(site / "data/local-hopper-medium.html")["figures"].values()
    assert figure["data"][0]["y"] == [1, 0, 2]


def test_a_dataset_that_is_not_here_is_said_to_be_missing(tmp_path):
    samples.save(tmp_path / "results", samples.result())
    build(tmp_path / "results", tmp_path / "site")
    page = text(parsed(tmp_path / "site/data/local-hopper-medium.html"))
    assert "were not on the machine that built this page" in page
    assert "not recorded" in page  # the licence


def test_boards_of_other_kinds_are_pages(site):
    gate = parsed(site / "boards/gate.html")
    assert "Effects" in text(gate)
    assert [image.get("src") for image in gate.iter("img")] == ["gate-effects.svg"]
    assert all(image.get("alt") for image in gate.iter("img"))
    assert "four protocols" in text(parsed(site / "boards/ways.html"))


def test_every_figure_has_a_name_and_a_table(site):
    for file in pages(site):
        for element in parsed(file).iter():
            if element.get("data-figure"):
                assert element.get("aria-label")
                assert element.get("data-figure") in page_data(file)["figures"]
                assert next(parsed(file).iter("table"), None) is not None


def test_no_folder_of_the_machine_is_told(site, root):
    for file in site.rglob("*"):
        if file.is_file() and file.suffix in (".html", ".json"):
            assert str(root.parent) not in file.read_text(encoding="utf-8")


def test_dark_colours_stand_out_and_models_keep_theirs(root):
    """Contrasts computed here from WCAG 2.1's definition, with the style sheet's own background."""

    def luminance(colour: str) -> float:
        shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    sheet = (Path(leaderboard.__file__).parent / "site/assets/site.css").read_text(encoding="utf-8")
    background = re.search(r"--page: light-dark\(#\w+, (#\w+)\)", sheet)[1]
    for colour in COLOURS:
        assert (luminance(on_dark(colour)) + 0.05) / (luminance(background) + 0.05) >= 3  # WCAG 2.1, 1.4.11
    (quick,) = sections(scan(root)[0], Selection(preset="quick"))
    look = styles(quick.rows)
    assert look["dt"].colour == COLOURS[0]
    assert look["gpt2_dtma"].colour == look["gpt2_dtma gate=false"].colour
    assert look["gpt2_dtma"].dash != look["gpt2_dtma gate=false"].dash
