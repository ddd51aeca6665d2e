"""Draws horizontal bars as SVG, by hand: no plotting library for three pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT = 800, 230, 110
_BAR, _GAP, _TOP = 22, 10, 56
_COLOURS = ("#4c78a8", "#f58518")
_STYLE = "font-family: system-ui, sans-serif; font-size: 13px; fill: #333"


@dataclass(frozen=True)
class Bar:
    """One bar: stacked parts, and the text behind it."""

    name: str
    parts: Sequence[float]
    text: str


def bars(title: str, legend: Sequence[str], rows: Sequence[Bar]) -> str:
    """Return a complete SVG document. All lengths share one scale that starts at 0."""
    longest = max((sum(row.parts) for row in rows), default=1.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    height = _TOP + len(rows) * (_BAR + _GAP) + _GAP
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="22" style="{_STYLE}; font-weight: 600">{escape(title)}</text>',
        *_legend(legend),
    ]
    for number, row in enumerate(rows):
        body += _bar(row, _TOP + number * (_BAR + _GAP), scale)
    return "\n".join([*body, "</svg>"]) + "\n"


def _legend(names: Sequence[str]) -> list[str]:
    found = []
    for number, name in enumerate(names):
        x = _LEFT + number * 190
        found.append(
            f'<rect x="{x}" y="34" width="12" height="12" fill="{_COLOURS[number]}"/>'
            f'<text x="{x + 18}" y="45" style="{_STYLE}">{escape(name)}</text>'
        )
    return found


def _bar(row: Bar, y: float, scale: float) -> list[str]:
    middle = y + _BAR / 2 + 5
    found = [
        f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end" style="{_STYLE}">'
        f"{escape(row.name)}</text>"
    ]
    x = float(_LEFT)
    for part, colour in zip(row.parts, _COLOURS, strict=False):
        width = part * scale
        found.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
        )
        x += width
    found.append(f'<text x="{x + 6:.1f}" y="{middle}" style="{_STYLE}">{escape(row.text)}</text>')
    return found
