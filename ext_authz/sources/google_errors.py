"""Turns whatever google-auth raises into a SourceError; its own texts may hold tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ext_authz.errors import SourceError


@contextmanager
def translated(server: str) -> Iterator[None]:
    """Raise SourceError `source_nonsense` for any foreign exception, without its text or chain."""
    try:
        yield
    except SourceError:
        raise
    except Exception:  # noqa: BLE001 - google-auth raises whatever its parsing runs into
        # KeyError, TypeError, binascii.Error, … : google-auth does not check what it parses.
        sentence = f"{server} answered with something that is not a token"
    else:
        return
    raise SourceError(sentence, code="source_nonsense")
