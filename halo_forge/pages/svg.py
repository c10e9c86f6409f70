"""Charts as static SVG: drawn by vl-convert, then checked element by element before they go into a page.

vl-convert carries Vega-Lite and needs no network, no browser and no script in the page.  Its output is not trusted:
only elements and attributes that draw are let through, so that a fault in it cannot bring a script or a link along.
Colours are custom properties of the page's style sheet, so one drawing serves light and dark.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup, escape

from halo_forge.core.wording import visible

_ELEMENTS = frozenset(("svg", "g", "path", "line", "rect", "text", "tspan", "clipPath", "defs"))
_ATTRIBUTES = frozenset(
    (
        "d", "x", "y", "x1", "y1", "x2", "y2", "dx", "dy", "width", "height", "viewBox", "transform", "fill", "stroke",
        "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "opacity",
        "fill-opacity", "stroke-opacity", "text-anchor", "font-size", "font-weight", "pointer-events", "display",
    )
)  # fmt: skip
_DESCRIBED = frozenset(("point", "bar"))
"""Marks whose description (`aria-label`) the page shows on hover: one value each."""
_SAFE_VALUE = re.compile(r"[\w\s.,%#()+-]*")
"""Numbers, names, colours, paths and `var(--name)`: nothing that refers to anything outside."""
_ONE_AT_A_TIME = threading.Lock()
"""vl-convert starts one JavaScript engine per process."""


def draw(specification: Mapping[str, Any], label: str) -> Markup:
    """The SVG of a Vega-Lite specification, as one image with a text alternative.

    Args:
        label: What a screen reader says in place of the picture.

    Raises:
        ValueError: The drawing holds something that does not draw.
    """
    import vl_convert

    with _ONE_AT_A_TIME:
        drawn = vl_convert.vegalite_to_svg(_visible(specification), vl_version="6.4", allowed_base_urls=[])
    root = ElementTree.fromstring(drawn)
    width, height = root.get("width"), root.get("height")
    head = f'<svg viewBox="0 0 {escape(width)} {escape(height)}" role="img" aria-label="{escape(visible(label))}">'
    return Markup(head) + Markup("").join(map(_checked, root)) + Markup("</svg>")


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {key: _visible(item) for key, item in value.items()}
    return [_visible(item) for item in value] if isinstance(value, list | tuple) else value


def _checked(element: ElementTree.Element) -> Markup:
    name = element.tag.rpartition("}")[2]
    if name not in _ELEMENTS:
        raise ValueError(f"a chart holds <{name}>, which is no shape and no text")
    kept = [(key, value) for key, value in element.items() if key in _ATTRIBUTES]
    for key, value in kept:
        if not _SAFE_VALUE.fullmatch(value):
            raise ValueError(f"a chart holds {key}={value[:80]!r}, which is no number, colour or path")
    if element.get("aria-roledescription") in _DESCRIBED and (hover := element.get("aria-label")) is not None:
        kept.append(("data-tip", hover))
    attributes = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in kept)
    inner = escape(element.text or "") + Markup("").join(map(_checked, element))
    # An element's tail is the text after it: within <text> it belongs to what is written.
    return Markup(f"<{name}") + attributes + Markup(">") + inner + Markup(f"</{name}>") + escape(element.tail or "")
