"""The charts of a page: what is drawn and said, as Vega-Lite specifications with their values as a table.

No statistics here: intervals and rates are those that the run measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from halo_forge.pages.svg import draw

WIDTH, HEIGHT = 300, 170
"""Of the plotting area, in px; the page scales a drawing to its card."""
MOST_POINTS = 400
"""Steps that are drawn one by one; more are averaged in equal parts, with their range."""
COLOURS = tuple(f"var(--series{number})" for number in range(1, 7))
REACHED_COLOURS = tuple(f"var(--reached{number})" for number in range(1, 7))
"""From no program to passing, then not judged."""
_INK, _MUTED, _GRID = "var(--ink)", "var(--muted)", "var(--grid)"
_CONFIG: Mapping[str, Any] = {
    "background": None,
    "view": {"stroke": None},
    "font": "sans-serif",
    "axis": {
        "labelColor": _MUTED, "titleColor": _MUTED, "gridColor": _GRID, "domainColor": _GRID, "tickColor": _GRID,
        "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelLimit": 120,
    },
    "legend": {
        "labelColor": _INK, "titleColor": _MUTED, "labelFontSize": 11, "orient": "top", "title": None,
        "labelLimit": 220, "symbolSize": 70, "symbolOpacity": 1, "columnPadding": 20, "padding": 0, "offset": 8,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Values as text.

    Attributes:
        headers: One for each column; the first cell of a row names it.
    """

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """One drawing with its title, what it shows, and the same values as a table."""

    title: str
    says: str
    drawing: Markup
    table: Table


@dataclass(frozen=True)
class Point:
    """One value of a series.

    Attributes:
        at: Where it stands on the horizontal axis: a version, a cycle (as text), or a step (as a number).
        low, high: Its interval or range; None where there is none.
        remark: Added to what is shown on hover.
    """

    series: str
    at: str | float
    value: float
    low: float | None = None
    high: float | None = None
    remark: str = ""


def text_of(value: float) -> str:
    """A value in three or more significant digits."""
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 else "0" if value == 0 else f"{value:.4g}"


def lines(
    title: str,
    says: str,
    points: Sequence[Point],
    *,
    axis: str,
    rate: bool = False,
    from_zero: bool = False,
    limit: float | None = None,
    form: str | None = None,
    bands: bool = False,
    joined: bool = True,
) -> Chart:
    """Values of one or more series over versions, cycles or steps; with their intervals where they have any.

    Args:
        axis: Title of the horizontal axis.
        rate: The values are in [0, 1], and are drawn from 0 on.
        from_zero: The vertical axis begins at 0, for amounts whose share of the whole counts.
        limit: A dashed line at this value.
        form: How the vertical axis writes numbers (d3-format).
        bands: Intervals are drawn as bands; over steps they always are.
        joined: Points of a series are joined by a line; otherwise each place has one point.
    """
    series = list(dict.fromkeys(point.series for point in points))
    nominal = isinstance(points[0].at, str)
    has_intervals, as_bands = any(point.low is not None for point in points), bands or not nominal
    x: dict[str, Any] = {"field": "at", "title": axis, "type": "ordinal" if nominal else "quantitative"}
    x_axis: dict[str, Any] = {"labelAngle": 0, "labelOverlap": True}
    if all(isinstance(point.at, float) and point.at < 0.01 for point in points):
        x_axis["format"] = ".1~e"  # 0.00002 and its neighbour would overlap
    x |= {"sort": None, "axis": x_axis} if nominal else {"scale": {"nice": False}, "axis": {**x_axis, "tickCount": 5}}
    top = max([point.value for point in points] + [point.high for point in points if point.high is not None])
    scale = {"domain": [0, max(0.1, min(1.0, top * 1.05))]} if rate else {"zero": from_zero, "nice": True}
    y_axis = {"tickCount": 5} if form is None else {"tickCount": 5, "format": form}
    y = {"field": "value", "type": "quantitative", "title": None, "scale": scale, "axis": y_axis}
    encoding: dict[str, Any] = {"x": x, "y": y, "color": _colour(series, () if joined else series)}
    if has_intervals and joined and not as_bands and len(series) > 1:  # which would hide each other at one version
        encoding["xOffset"] = {"field": "series", "sort": series, "scale": {"paddingOuter": 4}}
    layer: list[dict[str, Any]] = []
    if has_intervals:
        mark = {"type": "area", "opacity": 0.2} if as_bands else {"type": "rule", "strokeWidth": 2, "opacity": 0.55}
        ends = {**encoding, "y": {**y, "field": "low"}, "y2": {"field": "high"}}
        layer.append({"mark": {**mark, "aria": False}, "encoding": ends})
    if joined:
        layer.append({"mark": {"type": "line", "strokeWidth": 2, "aria": False}, "encoding": encoding})
    if len(points) <= MOST_POINTS // 2 or nominal:
        mark = {"type": "point", "filled": True, "size": 55, "opacity": 1}
        layer.append({"mark": mark, "encoding": {**encoding, "description": {"field": "tip"}}})
    if limit is not None and (limit <= 0 or limit <= 2 * top):  # a distant limit would flatten what is below it
        mark = {"type": "rule", "strokeDash": [4, 3], "color": _MUTED, "aria": False}
        layer.append({"mark": mark, "encoding": {"y": {"datum": limit}}})
    rows = [_row(point, axis) for point in points]
    return _chart(title, says, {"layer": layer}, rows, _values_table(title, axis, points))


