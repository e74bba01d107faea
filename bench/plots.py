"""Pictures of what a run found: bars of what a delivery costs and how long it takes, curves of growth. PNG, drawn with Pillow.

An axis that spans more than a factor of twenty is logarithmic, and says so by its labels alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bench.results import Run

_width, _height, _margin = 640, 360, 64
_ink, _pale, _blue = "#222222", "#dddddd", "#3566a8"
_log_above = 20.0
_font = ImageFont.load_default(13)


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One for each name."""

    title: str
    values: Sequence[tuple[str, float]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points, joined in their order."""

    title: str
    x_name: str
    points: Sequence[tuple[float, float]]


def draw(run: Run, path: Path) -> None:
    """Beside the result file: what chat costs, and the curves of growth; of what did not run there is no picture."""
    if any(one.path for one in run.results):
        draw_chat(run, path.with_suffix(".png"))
    if any(one.scenario.startswith("sessions-") for one in run.results):
        draw_growth(run, path.with_name(f"{path.stem}-growth.png"))


def draw_chat(run: Run, path: Path) -> None:
    """Of the scenarios that say which path they took."""
    chat = [one for one in run.results if one.path]
    _draw(
        [
            Bars(
                title="server CPU a delivery, µs", values=[(one.scenario, one.server_us_per_delivery) for one in chat]
            ),
            Bars(title="50th percentile, ms", values=[(one.scenario, one.p50_ms) for one in chat]),
            Bars(title="99th percentile, ms", values=[(one.scenario, one.p99_ms) for one in chat]),
        ],
        path,
    )


def draw_growth(run: Run, path: Path) -> None:
    sessions = [one for one in run.results if one.scenario.startswith("sessions-")]
    rooms = [one for one in run.results if one.scenario.startswith("rooms-")]
    count = "sessions_count"
    panels = [
        Curve(
            title="server CPU a delivery, µs, at the same rate",
            x_name="sessions",
            points=[(one.extra[count], one.server_us_per_delivery) for one in sessions],
        ),
        Curve(
            title="memory of the server since its start, MB",
            x_name="sessions",
            points=[(one.extra[count], one.extra["growth_kb"] / 1000) for one in sessions],
        ),
        Curve(
            title="server CPU a delivery, µs, at the same rate",
            x_name="members of a room",
            points=[(one.extra["members_count"], one.server_us_per_delivery) for one in rooms],
        ),
    ]
    _draw([panel for panel in panels if panel.points], path)


def _draw(panels: Sequence[Bars | Curve], path: Path) -> None:
    image = Image.new("RGB", (_width, _height * len(panels)), "white")
    draw = ImageDraw.Draw(image)
    for index, panel in enumerate(panels):
        top = index * _height
        draw.text((_margin, top + 12), panel.title, fill=_ink, font=_font)
        if isinstance(panel, Bars):
            _draw_bars(draw, panel, top)
        else:
            _draw_curve(draw, panel, top)
    image.save(path)


def _scale(values: Sequence[float], begin: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """From a value to its place on the paper; and the values that are labelled."""
    low, high = min(values), max(values)
    if low > 0 and high / low > _log_above:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return (
            lambda value: begin + (math.log10(value) - first) / (last - first) * (end - begin),
            [10.0**power for power in range(first, last + 1)],
        )
    step = 10.0 ** math.floor(math.log10(high or 1.0))
    step = step / 2 if high / step < 4 else step
    top = math.ceil((high or 1.0) / step) * step
    return lambda value: begin + value / top * (end - begin), [step * index for index in range(round(top / step) + 1)]


def _draw_grid(draw: ImageDraw.ImageDraw, to_y: Callable[[float], float], ticks: Sequence[float]) -> None:
    for tick in ticks:
        y = to_y(tick)
        draw.line((_margin, y, _width - _margin / 2, y), fill=_pale)
        draw.text((_margin - 8, y), f"{tick:,.4g}", fill=_ink, font=_font, anchor="rm")


def _draw_bars(draw: ImageDraw.ImageDraw, panel: Bars, top: int) -> None:
    floor = top + _height - _margin
    to_y, ticks = _scale([value for _, value in panel.values], floor, top + _margin)
    _draw_grid(draw, to_y, ticks)
    width = (_width - 1.5 * _margin) / len(panel.values)
    for index, (name, value) in enumerate(panel.values):
        left = _margin + index * width
        draw.rectangle((left + width * 0.2, to_y(value), left + width * 0.8, floor), fill=_blue)
        draw.text((left + width / 2, to_y(value) - 4), f"{value:,.4g}", fill=_ink, font=_font, anchor="mb")
        draw.text((left + width / 2, floor + 8), name, fill=_ink, font=_font, anchor="mt")


def _draw_curve(draw: ImageDraw.ImageDraw, panel: Curve, top: int) -> None:
    floor = top + _height - _margin
    to_y, y_ticks = _scale([y for _, y in panel.points], floor, top + _margin)
    to_x, x_ticks = _scale([x for x, _ in panel.points], _margin, _width - _margin)
    _draw_grid(draw, to_y, y_ticks)
    for tick in x_ticks:
        draw.text((to_x(tick), floor + 8), f"{tick:,.6g}", fill=_ink, font=_font, anchor="mt")
    draw.text((_width / 2, floor + 28), panel.x_name, fill=_ink, font=_font, anchor="mt")
    places = [(to_x(x), to_y(y)) for x, y in panel.points]
    draw.line(places, fill=_blue, width=2)
    for (x, y), (_, value) in zip(places, panel.points, strict=True):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_blue)
        draw.text((x, y - 8), f"{value:,.4g}", fill=_ink, font=_font, anchor="mb")
