"""httpx, synchronous and asynchronous, by both proxies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import httpx
import pytest

from ext_authz.standins.private_app import HELLO
from tests.support.messages import BIG_BODY_BYTES, big_body
from tests.support.sidecar import Sidecar
from tests.support.world import SERVICE, World

TIMEOUT_SECONDS = 30
MANY = 50


# To a proxy httpx speaks HTTP/1.1; to a server HTTP/2 by prior knowledge, if told so.
@pytest.mark.parametrize(
    ("listener", "http2"), [("forward", False), ("reverse", False), ("reverse", True)]
)
def test_app_is_greeted(world: World, sidecar: Sidecar, listener: str, http2: bool) -> None:
    """Its code knows nothing of tokens."""
    proxy = sidecar.proxy_url if listener == "forward" else None
    base = world.service_url if listener == "forward" else sidecar.reverse_url
    with httpx.Client(
        proxy=proxy, http1=not http2, http2=http2, trust_env=False, timeout=TIMEOUT_SECONDS
    ) as client:
        answer = client.get(f"{base}/")
        assert answer.text == f"{HELLO}\n"
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert client.get(f"{base}/claims").json()["aud"] == f"https://{SERVICE}"


async def test_many_concurrent_requests_are_answered(world: World, sidecar: Sidecar) -> None:
    """As an asynchronous app makes them."""
    async with httpx.AsyncClient(
        proxy=sidecar.proxy_url, trust_env=False, timeout=TIMEOUT_SECONDS
    ) as client:
        urls = [f"{world.service_url}/{number}" for number in range(MANY)]
        answers = await asyncio.gather(*map(client.get, urls))
    assert [answer.status_code for answer in answers] == [200] * MANY


async def test_body_is_streamed_up(world: World, sidecar: Sidecar) -> None:
    """In chunks, whole."""

    async def pieces() -> AsyncIterator[bytes]:
        body = big_body()
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    async with httpx.AsyncClient(
        proxy=sidecar.proxy_url, trust_env=False, timeout=TIMEOUT_SECONDS
    ) as client:
        echo = (await client.post(f"{world.service_url}/echo", content=pieces())).json()
    assert echo["body_length"] == BIG_BODY_BYTES
    assert echo["body_sha256"] == hashlib.sha256(big_body()).hexdigest()


def test_events_arrive_as_they_are_sent(world: World, sidecar: Sidecar) -> None:
    """Server-sent events are not held back."""
    with (
        httpx.Client(proxy=sidecar.proxy_url, trust_env=False, timeout=TIMEOUT_SECONDS) as client,
        client.stream("GET", f"{world.capture_url}/sse") as answer,
    ):
        lines = [line for line in answer.iter_lines() if line]
    assert lines == ["data: first", "data: second", "data: third"]
