"""The private service answers as Cloud Run does: 403 without a token, 401 for a bad one."""

from __future__ import annotations

import builtins
import hashlib
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from ext_authz.standins.certificates import Authority, LeafCertificate
from ext_authz.standins.issuer import Issuer
from ext_authz.standins.private_service import MissingExtraError, PrivateService
from tests.unit.standins.conftest import AUDIENCE, HOST, FakeClock, alpn, bearer, fetch

SENDER = "sender@local-project.iam.gserviceaccount.com"
CUSTOM_AUDIENCE = "custom-audience"


@pytest.fixture
def service(issuer: Issuer, leaf: LeafCertificate) -> Iterator[PrivateService]:
    """Serve with one invoker and two audiences."""
    audiences = [AUDIENCE, CUSTOM_AUDIENCE]
    with PrivateService(issuer, audiences, leaf, invokers={SENDER}) as running:
        yield running


def test_no_token_is_403_with_googles_page(service: PrivateService, trust: ssl.SSLContext) -> None:
    """The sentence that every user of Cloud Run has seen; markup in the path is escaped."""
    answer = fetch(service.url + "/private/<b>", context=trust)
    assert answer.status == 403
    assert answer.headers["Content-Type"].startswith("text/html")
    page = answer.text.replace("<code>", "").replace("</code>", "")
    sentence = (
        "Your client does not have permission to get URL /private/&lt;b&gt; from this server."
    )
    assert sentence in page
    assert service.requests[-1].refusal == "no_token"


def test_a_good_token_is_greeted(
    service: PrivateService, issuer: Issuer, trust: ssl.SSLContext
) -> None:
    """Either audience does; /claims shows whose token it was."""
    for audience in (AUDIENCE, CUSTOM_AUDIENCE):
        token = issuer.mint(audience, SENDER)
        answer = fetch(service.url, headers=bearer(token), context=trust)
        assert (answer.status, answer.text) == (200, "Hello from the receiving service!\n")
        claims = fetch(service.url + "/claims", headers=bearer(token), context=trust).json
        assert (claims["aud"], claims["email"]) == (audience, SENDER)


def test_bad_tokens_are_401_with_the_challenge(
    service: PrivateService, issuer: Issuer, clock: FakeClock, trust: ssl.SSLContext
) -> None:
    """Wrong audience, expired, access token, another scheme."""
    expired = issuer.mint(AUDIENCE, SENDER, exp=int(clock.now) - 1)
    for credential, reason in (
        (f"Bearer {issuer.mint('https://other.example', SENDER)}", "wrong_audience"),
        (f"Bearer {expired}", "expired"),
        ("Bearer ya29.an-access-token", "malformed"),
        ("Basic dTpw", "not_a_bearer_token"),
    ):
        answer = fetch(service.url, headers={"Authorization": credential}, context=trust)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == (
            'Bearer error="invalid_token" '
            'error_description="The access token could not be verified"'
        )
        assert service.requests[-1].refusal == reason


def test_a_stranger_is_403_until_granted(
    service: PrivateService, issuer: Issuer, trust: ssl.SSLContext
) -> None:
    """IAM decides after the token; the grant can change while it serves."""
    headers = bearer(issuer.mint(AUDIENCE, "stranger@x.example"))
    assert fetch(service.url, headers=headers, context=trust).status == 403
    assert service.guard.invokers is not None
    service.guard.invokers.add("stranger@x.example")
    assert fetch(service.url, headers=headers, context=trust).status == 200


