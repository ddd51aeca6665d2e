"""A small closed-loop load of real HTTP/1.1 clients that notes the fate of every request.

Half of the clients keep their connection, the other half makes a new one for each request. It is
bounded by `MAX_SECONDS` and paced, so that it never fills a machine.
"""

from __future__ import annotations

import enum
import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ext_authz.standins.private_service import PrivateService
from tests.support.sidecar import Address

MAX_SECONDS = 30.0
REQUEST_SECONDS = 10.0
PAUSE_SECONDS = 0.01
AFTER_REFUSAL_SECONDS = 0.02
CLIENTS = 6


class Fate(enum.Enum):
    """What became of a request."""

    OK = "200"
    TRY_LATER = "503 with Retry-After"
    UNAVAILABLE = "503 without Retry-After"
    OTHER = "another status"
    REFUSED = "connection refused: nobody listened"
    RESET = "no byte of an answer; lost if it was forwarded"
    LOST = "an answer cut off, or none in time"


UNANSWERED = {Fate.REFUSED, Fate.RESET}
FAILED = set(Fate) - {Fate.OK}


@dataclass(frozen=True)
class Shot:
    """One request; times are of time.monotonic(). `reused`: not the first on its connection."""

    path: str
    began: float
    ended: float
    fate: Fate
    reused: bool
    detail: str = ""


class Load:
    """Requests to the authorities in turn, through a forward proxy, until the context ends."""

    def __init__(
        self, proxy: Address, authorities: Sequence[str], clients: int = CLIENTS, name: str = "load"
    ) -> None:
        self._proxy = proxy
        self._urls = [f"http://{authority}/{name}" for authority in authorities]
        self._shots: list[Shot] = []
        self._stop = threading.Event()
        self._end = 0.0
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"{name}-{number}")
            for number in range(clients)
        ]

    @property
    def shots(self) -> list[Shot]:
        """Every request that has ended, in that order."""
        return list(self._shots)

    def since(self, moment: float) -> list[Shot]:
        """Those that began after a moment."""
        return [shot for shot in self.shots if shot.began >= moment]

    def counts(self) -> Counter[Fate]:
        """How many met which fate."""
        return Counter(shot.fate for shot in self.shots)

    def lost(self, forwarded: Collection[str]) -> list[Shot]:
        """Accepted and not answered; `forwarded` are the paths that an upstream has seen.

        A connection that the kernel took and nobody accepted any more is reset as well: that is
        no lost request, for nothing has read it, and its client may send it again.
        """
        return [
            shot
            for shot in self.shots
            if shot.fate is Fate.LOST or (shot.fate is Fate.RESET and shot.path in forwarded)
        ]

    def stop(self) -> None:
        """Let every client end its request, and end them."""
        self._stop.set()
        for thread in self._threads:
            thread.join(REQUEST_SECONDS + 5)

    def _run(self, number: int) -> None:
        keeps = number % 2 == 0
        connection: http.client.HTTPConnection | None = None
        for count in itertools.count():
            if self._stop.is_set() or time.monotonic() > self._end:
                break
            url = f"{self._urls[(number + count) % len(self._urls)]}/{number}/{count}"
            connection, fate = self._shoot(connection, url)
            if connection is not None and not keeps:
                connection.close()
                connection = None
            self._stop.wait(AFTER_REFUSAL_SECONDS if fate in UNANSWERED else PAUSE_SECONDS)
        if connection is not None:
            connection.close()

    def _shoot(
        self, connection: http.client.HTTPConnection | None, url: str
    ) -> tuple[http.client.HTTPConnection | None, Fate]:
        """Send one; give the connection back if it may be used again."""
        reused, began = connection is not None, time.monotonic()
        connection = connection or http.client.HTTPConnection(*self._proxy, timeout=REQUEST_SECONDS)
        fate, detail, stays = _exchange(connection, url)
        path = "/" + url.split("/", 3)[3]
        self._shots.append(Shot(path, began, time.monotonic(), fate, reused, detail))
        if not stays:
            connection.close()
        return (connection if stays else None), fate

    def __enter__(self) -> Self:
        self._end = time.monotonic() + MAX_SECONDS
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _exchange(connection: http.client.HTTPConnection, url: str) -> tuple[Fate, str, bool]:
    """Fate, detail, and whether the connection stays open."""
    try:
        if connection.sock is None:
            connection.connect()
    except OSError as error:
        return Fate.REFUSED, repr(error), False
    try:
        connection.request("GET", url)
        answer = connection.getresponse()
    except (ConnectionError, http.client.RemoteDisconnected) as error:
        return Fate.RESET, repr(error), False
    except (OSError, http.client.HTTPException) as error:
        return Fate.LOST, repr(error), False
    try:
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return Fate.LOST, repr(error), False
    return _fate_of(answer), body[:300].decode("latin-1"), not answer.will_close


def _fate_of(answer: http.client.HTTPResponse) -> Fate:
    if answer.status == 200:
        return Fate.OK
    if answer.status != 503:
        return Fate.OTHER
    return Fate.TRY_LATER if answer.getheader("retry-after") else Fate.UNAVAILABLE


def forwarded(service: PrivateService) -> set[str]:
    """The paths of everything that has come to the private service."""
    return {one.path for one in service.requests}


def bare(service: PrivateService) -> list[str]:
    """The paths of what came to it without a good token."""
    return [one.path for one in service.requests if one.refusal is not None]
