"""HTML as a tree, so that nothing from the data can become markup: text is escaped when the tree is written.

The page asks for nothing from outside and runs no script; its Content-Security-Policy keeps it so, even if something
that came with the data should look like markup to a browser (https://www.w3.org/TR/CSP3).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

__all__ = ["Child", "definitions", "document", "element", "figure", "legend", "section", "short"]

Child = Element | str | None

STYLE: Final = (Path(__file__).parent / "style.css").read_text("utf-8")
_UNIT = re.compile("([0-9]) %")  # not to be torn apart
# What HTML cannot hold, most control characters and halves of surrogate pairs, and what turns text around
_UNSPEAKABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)


def element(tag: str, /, *children: Child, **attributes: object) -> Element:
    """Return an element; text is escaped, None left out. A trailing "_" is dropped from names, others become "-".

    Example:
        >>> ElementTree.tostring(element("p", "a < b", class_="note"), "unicode", "html")
        '<p class="note">a &lt; b</p>'
    """
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    made = Element(tag, {name: _clean(str(value)) for name, value in names.items()})
    last: Element | None = None
    for child in children:
        if isinstance(child, str):
            text = _clean(child)
            if last is None:
                made.text = (made.text or "") + text
            else:
                last.tail = (last.tail or "") + text
        elif child is not None:
            made.append(child)
            last = child
    return made


def section(title: str, *children: Child) -> Element:
    """Return a section of the page."""
    return element("section", element("h2", title), *children)


def figure(finding: str, *children: Child, title: str | None = None, class_: str | None = None) -> Element:
    """Return a figure whose caption says in words what is to be seen."""
    heading = None if title is None else element("h3", title)
    return element("figure", heading, *children, element("figcaption", finding), class_=class_)


def definitions(rows: Iterable[tuple[str, str]]) -> Element:
    """Return a list of names and values."""
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in rows))


def legend(entries: Iterable[tuple[str, str]]) -> Element:
    """Return the key of a chart: (class of the marks, what they are)."""
    keys = (element("li", element("i", class_=f"key {kind}"), short(name)) for kind, name in entries)
    return element("ul", *keys, class_="legend")


def short(text: str, most: int = 40) -> str:
    """Cut what the data calls itself to a length that a page can bear."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def document(title: str, *children: Child) -> bytes:
    """Return the whole page as UTF-8."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", STYLE),
    )
    page = element("html", head, element("body", element("main", *children)), lang="en")
    return f"<!DOCTYPE html>\n{ElementTree.tostring(page, 'unicode', 'html')}\n".encode()


def _clean(text: str) -> str:
    return _UNIT.sub("\\1\xa0%", _UNSPEAKABLE.sub("\ufffd", text))
