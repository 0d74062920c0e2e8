"""Templates and markdown → HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from dtbench.results.site.libraries import need

#: What a link of a card points to on the site, and None for what the site does not have.
Resolve = Callable[[str], str | None]
#: Addresses outside, which are left as they are.
_OUTSIDE = re.compile(r"(?i)(?:https?:|mailto:)")
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")


def environment() -> Any:
    """Return the jinja2 environment of the site's templates.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    jinja2 = need("jinja2")
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("dtbench.results.site"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["embed"] = embed
    made.filters["paper"] = paper
    return made


def embed(content: Any) -> Any:
    """Return plain values as JSON that cannot end the script element around it."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return need("markupsafe").Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def paper(text: str) -> Any:
    """Return a paper's name with its arXiv number as a link."""
    markupsafe = need("markupsafe")
    return markupsafe.Markup(
        _ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', str(markupsafe.escape(text)))
    )


def plain_link(href: str) -> str | None:
    """Resolve no link within the project: for texts that were written for another place."""
    del href
    return None


def markdown(text: str, resolve: Resolve = plain_link, *, demote: int = 1, anchors: bool = True) -> Any:
    """Return markdown as HTML: no raw HTML in it, tables scroll by themselves, headings are `demote` levels lower.

    Args:
        text: CommonMark with tables.
        resolve: where links within the project lead to; one that leads nowhere is left as text.
        anchors: give headings ids, as GitHub does; only where one such text is on a page.
    """
    parser = need("markdown_it").MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens, seen = parser.parse(text), dict[str, int]()
    for index, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, max(1, int(token.tag[1]) + demote))}"
        if token.type == "heading_open" and anchors:
            name = anchor(tokens[index + 1].content)
            seen[name] = seen.get(name, -1) + 1
            token.attrSet("id", f"{name}-{seen[name]}" if seen[name] else name)
        if token.type == "fence" or token.type == "code_block":
            token.attrSet("tabindex", "0")
        if token.type == "inline":
            token.children = _resolved(token.children or [], resolve)
    html = parser.renderer.render(tokens, parser.options, {})
    html = html.replace("<table>", '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>')
    return need("markupsafe").Markup(html.replace("</table>", "</table></div>").replace("<th></th>", "<td></td>"))


def anchor(heading: str) -> str:
    """Return a heading's id as GitHub makes it.

    >>> anchor("Where dtbench deviates, and why")
    'where-dtbench-deviates-and-why'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") or "heading"


def _resolved(children: list[Any], resolve: Resolve) -> list[Any]:
    """Resolve the links and figures of a line; drop the mark-up of those that lead nowhere."""
    kept, open_links = [], []
    for child in children:
        if child.type == "link_open":
            target = str(child.attrGet("href"))
            found = target if _OUTSIDE.match(target) or target.startswith("#") else resolve(target)
            open_links.append(found)
            if found is None:
                continue
            child.attrSet("href", found)
        elif child.type == "link_close" and open_links.pop() is None:
            continue
        elif child.type == "image":
            source = str(child.attrGet("src"))
            found = None if _OUTSIDE.match(source) else resolve(source)
            if found is None:
                continue
            child.attrSet("src", found)
        kept.append(child)
    return kept
