"""Turns whatever google-auth raises into a SourceError; its own texts may hold tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ext_authz.errors import SourceError
from ext_authz.sources.transport import RefusedError


@contextmanager
def translated(
    server: str, *, sentence: str = "", code: str = "source_nonsense", permanent: bool = False
) -> Iterator[None]:
    """Raise SourceError for any foreign exception, without its text or chain.

    `sentence` replaces the usual one, that `server` answered with no token.
    """
    try:
        yield
    except SourceError:
        raise
    except Exception:  # noqa: BLE001 - google-auth raises whatever its parsing runs into
        # KeyError, TypeError, binascii.Error, … : google-auth does not check what it parses.
        sentence = sentence or f"{server} answered with something that is not a token"
    else:
        return
    raise SourceError(sentence, code=code, permanent=permanent) from None


@contextmanager
def advised(advice: Callable[[RefusedError], tuple[str, str]]) -> Iterator[None]:
    """Complete a refusal with what to do about it.

    `advice` returns a sentence and a code of its own; either may be empty, and then all stays.
    """
    try:
        yield
    except RefusedError as error:
        sentence, code = advice(error)
        if sentence:
            error.message = f"{error.message}; {sentence}"
        error.code = code or error.code
        raise
