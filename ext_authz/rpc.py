"""gRPC apart from HTTP/2: what a method of ours is, how messages are framed, how a call can fail.

Source: PROTOCOL-HTTP2.md and statuscodes.md of gRPC.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

MAX_MESSAGE_BYTES = 1024 * 1024
PREFIX_BYTES = 5  # whether the message is compressed (1 byte), and its length (4)


class Status(enum.IntEnum):
    """The codes of `grpc-status` that we send."""

    OK = 0
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class RpcError(Exception):
    """Raised by a method to end its call with a status and one sentence (`grpc-message`)."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the names in the client's certificate, verified; none without mTLS."""

    names: frozenset[str] = frozenset()


Answer = bytes | Coroutine[Any, Any, bytes]
UnaryCall = Callable[[bytes, Caller], Answer]
StreamCall = Callable[[AsyncIterator[bytes], Caller], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Unary:
    """One message in, one out; at once (bytes) or later (a coroutine)."""

    call: UnaryCall


@dataclass(frozen=True, slots=True)
class Stream:
    """Messages in, messages out, for as long as the client likes."""

    call: StreamCall


Methods = Mapping[str, Unary | Stream]
"""By path: `/package.Service/Method`."""


async def whole(answer: Answer) -> bytes:
    """Wait for an answer, if there is anything to wait for."""
    return answer if isinstance(answer, bytes) else await answer


def framed(message: bytes) -> bytes:
    """Return the message as it travels."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Messages:
    """Cuts what arrives on one call into messages."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that are whole now. Raises RpcError for one that we do not take."""
        rest, found = self._rest + data if self._rest else data, []
        while len(rest) >= PREFIX_BYTES:
            length = int.from_bytes(rest[1:PREFIX_BYTES], "big")
            if rest[0]:
                raise RpcError(Status.UNIMPLEMENTED, "expected messages without compression")
            if length > MAX_MESSAGE_BYTES:
                raise RpcError(
                    Status.RESOURCE_EXHAUSTED,
                    f"expected a message of at most {MAX_MESSAGE_BYTES} bytes, got {length}",
                )
            end = PREFIX_BYTES + length
            if len(rest) < end:
                break
            found.append(rest[PREFIX_BYTES:end])
            rest = rest[end:]
        self._rest = rest
        return found

    @property
    def has_rest(self) -> bool:
        """Say whether a message has begun and not ended."""
        return bool(self._rest)
