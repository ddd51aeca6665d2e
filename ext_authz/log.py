"""JSON lines on stderr, written from an allow-list of fields: nothing else of a record gets out."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, TextIO

# The only fields a line may carry. No headers, no bodies, no tokens, no foreign exception texts.
FIELDS = (
    "code",
    "credential",
    "audience",
    "destination",
    "rule",
    "listener",
    "outcome",
    "reason",
    "retry_after_seconds",
    "expires_in_seconds",
    "file",
    "line",
    "key",
    "address",
    "kind",
    "found",
    "exit_status",
)
LEVELS = ("debug", "info", "warning", "error")
_logger = logging.getLogger("ext_authz")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            # Another library's text may hold anything: only its name is shown.
            "event": record.getMessage() if record.name == _logger.name else record.name,
        }
        fields: dict[str, Any] = getattr(record, "fields", {})
        line.update((name, fields[name]) for name in FIELDS if name in fields)
        if record.exc_info and record.exc_info[0] is not None:
            # The type says enough to find the place; the text may hold what must not be shown.
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(level: str, stream: TextIO | None = None) -> None:
    """Send this program's lines of `level` and above to stderr; silence every other library.

    google-auth, urllib3 and grpc may log requests and bodies at their debug level.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines())
    _logger.handlers[:] = [handler]
    _logger.setLevel(level.upper())
    _logger.propagate = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)


def debug(event: str, **fields: object) -> None:
    """Log a line that only a developer wants."""
    _logger.debug(event, extra={"fields": fields})


def info(event: str, **fields: object) -> None:
    """Log a line that tells of normal work."""
    _logger.info(event, extra={"fields": fields})


def warning(event: str, **fields: object) -> None:
    """Log a line that somebody should read."""
    _logger.warning(event, extra={"fields": fields})


def error(event: str, **fields: object) -> None:
    """Log a line that somebody must act upon."""
    _logger.error(event, extra={"fields": fields})
