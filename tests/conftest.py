"""What integration and client tests share: one world of stand-ins and one sidecar in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.sidecar import Sidecar
from tests.support.world import World

StartSidecar = Callable[..., Sidecar]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Serve the stand-ins for the whole run."""
    with World(tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.fixture(scope="session")
def sidecar(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Run one sidecar, with the private service behind it, for tests that do not change it."""
    directory = tmp_path_factory.mktemp("sidecar")
    upstream = f"--upstream=https://{world.service_authority}"
    with world.sidecar(directory, upstream, "--access-log") as found:
        yield found


@pytest.fixture
def start_sidecar(world: World, tmp_path: Path) -> Iterator[StartSidecar]:
    """Return a function that starts a sidecar of the test's own; it is stopped afterwards."""
    with ExitStack() as stack:
        count = 0

        def start(*flags: str, config: str | None = None, command: str = "run") -> Sidecar:
            nonlocal count
            count += 1
            directory = tmp_path / f"sidecar{count}"
            made = world.sidecar(directory, *flags, config=config, command=command)
            return stack.enter_context(made)

        yield start


@pytest.fixture(autouse=True)
def _nothing_is_broken(request: pytest.FixtureRequest) -> Iterator[None]:
    """Heal the stand-in Google after a test that broke it."""
    yield
    if "world" in request.fixturenames:
        request.getfixturevalue("world").google.heal()
