"""Runs blocking sources on worker threads for the token cache."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from ext_authz.errors import SourceError
from ext_authz.sources import Source
from ext_authz.tokens import Fetched, TokenKey

WORKERS = 64  # so many stalled fetches (3 s each) before one destination delays another


class SourceRunner:
    """Finds the source of a key and runs its fetch; `sources` may be replaced at any time."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = sources
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="source")

    async def fetch(self, key: TokenKey) -> Fetched:
        """Return what the source hands over. Raises SourceError naming credential and audience."""
        source = self.sources.get(key.credential)
        if source is None:
            raise SourceError(f"credential {key.credential!r} is gone", code="no_credential")
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, source.fetch, key.audience)
        except SourceError as error:
            error.message = _sentence(key, source, error.message)
            raise
        except Exception:  # noqa: BLE001 - a source that breaks its promise still fails closed
            sentence = _sentence(key, source, "failed unexpectedly")
        raise SourceError(sentence, code="internal_error")

    def close(self) -> None:
        """Start no further fetch; those running end by themselves within their time limit."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _sentence(key: TokenKey, source: Source, message: str) -> str:
    audience = f" for audience {key.audience}" if key.audience else ""
    return f"credential {key.credential!r} ({source.kind}) has no token{audience}: {message}"
