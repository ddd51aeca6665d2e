"""A clock that is an hour off: each way it is told, and no token outlives itself."""

from __future__ import annotations

import re
import time

import pytest

from ext_authz.clock import Now, system_clock
from ext_authz.errors import SourceError
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.metadata import MetadataSource
from ext_authz.sources.service_account import ServiceAccountSource
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import Issuer, SigningKey
from ext_authz.tokens import accept
from tests.unit.fakes import AUDIENCE
from tests.unit.sources.helpers import ROBOT


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_a_clock_an_hour_off(google: GoogleStandIn, ahead: int) -> None:
    """Fast: a token seems ended, and the sentence says to set the clock. Slow: it is not trusted
    for longer than its own life."""
    fetched = MetadataSource(google.metadata_host).fetch(AUDIENCE)
    real = system_clock()
    now = Now(real.wall + ahead, real.elapsed)
    if ahead > 0:
        with pytest.raises(SourceError, match="set this machine's clock"):
            accept(fetched, AUDIENCE, now, 0.5)
    else:
        assert accept(fetched, AUDIENCE, now, 0.5).life_seconds <= 3600


@pytest.mark.parametrize(("ahead", "side"), [(3600, "behind"), (-3600, "ahead of")])
def test_a_clock_an_hour_off_is_told(key: SigningKey, ahead: int, side: str) -> None:
    """Google refuses the assertion; its Date header says by how much this machine is off."""
    there = Issuer(key=key, clock=lambda: time.time() + ahead)
    with GoogleStandIn(there) as google:
        info = google.service_account_key(ROBOT, key)
        with pytest.raises(SourceError, match="invalid_grant") as caught:
            ServiceAccountSource(info, "key.json", EndpointGuard()).fetch(AUDIENCE)
    assert re.search(
        rf"this machine's clock is (3600|3599|3601) s {side} theirs", str(caught.value)
    )
    assert "keys list" in caught.value.message
