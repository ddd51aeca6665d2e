"""Requests and answers of the stand-ins, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived; `kind` names the endpoint, `time` is monotonic seconds."""

    kind: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    time: float

    def header(self, name: str) -> str | None:
        """Return the first value of a header, whatever its case."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    @property
    def form(self) -> dict[str, str]:
        """The body as an HTML form, first value of each field; empty when it is none."""
        return first_values(self.body.decode("utf-8", "replace"))

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; empty when it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Response:
    """What an endpoint answers."""

    status: int
    body: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = ()


def json_response(status: int, value: object) -> Response:
    """Return `value` as a JSON answer."""
    headers = (("Content-Type", "application/json; charset=UTF-8"),)
    return Response(status, json.dumps(value).encode(), headers)


def text_response(
    status: int, text: str, content_type: str = "text/html", **headers: str
) -> Response:
    """Return `text` as an answer of `content_type`; underscores in header names become dashes."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(status, text.encode(), (("Content-Type", content_type), *named))


def first_values(text: str) -> dict[str, str]:
    """Read a query string or form; of a repeated field the first value counts."""
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}
