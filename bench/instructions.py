"""Instructions per request, counted by callgrind: a figure that no neighbour on the machine moves.

CPU time is what a user pays, but on a shared machine it moves by a third; instructions repeat to
half a per cent. They leave out the kernel and what caches cost.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench import contenders, load
from bench.contenders import Contender
from bench.stage import Stage
from ext_authz.envoy_process import find_envoy

REQUESTS = 1000
_CLIENTS = 8
_WRAPPER = """\
#!/bin/sh
exec valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file={out}.%p {envoy} "$@"
"""


def count(stage: Stage) -> dict[str, float] | None:
    """Return instructions of Envoy per request by contender; None where there is no valgrind."""
    if not shutil.which("valgrind"):
        return None
    url = f"http://{stage.hosts % 0}/"
    found = {}
    for name, start in _CONTENDERS.items():
        with _counted(stage) as envoy, contextlib.ExitStack() as stack:
            contender = stack.enter_context(start(stage, envoy))
            load.h2load(url, contender.address, "http1", REQUESTS // 5, clients=_CLIENTS)
            _switch(contender.proxy, "on")
            outcome = load.h2load(url, contender.address, "http1", REQUESTS, clients=_CLIENTS)
            _switch(contender.proxy, "off")
            stack.close()  # callgrind writes at its end, which this waits for
            found[name] = _total(Path(f"{envoy}.out.{contender.proxy}")) / outcome.requests
    return found


_CONTENDERS: dict[str, Callable[[Stage, Path], AbstractContextManager[Contender]]] = {
    "bare": lambda stage, envoy: contenders.bare(stage, "counted", program=envoy),
    "hot": lambda stage, envoy: contenders.sidecar(stage, "counted", cache=True, program=envoy),
    "cache off": lambda stage, envoy: contenders.sidecar(
        stage, "counted", cache=False, program=envoy
    ),
    "gcp_authn dynamic": lambda stage, envoy: contenders.gcp_authn(
        stage, "counted", static=False, program=envoy
    ),
}


@contextmanager
def _counted(stage: Stage) -> Iterator[Path]:
    """Give a program that runs Envoy under callgrind, and remove what it wrote."""
    path = stage.directory / "envoy-counted"
    path.write_text(_WRAPPER.format(out=f"{path}.out", envoy=find_envoy(None)))
    path.chmod(0o755)
    try:
        yield path
    finally:
        for each in stage.directory.glob(f"{path.name}*"):
            each.unlink()


def _switch(pid: int, state: str) -> None:
    subprocess.run(["callgrind_control", "-i", state, str(pid)], capture_output=True, check=True)


def _total(path: Path) -> int:
    total = re.search(r"^totals: (\d+)", path.read_text(), re.MULTILINE)
    if not total:
        raise RuntimeError(f"callgrind wrote no total to {path}")
    return int(total[1])
