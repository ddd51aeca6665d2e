"""Runs another program, bounded in time and output, without a shell and without its complaints."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ext_authz.errors import SourceError

MAX_OUTPUT_BYTES = 64 * 1024


def output_of(program: Path, arguments: Sequence[str], seconds: float) -> bytes | None:
    """Return what the program writes to stdout, None if it ends with another status than 0.

    What it writes to stderr may hold anything and is not read. Raises SourceError when it cannot
    be started, writes too much or takes longer than `seconds`; it is then killed with its children.
    """
    end = time.monotonic() + seconds
    shown = f"{program} {arguments[0]}"
    with _started(program, arguments) as process:
        assert process.stdout is not None
        try:
            data = _read(process.stdout, end, shown, seconds)
            status = process.wait(max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            _kill(process)
            raise _slow(shown, seconds) from None
        except BaseException:
            _kill(process)
            raise
    return data if status == 0 else None


def _started(program: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - a program of ours with a list, no shell
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        sentence = f"{program} cannot be started: {error.strerror}"
        raise SourceError(sentence, code="command_missing", permanent=True) from None


def _read(stream: IO[bytes], end: float, shown: str, seconds: float) -> bytes:
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            left = end - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise _slow(shown, seconds)
            chunk = os.read(stream.fileno(), 4096)
            if not chunk:
                return data
            data += chunk
            if len(data) > MAX_OUTPUT_BYTES:
                sentence = f"{shown} wrote more than {MAX_OUTPUT_BYTES} bytes"
                raise SourceError(sentence, code="source_nonsense")


def _slow(shown: str, seconds: float) -> SourceError:
    return SourceError(f"{shown} did not end within {seconds:.0f} s", code="source_slow")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it and what it has started; gcloud is a shell script that starts a Python."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        return  # all of it has ended
