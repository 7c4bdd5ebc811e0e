"""HTML that is escaped by construction, and the look of a page."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from geodm_lightning.reporting.theme import DARK, LIGHT, Theme


class Markup(str):
    """Text that is HTML already; any other text is escaped when it enters a page."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str) -> Markup:
    """Return an element; children that are not :class:`Markup` are escaped.

    Args:
        name: Tag, such as ``"p"``.
        children: Content in order.
        attributes: Escaped values; a trailing ``_`` of a name is dropped (``class_``).

    Example:
        >>> element("p", "a < b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    return Markup(f"<{name}{_attributes(attributes)}>{join(children)}</{name}>")


def void_element(name: str, /, **attributes: str) -> Markup:
    """Return an element that has no content, such as ``img``."""
    return Markup(f"<{name}{_attributes(attributes)}>")


def join(children: Iterable[str]) -> Markup:
    """Return children one after another, escaped where they are not :class:`Markup`."""
    return Markup(
        "".join(child if isinstance(child, Markup) else html.escape(child) for child in children)
    )


def _attributes(attributes: dict[str, str]) -> str:
    return "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for name, value in attributes.items()
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Return a table that scrolls sideways on a narrow screen; the first column is text."""
    head = element("tr", *(element("th", heading, scope="col") for heading in headings))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    content = element("table", element("thead", head), element("tbody", *body))
    return element("div", content, class_="scroll")


def section(title: str, *children: str) -> Markup:
    """Return a titled part of a page."""
    return element("section", element("h2", title), *children)


def fold(title: str, *children: str) -> Markup:
    """Return a part that opens on a tap."""
    return element("details", element("summary", title), *children)


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as an address that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def themed_figure(light: bytes, dark: bytes, *, alt: str) -> Markup:
    """Return an SVG picture that follows the reader's light or dark setting."""
    source = void_element(
        "source", srcset=data_uri(dark, "image/svg+xml"), media="(prefers-color-scheme: dark)"
    )
    image = void_element("img", src=data_uri(light, "image/svg+xml"), alt=alt)
    return element("figure", element("picture", source, image))


def page(title: str, *children: str) -> str:
    """Return a complete HTML document that needs nothing from elsewhere."""
    head = element(
        "head",
        void_element("meta", charset="utf-8"),
        void_element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void_element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(_style())),
    )
    body = element("body", element("main", *children))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _style() -> str:
    return (
        f":root{{{_variables(LIGHT)}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
        f"{STYLE}"
    )


def _variables(theme: Theme) -> str:
    return (
        f"--background:{theme.background};--ink:{theme.ink};--muted:{theme.muted};"
        f"--grid:{theme.grid};--accent:{theme.colours[0]}"
    )


STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--background);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
main{max-width:46rem;margin:0 auto;padding:2rem 1.1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem;letter-spacing:-.01em}
h2{font-size:1.15rem;margin:0 0 .8rem}
h3{font-size:.95rem;margin:1.2rem 0 .4rem}
section{margin-top:2.2rem;padding-top:1.4rem;border-top:1px solid var(--grid)}
p,li{margin:.3rem 0}
h1,h2,h3,p,li,summary{overflow-wrap:anywhere}
.lead,.note,figcaption{color:var(--muted)}
.note{font-size:.85rem;padding-left:1.1rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem;
margin:1.3rem 0 0;padding:0;list-style:none}
.tiles li{border:1px solid var(--grid);border-radius:.6rem;padding:.7rem .9rem;margin:0}
.tiles b{display:block;font-size:1.2rem;white-space:nowrap;font-variant-numeric:tabular-nums}
.tiles span{color:var(--muted);font-size:.85rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.42rem .7rem .42rem 0;text-align:right;border-bottom:1px solid var(--grid);
white-space:nowrap}
th{color:var(--muted);font-weight:500;font-size:.82rem;white-space:normal;vertical-align:bottom}
th:first-child,td:first-child{text-align:left}
.facts td{white-space:normal;overflow-wrap:anywhere;text-align:left;vertical-align:top}
.facts td:first-child{color:var(--muted);white-space:nowrap}
.facts th{text-align:left}
figure{margin:1rem 0}
figure img{display:block;width:100%;height:auto}
.strips{display:grid;grid-template-columns:minmax(3.2rem,max-content) 1fr;gap:.25rem .7rem;
align-items:center;font-size:.82rem}
.strips span{text-align:right;color:var(--muted);max-width:8rem;overflow-wrap:anywhere}
.strips img{display:block;max-width:100%;image-rendering:pixelated}
details{margin:.6rem 0}
summary{cursor:pointer;color:var(--accent)}
pre{overflow:auto;max-height:28rem;padding:.9rem;border:1px solid var(--grid);
border-radius:.6rem;font:.8rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
"""
