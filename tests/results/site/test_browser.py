"""The site in a real browser, opened from disk: Debian's Chromium without a screen, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.results.site import tiny

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `test`)")
expect = sync_api.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
RANKING = "boards/two.html"
SECTION = "sections/d4rl-short-1-local-data-preset-quick.html"
LEARN = "sections/d4rl-short-1-local-data-preset-learn.html"
KINDS = (
    "index.html", RANKING, SECTION, LEARN, "boards/gate.html", "models/index.html", "models/gpt2_dtma.html",
    "data/index.html", "data/local-hopper-medium.html",
)  # fmt: skip
#: A machine that trains on all cores takes its time over five megabytes of plotly.
PATIENCE_MS = 180_000
expect.set_options(timeout=PATIENCE_MS)
NAMES = "#ranking-table tbody th[scope=row]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Visit:
    """A page, and what went wrong on it."""

    def __init__(self, browser: Any, site: Path, width: int = 1400, theme: str = "light") -> None:
        self.site, self.wrong = site, []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.page.on("console", lambda said: self._note(said.type in ("error", "warning"), said.text))
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        self.page.on("requestfailed", lambda request: self._note(True, request.url))
        self.page.on("request", lambda one: self._note(not one.url.startswith(("file:", "data:", "blob:")), one.url))

    def _note(self, is_wrong: bool, what: str) -> None:
        if is_wrong:
            self.wrong.append(what)

    def open(self, name: str) -> Any:
        self.page.goto((self.site / name).as_uri())
        self.page.wait_for_load_state("load")
        return self.page

    def scroll(self) -> None:
        """Bring everything into view once, so that all figures are drawn."""
        height = self.page.evaluate("document.documentElement.scrollHeight")
        for place in range(0, height + 900, 450):
            self.page.evaluate(f"window.scrollTo({{top: {place}, behavior: 'instant'}})")
            self.page.wait_for_timeout(60)
        if self.page.locator("[data-figure]").count():
            self.page.wait_for_function(
                "[...document.querySelectorAll('[data-figure]')].every(c => c.querySelector('svg'))"
            )


@pytest.fixture
def visit(browser, site) -> Iterator[Visit]:
    made = Visit(browser, site)
    yield made
    made.context.close()
    assert made.wrong == []


def names_are(page: Any, *expected: str) -> None:
    """Wait until these rows are shown, in this order: tables are drawn a moment after a click."""
    expect(page.locator(NAMES)).to_have_text(list(expected))


def shown_rows(page: Any, figure: str) -> set[str]:
    """Return the labels on a figure's vertical axis."""
    return {label.strip() for label in page.locator(f"[data-figure={figure}] .ytick").all_text_contents()}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_pages_fit_and_load_nothing_from_elsewhere(browser, site, width, theme):
    made = Visit(browser, site, width, theme)
    for name in KINDS:
        page = made.open(name)
        made.scroll()
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is {wide} pixels too wide at {width}"
        assert page.evaluate("document.documentElement.dataset.theme") == theme
    made.context.close()
    assert made.wrong == []


def test_a_click_and_a_key_sort(visit):
    page = visit.open(RANKING)
    names_are(page, "gpt2_dtma", "gpt2_dtma gate=false", "dt")
    head = page.locator("#ranking-table thead th", has_text="optimality gap")
    head.locator("[role=button]").wait_for()  # until then a click sorts nothing
    head.click()  # the least first
    expect(head).to_have_attribute("aria-sort", "ascending")
    names_are(page, "gpt2_dtma", "gpt2_dtma gate=false", "dt")
    head.click()
    expect(head).to_have_attribute("aria-sort", "descending")
    names_are(page, "dt", "gpt2_dtma gate=false", "gpt2_dtma")
    iqm = page.locator("#ranking-table thead th", has_text="IQM").locator("[role=button]")
    iqm.focus()
    page.keyboard.press("Enter")
    names_are(page, "gpt2_dtma", "gpt2_dtma gate=false", "dt")


