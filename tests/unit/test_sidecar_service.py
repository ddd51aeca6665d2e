"""What our own Envoy tells: a refused token, a redirect; nonsense breaks nothing."""

from __future__ import annotations

import pytest

from ext_authz.destination import Destination
from ext_authz.policy import Policy
from ext_authz.rpc import Caller
from ext_authz.rules import Rule
from ext_authz.sidecar_service import SidecarService
from ext_authz.tokens import Fetched
from tests.unit.fakes import KEY, World

NOBODY = Caller()
POLICY = Policy((Rule("*.run.app", "default"),), upstream=Destination("up.run.app"))


def made() -> tuple[SidecarService, World]:
    world = World(lambda key: Fetched(world.token(3600, jti=world.fetches)))
    return SidecarService(POLICY, world.cache), world


async def test_a_refused_token_is_minted_anew_for_the_next_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    service, world = made()
    token = await world.cache.get(KEY)
    assert service.token_refused(token.fingerprint.encode(), NOBODY) == b""
    assert (await world.cache.get(KEY)).text != token.text
    assert token.text not in capsys.readouterr().err


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"no such", b"a" * 10_000, b"\n\n"])
async def test_nonsense_drops_nothing_and_gets_an_empty_answer(payload: bytes) -> None:
    service, world = made()
    token = await world.cache.get(KEY)
    assert service.token_refused(payload, NOBODY) == b""
    assert service.rewrite_redirect(payload, NOBODY) == b""
    assert world.cache.peek(KEY) is token


@pytest.mark.parametrize(
    ("payload", "url"),
    [
        (b"forward\nsvc.run.app\nhttps://svc.run.app/x?y", b"http://svc.run.app/x?y"),
        (b"reverse\nlocalhost:9090\nhttps://up.run.app/x", b"http://localhost:9090/x"),
        (b"reverse\nlocalhost:9090\nhttps://svc.run.app/x", b""),
        (b"forward\nsvc.run.app\nhttps://example.com/", b""),
        (b"tunnel\nsvc.run.app\nhttps://svc.run.app/", b""),
        (b"nowhere\nsvc.run.app\nhttps://svc.run.app/", b""),
        (b"forward\nsvc.run.app", b""),
        (b"forward\nsvc.run.app\nhttps://svc.run.app/\r\nx: y\n\xff", None),
    ],
)
async def test_a_redirect_is_answered_with_the_url_to_use_or_with_nothing(
    payload: bytes, url: bytes | None
) -> None:
    service, _ = made()
    found = service.rewrite_redirect(payload, NOBODY)
    if url is None:  # a header cannot hold a line break: Envoy refuses it, we must not fail
        assert isinstance(found, bytes)
    else:
        assert found == url


async def test_redirects_follow_a_new_policy() -> None:
    service, _ = made()
    service.use(Policy((Rule("example.com", "default"),)))
    ask = service.rewrite_redirect
    assert ask(b"forward\nx.y\nhttps://example.com/", NOBODY) == b"http://example.com/"
    assert ask(b"forward\nx.y\nhttps://svc.run.app/", NOBODY) == b""
