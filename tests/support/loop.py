"""An asyncio loop in a thread of its own, so that synchronous tests can use asyncio servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
START_STOP_SECONDS = 10.0


class LoopThread:
    """Run coroutines in a background loop; stop cancels what is left and joins the thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_seconds: float = START_STOP_SECONDS) -> T:
        """Run a coroutine to its end; raises what it raises, or TimeoutError."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_seconds)

    def stop(self) -> None:
        """Cancel every task, let transports close, end the thread."""
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_STOP_SECONDS)
        self._loop.close()


async def _cancel_others() -> None:
    current = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not current]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # A TLS connection in the middle of its handshake belongs to no task and to no server yet.
    for transport in list(getattr(asyncio.get_running_loop(), "_transports", {}).values()):
        transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)  # lets aborted transports run connection_lost


class LoopServer:
    """A server on a loopback port of its own, living in a `LoopThread`; a context manager.

    Subclasses implement `_open` (start listening, return the port) and `_close`.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self._thread: LoopThread | None = None

    async def _open(self) -> int:
        raise NotImplementedError

    async def _close(self) -> None:
        raise NotImplementedError

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as `socket.create_connection` takes them."""
        return self.host, self.port

    @property
    def authority(self) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def start(self) -> Self:
        """Listen; `port` is known afterwards."""
        self._thread = LoopThread(type(self).__name__)
        try:
            self.port = self._thread.run(self._open())
        except BaseException:
            self._thread.stop()
            self._thread = None
            raise
        return self

    def stop(self) -> None:
        """Cut every connection and stop listening. Stopping twice is allowed."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        thread.run(self._close())
        thread.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
