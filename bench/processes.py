"""What the kernel says of a process: CPU time, memory, children; and starting and ending them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SLOW_STARTS = ("PYTHONDONTWRITEBYTECODE",)  # without .pyc files every start compiles everything
_OURS = ("IDTOKEN_SIDECAR_", "GOOGLE_", "GCE_", "CLOUDSDK_", "UPSTREAM_URL")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all its threads so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mb(pid: int) -> float:
    """Return its resident memory in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def child_of(pid: int) -> int:
    """Return the process id of the one child that its first thread started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def clean_environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this environment without proxies, credentials and what slows Python down."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OURS)
        and not name.lower().endswith("_proxy")
        and name not in _SLOW_STARTS
    }
    return {**kept, "HOME": str(home), **(more or {})}


def start(
    command: Sequence[str], log: Path, environ: Mapping[str, str], *, pipe: bool = False
) -> subprocess.Popen[bytes]:
    """Start a program; its stderr (and stdout, unless `pipe`) goes to the file `log`."""
    with log.open("wb") as out:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe else out,
            stderr=out,
            env=dict(environ),
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End one of ours: SIGTERM, after ten seconds SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def until(
    found: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float = 20.0
) -> None:
    """Wait until `found`. Raises RuntimeError with the log's end if the process ends or hangs."""
    deadline = time.monotonic() + seconds
    while not found():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{log.stem} did not start: {log.read_text()[-2000:]}")
        time.sleep(0.002)