def test_filters_hide_rows_in_tables_and_figures(visit):
    page = visit.open(RANKING)
    visit.scroll()
    assert shown_rows(page, "task-0") == {"gpt2_dtma", "gpt2_dtma gate=false", "dt"}
    page.locator("#filter-model").select_option("dt")
    names_are(page, "dt")
    expect(page.locator("#task-table tbody tr")).to_have_count(1)
    page.locator("[data-figure=task-0]").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelectorAll('[data-figure=task-0] .ytick').length === 1")
    assert shown_rows(page, "task-0") == {"dt"}
    expect(page.locator("#filter-count")).to_contain_text("1 of 3 rows")
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelectorAll('#ranking-table tbody tr').length === 3")
    page.locator("#filter-name").fill("gate")
    names_are(page, "gpt2_dtma gate=false")
    page.locator("#filter-name").fill("nobody")
    expect(page.locator("#ranking-table")).to_contain_text("No row is chosen.")


def test_filter_by_backbone_and_task(visit):
    page = visit.open(SECTION)
    page.locator("#filter-backbone").select_option("bundled")
    names_are(page, "lamo")
    page.get_by_role("button", name="Show all").click()
    page.locator("#filters summary", has_text="Tasks").click()
    page.locator("#filters label", has_text="walker2d-medium").click()
    expect(page.locator("#task-table thead th")).to_have_text(["model", "hopper-medium"])
    expect(page.locator(".panel:visible h3")).to_have_text(["hopper-medium"])


def test_a_tooltip_names_row_and_number(visit):
    page = visit.open(RANKING)
    visit.scroll()
    figure = page.locator("[data-figure=intervals]")
    figure.scroll_into_view_if_needed()
    point = figure.locator(".scatterlayer .point").first.bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2, steps=4)
    label = figure.locator(".hoverlayer .hovertext")
    label.wait_for()
    said = label.text_content()
    shown = page.locator("#ranking-table tbody tr").first.locator("td").nth(3).inner_text()
    assert "gpt2_dtma" in said
    assert shown in said


def test_measure_and_episodes_are_chosen(visit):
    page = visit.open(RANKING)
    visit.scroll()
    dots = "document.querySelectorAll('[data-figure=task-0] .point').length"
    before = page.evaluate(dots)
    page.get_by_label("show every episode").check()
    page.wait_for_function(f"{dots} > {before}")
    assert page.evaluate(dots) == before + 3 * 3 * 2  # rows, seeds, episodes
    axis = "document.querySelector('[data-figure=intervals]').data[0].hovertemplate"
    assert "IQM" in page.evaluate(axis)
    page.locator("input[name=measure][value=median]").check()
    page.wait_for_function(f"{axis}.includes('median')")


def test_two_rows_are_compared(visit):
    page = visit.open(RANKING)
    page.locator("#compare-a").select_option("dt")
    page.locator("#compare-b").select_option("gpt2_dtma")
    result = page.locator("#compare-result")
    expect(result).to_contain_text("P(gpt2_dtma > dt) = 1.00")  # every run of the one is above every run of the other
    assert "can be told apart" in result.inner_text()
    assert result.locator("tbody tr").count() == len(tiny.TASKS)
    assert "+30.0" in result.inner_text()
    page.locator("#compare-b").select_option("dt")
    expect(result).to_contain_text("two different rows")


def test_the_theme_is_switched_and_kept(visit):
    page = visit.open(RANKING)
    visit.scroll()
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    line = "document.querySelector('[data-figure=profile]').data.at(-1).line.color"
    before = page.evaluate(line)
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(colour) != light
    page.locator("[data-figure=profile]").scroll_into_view_if_needed()
    assert page.evaluate(line) != before  # dt's dark blue would disappear
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    visit.open("models/index.html")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_keyboard_reaches_the_content(visit):
    page = visit.open(RANKING)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


def test_learning_curves_are_drawn(visit):
    page = visit.open(LEARN)
    visit.scroll()
    assert page.locator("[data-figure=curves-0] .scatterlayer .trace").count() == 3  # two seeds and their mean


def test_without_scripts_the_numbers_are_there(browser, site):
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto((site / RANKING).as_uri())
    assert [label.strip() for label in page.locator(NAMES).all_inner_texts()] == [
        "gpt2_dtma",
        "gpt2_dtma gate=false",
        "dt",
    ]
    assert page.locator("#filters").is_hidden()
    context.close()
