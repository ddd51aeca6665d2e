"""What the kernel says of processes that a test started, and of their children."""

from __future__ import annotations

from pathlib import Path

from tests.support.polling import until


def children_of(pid: int) -> list[int]:
    """The process ids of the children that its first thread started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def program_of(pid: int) -> str:
    """The first word of its command line."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_gone(pid: int, timeout_seconds: float = 5.0) -> None:
    """Wait until a process is gone. Raises TimeoutError."""
    until(lambda: not is_running(pid), timeout_seconds, f"process {pid} is gone")