def test_the_serverless_header_wins_and_loses_its_signature(
    service: PrivateService, issuer: Issuer, trust: ssl.SSLContext
) -> None:
    """Only X-Serverless-Authorization is checked when both are there; the app sees no signature."""
    token = issuer.mint(AUDIENCE, SENDER)
    headers = {
        "Authorization": "Bearer the-apps-own",
        "X-Serverless-Authorization": f"Bearer {token}",
    }
    seen = dict(fetch(service.url + "/echo", headers=headers, context=trust).json["headers"])
    assert seen["authorization"] == "Bearer the-apps-own"
    unsigned = token.rpartition(".")[0]
    assert seen["x-serverless-authorization"] == f"Bearer {unsigned}.SIGNATURE_REMOVED_BY_GOOGLE"
    swapped = {"X-Serverless-Authorization": "Bearer a.b.c", **bearer(token)}
    assert fetch(service.url, headers=swapped, context=trust).status == 401
    assert service.requests[0].header("x-serverless-authorization") == f"Bearer {token}"


def test_echo_and_record_tell_the_body(
    service: PrivateService, issuer: Issuer, trust: ssl.SSLContext
) -> None:
    """Length and digest of what arrived, in the answer and in the record."""
    headers = bearer(issuer.mint(AUDIENCE, SENDER))
    form = {"text": "x" * 100_000}
    echo = fetch(service.url + "/echo?q=%2F", headers=headers, form=form, context=trust).json
    body = f"text={form['text']}".encode()
    assert (echo["method"], echo["path"]) == ("POST", "/echo?q=%2F")
    assert (echo["body_length"], echo["body_sha256"]) == (
        len(body),
        hashlib.sha256(body).hexdigest(),
    )
    record = service.requests[-1]
    assert (record.status, record.body_length, record.body_sha256) == (
        200,
        len(body),
        echo["body_sha256"],
    )
    assert record.claims is not None
    assert "Bearer" not in repr(record)


def test_tls_offers_http2_and_only_its_names(
    service: PrivateService, authority: Authority, trust: ssl.SSLContext
) -> None:
    """ALPN prefers h2; a name outside the certificate does not verify."""
    assert alpn(service.port, authority.certificate) == "h2"
    with pytest.raises(OSError, match="certificate verify failed"):
        fetch(f"https://localhost:{service.port}/", context=trust)


def test_refused_grpc_calls_with_bodies_leave_the_connection_whole(
    service: PrivateService, authority: Authority
) -> None:
    """Google's front end refuses with an HTTP status; other streams go on."""
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    options = [("grpc.ssl_target_name_override", HOST), ("grpc.enable_http_proxy", 0)]
    target = f"127.0.0.1:{service.port}"
    with grpc.secure_channel(target, credentials, options=options) as channel:
        for metadata, code in (
            ((), grpc.StatusCode.PERMISSION_DENIED),
            ((("authorization", "Bearer a.b.c"),), grpc.StatusCode.UNAUTHENTICATED),
        ):
            call: Any = channel.unary_unary("/any/Method")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"body", metadata=metadata, timeout=5)
            assert caught.value.code() is code


def test_stopping_cuts_clients_that_stay(
    service: PrivateService, trust: ssl.SSLContext, authority: Authority
) -> None:
    """An idle TLS client that never says goodbye does not hold the stop up."""
    raw = socket.create_connection(("127.0.0.1", service.port), timeout=5)
    with raw, trust.wrap_socket(raw, server_hostname=HOST) as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: receiver.example\r\n\r\n")
        assert tls.recv(12) == b"HTTP/1.1 403"
        started = time.monotonic()
        service.stop()
        assert time.monotonic() - started < 3
    with pytest.raises(OSError, match="refused"):
        alpn(service.port, authority.certificate)


def test_a_bad_certificate_fails_at_start(issuer: Issuer, authority: Authority) -> None:
    """Not later and not in a thread."""
    broken = LeafCertificate(authority.certificate, authority.certificate)
    with pytest.raises(ssl.SSLError):
        PrivateService(issuer, [AUDIENCE], broken).start()


def test_without_hypercorn_one_sentence_says_what_to_install(
    issuer: Issuer, leaf: LeafCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is an extra."""
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("hypercorn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"install idtoken-sidecar\[envoy\]"):
        PrivateService(issuer, [AUDIENCE], leaf).start()
