"""Every error that this program raises on purpose: a stable code and one plain sentence.

A message never holds a token, a key or a foreign response body: foreign exceptions are
translated at the module that imports the foreign library, and not chained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def printable(text: str, limit: int = 80) -> str:
    """Return foreign text as one plain ASCII line of at most `limit` characters before escapes."""
    return text[:limit].encode("unicode_escape").decode("ascii")


class SidecarError(Exception):
    """Base of all; `code` is the word that logs, metrics and error bodies carry."""

    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        """Return the sentence, also after it was completed on its way up."""
        return self.message


class BadDestinationError(SidecarError):
    """Raised when an authority cannot be read as one host and one port."""

    code = "bad_destination"


class SourceError(SidecarError):
    """Raised by a credential source that could not produce a token.

    `permanent` says that asking again soon cannot help (a missing permission, a broken key);
    `retry_after_seconds` is what the server asked for, if it did.
    """

    code = "source_failed"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        permanent: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.permanent = permanent
        self.retry_after_seconds = retry_after_seconds


class TokenUnavailableError(SidecarError):
    """Raised when no token can be had now; `retry_after_seconds` says when to ask again."""

    code = "token_unavailable"

    def __init__(self, message: str, *, reason: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class StartError(SidecarError):
    """Raised when a part of the sidecar cannot start or has died."""

    code = "cannot_start"


class UsageError(SidecarError):
    """Raised when the command line or the environment is wrong (exit status 2)."""

    code = "wrong_usage"


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a configuration: where it stands and what was expected."""

    message: str
    key: str = ""
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        where = (
            f"{self.file}:{self.line}: "
            if self.line is not None
            else (f"{self.file}: " if self.file else "")
        )
        return f"{where}{self.key}: {self.message}" if self.key else f"{where}{self.message}"


class ConfigError(SidecarError):
    """Raised with every problem of a configuration at once (exit status 2)."""

    code = "bad_configuration"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
