"""Keeps the requests that a stand-in got, and the faults that are switched on."""

from __future__ import annotations

import threading
from collections import Counter

from ext_authz.standins.faults import Fault
from ext_authz.standins.messages import Request

NO_FAULT = Fault()


class Recorder:
    """Requests and faults by kind of endpoint; safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._faults: dict[str, tuple[Fault, int | None]] = {}

    def fail(self, kind: str, fault: Fault, *, times: int | None = None) -> None:
        """Let the endpoint `kind` misbehave, for ever or for the next `times` requests."""
        with self._lock:
            self._faults[kind] = (fault, times)

    def heal(self, kind: str | None = None) -> None:
        """End the misbehaviour of one endpoint, or of all."""
        with self._lock:
            if kind is None:
                self._faults.clear()
            else:
                self._faults.pop(kind, None)

    def record(self, request: Request) -> Fault:
        """Keep the request and return the fault that applies to it."""
        with self._lock:
            self._requests.append(request)
            fault, times = self._faults.get(request.kind, (NO_FAULT, None))
            if times is not None:
                if times <= 1:
                    del self._faults[request.kind]
                else:
                    self._faults[request.kind] = (fault, times - 1)
            return fault

    @property
    def requests(self) -> tuple[Request, ...]:
        """Every request so far, oldest first."""
        with self._lock:
            return tuple(self._requests)

    def requests_of(self, kind: str) -> tuple[Request, ...]:
        """Return the requests to one endpoint, oldest first."""
        return tuple(request for request in self.requests if request.kind == kind)

    def count(self, kind: str) -> int:
        """How often the endpoint `kind` was asked."""
        return len(self.requests_of(kind))

    @property
    def counts(self) -> Counter[str]:
        """How often each endpoint was asked."""
        return Counter(request.kind for request in self.requests)

    def forget(self) -> None:
        """Drop the recorded requests."""
        with self._lock:
            self._requests.clear()
