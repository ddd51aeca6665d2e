"""What integration tests share: a sidecar whose reverse proxy leads to the recording upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.sidecar import Sidecar
from tests.support.ways import WAYS, Way
from tests.support.world import World


@pytest.fixture(scope="session")
def mirror(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Run a sidecar that reverses to the recording upstream."""
    upstream = f"--upstream=https://{world.capture_authority}"
    with world.sidecar(tmp_path_factory.mktemp("mirror"), upstream) as found:
        yield found


@pytest.fixture(params=WAYS)
def ways(request: pytest.FixtureRequest, world: World, mirror: Sidecar) -> tuple[Way, Way]:
    """Return the direct way and one through the sidecar, for the same client and upstream."""
    listener, client, *only_h1 = request.param.split("-", 2)
    host = f"{'h1' if only_h1 else 'capture'}.localhost"
    capture = world.capture_h1 if only_h1 else world.capture
    authority = f"{host}:{capture.port}"
    direct = Way(client, capture, authority, world.authority.certificate)
    address = mirror.forward if listener == "forward" else mirror.reverse
    through = Way(
        client, capture, authority, direct.ca_file, address, is_reverse=listener == "reverse"
    )
    return direct, through