def stacked(
    title: str,
    says: str,
    points: Sequence[Point],
    *,
    axis: str,
    series: Sequence[str],
    unit: str = "share",
    colours: Sequence[str] = COLOURS,
) -> Chart:
    """Parts of a whole, one bar for each version or cycle, in the given order of the series from below.

    Args:
        unit: "share" draws every bar to the same height; another word is the unit of the parts.
    """
    used = [name for name in series if any(point.series == name and point.value for point in points)]
    shown = [point for point in points if point.series in used]
    rows = [{**_row(point, axis), "order": used.index(point.series)} for point in shown]
    stack: Any = "normalize" if unit == "share" else "zero"
    y_axis = {"tickCount": 5, **({"format": "%"} if unit == "share" else {})}
    encoding = {
        "x": {"field": "at", "type": "ordinal", "title": axis, "sort": None, "axis": {"labelAngle": 0}},
        "y": {
            "field": "value", "type": "quantitative", "stack": stack, "axis": y_axis,
            "title": None if unit == "share" else unit,
        },
        "color": _colour(used, series, colours),
        "order": {"field": "order"},
        "description": {"field": "tip"},
    }  # fmt: skip
    mark = {"type": "bar", "stroke": "var(--card)", "strokeWidth": 1}
    return _chart(title, says, {"mark": mark, "encoding": encoding}, rows, _values_table(title, axis, points))


def _colour(series: Sequence[str], all_of: Sequence[str] = (), colours: Sequence[str] = COLOURS) -> dict[str, Any]:
    known = list(all_of or series)
    legend = None if len(series) == 1 and not all_of else {"columns": 3}
    scale = {"domain": list(series), "range": [colours[known.index(name) % len(colours)] for name in series]}
    return {"field": "series", "type": "nominal", "sort": list(series), "scale": scale, "legend": legend}


def _row(point: Point, axis: str) -> dict[str, Any]:
    where = point.at if isinstance(point.at, str) else f"{axis} {point.at:g}"
    tip = f"{where}: {point.series} {text_of(point.value)}"
    if point.low is not None and point.high is not None:
        tip += f" [{text_of(point.low)}, {text_of(point.high)}]"
    tip += f"; {point.remark}" if point.remark else ""
    return {
        "series": point.series, "at": point.at, "value": point.value, "low": point.low, "high": point.high, "tip": tip,
    }  # fmt: skip


def _chart(title: str, says: str, drawn: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], table: Table) -> Chart:
    specification = {"width": WIDTH, "height": HEIGHT, "data": {"values": list(rows)}, "config": _CONFIG, **drawn}
    return Chart(title, says, draw(specification, f"Chart: {title}. Its values are in the table below it."), table)


def _values_table(title: str, axis: str, points: Sequence[Point]) -> Table:
    """One row for each place on the axis, one column for each series."""
    series = list(dict.fromkeys(point.series for point in points))
    places = list(dict.fromkeys(point.at for point in points))
    cells = {(point.at, point.series): _cell(point) for point in points}
    rows = tuple(
        (place if isinstance(place, str) else f"{place:g}", *(cells.get((place, name), "") for name in series))
        for place in places
    )
    return Table(f"{title}: values", (axis, *series), rows)


def _cell(point: Point) -> str:
    shown = text_of(point.value)
    if point.low is not None and point.high is not None:
        shown += f" [{text_of(point.low)}, {text_of(point.high)}]"
    return shown


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_POINTS` points of one series: the mean of each of so many equal parts, with its range."""
    if len(points) <= MOST_POINTS:
        return list(points)
    parts = [
        points[at * len(points) // MOST_POINTS : (at + 1) * len(points) // MOST_POINTS] for at in range(MOST_POINTS)
    ]
    return [
        Point(
            part[0].series,
            part[len(part) // 2].at,
            sum(point.value for point in part) / len(part),
            min(point.value for point in part),
            max(point.value for point in part),
        )
        for part in parts
    ]
