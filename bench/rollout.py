"""`python -m bench.rollout`: what clients see while the service or Envoy is restarted under load.

Loopback only, six paced clients; prints a Markdown table of medians. The load, the stand-ins and
the scenarios' steps are those of tests/integration/test_rollout.py.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path

from bench.arithmetic import median
from tests.integration.test_rollout import drain, settings, warm
from tests.integration.test_service_away import free_port
from tests.support.envoy import Envoy
from tests.support.load import Fate, Load, bare, forwarded
from tests.support.polling import until
from tests.support.sidecar import Sidecar
from tests.support.world import World

HEAD = ("", "gap ms", "back after ms", "503", "refused or reset", "lost", "of requests")
AFTERWARDS_SECONDS = 0.7


@dataclass(frozen=True)
class Seen:
    """One round. `gap`: longest time without a good answer; `back`: from ready to the next one."""

    gap_ms: float
    back_ms: float
    unavailable: int
    untaken: int
    lost: int
    total: int


class Stage:
    """What one round needs: the stand-ins, and programs that end with it."""

    def __init__(self, world: World, directory: Path, stack: ExitStack) -> None:
        self.world = world
        self._directory = directory
        self._stack = stack
        self._count = 0
        self.address = f"127.0.0.1:{free_port()}"
        self.port = free_port()

    def service(self) -> Sidecar:
        """Start `serve`, always at the same address."""
        flag = f"--listen={self.address}"
        made = self.world.sidecar(self._place(), flag, "--log-level=error", command="serve")
        return self._stack.enter_context(made)

    def both(self) -> Sidecar:
        """Start `run`, always at the same address."""
        flags = (f"--forward-port={self.port}", "--log-level=error")
        return self._stack.enter_context(self.world.sidecar(self._place(), *flags))

    def envoy(self) -> Envoy:
        """Start Envoy, always at the same address."""
        wanted = settings(self.world, self.address, self.port)
        return self._stack.enter_context(Envoy(self._place(), wanted))

    def load(self, *authorities: str, name: str = "load", clients: int = 6) -> Load:
        """Make the load; it is not running yet."""
        chosen = authorities or (self.world.service_authority,)
        return Load(("127.0.0.1", self.port), chosen, clients=clients, name=name)

    def _place(self) -> Path:
        self._count += 1
        return self._directory / str(self._count)


def hot_destinations(stage: Stage) -> tuple[Load, float]:
    """The service is ended and started anew; Envoy's workers know the destination."""
    service = stage.service()
    stage.envoy()
    with stage.load() as load:
        warm(load)
        service.stop()
        stage.service()
        return _afterwards(load)


def other_destinations(stage: Stage) -> tuple[Load, float]:
    """The same with destinations that nobody has asked for in the last ten seconds."""
    service = stage.service()
    stage.envoy()
    authorities = [stage.world.cold() for _ in range(6)]
    service.stop()
    with stage.load(*authorities) as load:
        until(lambda: len(load.shots) > 3, 15, "requests are refused")
        stage.service()
        return _afterwards(load)


def drained_envoy(stage: Stage) -> tuple[Load, float]:
    """Envoy by itself is drained, ended and started anew."""
    return _envoy_anew(stage, drain)


def ended_envoy(stage: Stage) -> tuple[Load, float]:
    """The same without draining: SIGTERM alone."""
    return _envoy_anew(stage, lambda envoy: None)


def _envoy_anew(stage: Stage, before: Callable[[Envoy], None]) -> tuple[Load, float]:
    stage.service()
    envoy = stage.envoy()
    with stage.load() as load:
        warm(load)
        before(envoy)
        envoy.stop()
        stage.envoy()
        return _afterwards(load)


def envoy_beside(stage: Stage) -> tuple[Load, float]:
    """A new service, then a new Envoy on the same port before the old one is drained."""
    service = stage.service()
    old = stage.envoy()
    with stage.load() as load:
        warm(load)
        service.stop()
        stage.service()
        stage.envoy()
        ready = time.monotonic()
        drain(old)
        old.stop()
        return _afterwards(load, ready)


def run_again(stage: Stage) -> tuple[Load, float]:
    """`run` gets SIGTERM, and another is started when it has ended."""
    own = stage.both()
    with stage.load() as load:
        warm(load)
        own.stop()
        stage.both()
        return _afterwards(load)


SCENARIOS: dict[str, Callable[[Stage], tuple[Load, float]]] = {
    "`serve` restarted, destinations in use": hot_destinations,
    "`serve` restarted, other destinations": other_destinations,
    "Envoy drained and restarted": drained_envoy,
    "Envoy restarted without draining": ended_envoy,
    "both replaced, the new Envoy beside the old": envoy_beside,
    "`run` restarted": run_again,
}


def _afterwards(load: Load, ready: float | None = None) -> tuple[Load, float]:
    """Let the load run on for a little while; give it with the moment at which all was ready."""
    ready = ready or time.monotonic()
    time.sleep(AFTERWARDS_SECONDS)
    load.stop()
    return load, ready


def measure(load: Load, ready: float, world: World) -> Seen:
    """Count one round."""
    counts, good = load.counts(), sorted(s.ended for s in load.shots if s.fate is Fate.OK)
    first = min(shot.began for shot in load.shots)
    gaps = [later - earlier for earlier, later in zip([first, *good], good, strict=False)]
    back = next((moment - ready for moment in good if moment > ready), float("nan"))
    unavailable = counts[Fate.UNAVAILABLE] + counts[Fate.TRY_LATER]
    lost = len(load.lost(forwarded(world.service)))
    untaken = counts[Fate.REFUSED] + counts[Fate.RESET] + counts[Fate.LOST] - lost
    if bare(world.service) or counts[Fate.OTHER]:
        raise RuntimeError(f"something went wrong: {counts}, {bare(world.service)}")
    return Seen(max(gaps) * 1e3, back * 1e3, unavailable, untaken, lost, len(load.shots))


def main() -> int:
    """Run every scenario so often; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.rollout", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 21), metavar="N")
    rounds = parser.parse_args().rounds
    print("| " + " | ".join(HEAD) + " |\n| ---" + " | ---:" * (len(HEAD) - 1) + " |", flush=True)
    with tempfile.TemporaryDirectory() as place, World(Path(place) / "world") as world:
        for name, scenario in SCENARIOS.items():
            seen = []
            for number in range(rounds):
                world.service.forget()
                with ExitStack() as stack:
                    folder = Path(place) / f"{scenario.__name__}{number}"
                    seen.append(measure(*scenario(Stage(world, folder, stack)), world))
            print(_line(name, seen), flush=True)
    return 0


def _line(name: str, seen: list[Seen]) -> str:
    columns = zip(*(astuple(one) for one in seen), strict=True)
    cells = [f"{median(column):.0f}" for column in columns]
    return "| " + " | ".join([name, *cells]) + " |"


if __name__ == "__main__":
    raise SystemExit(main())
