"""The transport against a real loopback server: bounded, no redirects, no proxies, no echoes."""

from __future__ import annotations

import json
import socket
import time

import pytest

from ext_authz.errors import SourceError
from ext_authz.sources import transport
from ext_authz.sources.transport import MAX_BODY_BYTES, BoundedTransport, error_words
from tests.unit.fakes import SENTINEL, START, FakeClock
from tests.unit.sources.conftest import RawServer

OK = b"HTTP/1.1 200 OK\r\n"


def ask(url: str) -> bytes:
    return bytes(BoundedTransport("the server")(f"{url}/path?audience={SENTINEL}").data)


def failure(url: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        ask(url)
    error = caught.value
    assert SENTINEL not in str(error)
    assert error.__cause__ is None
    return error


def test_an_answer_comes_with_status_headers_and_body(server: RawServer) -> None:
    server.says("200 OK", b"body", "X-Thing: Value")
    response = BoundedTransport("the server")(
        f"{server.url}/p?q=1", method="POST", body=b"sent", headers={"x-a": "b"}
    )
    assert (response.status, response.data) == (200, b"body")
    assert response.headers["x-thing"] == "Value"
    assert "content-type" in response.headers
    assert server.heads[0].startswith("POST /p?q=1 HTTP/1.1\r\n")
    assert "x-a: b\r\n" in server.heads[0]


@pytest.mark.parametrize(
    ("status", "permanent"),
    [
        ("400 Bad Request", True),
        ("401 Unauthorized", True),
        ("403 Forbidden", True),
        ("404 Not Found", True),
        ("429 Too Many Requests", False),
        ("500 Internal Server Error", False),
        ("503 Service Unavailable", False),
        ("204 No Content", False),
    ],
)
def test_any_other_status_is_a_refusal(server: RawServer, status: str, permanent: bool) -> None:
    server.says(status)
    error = failure(server.url)
    assert (error.code, error.permanent) == ("source_refused", permanent)
    assert error.message.startswith(f"the server at 127.0.0.1:{server.port} answered {status[:3]}")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-1", None),
        ("soon", None),
        ("1.5", None),
        ("Fri, 31 Dec 2027 23:59:59 GMT", None),
        ("\xb2", None),
    ],
)
def test_retry_after_is_read_when_it_is_a_number(
    server: RawServer, value: str, seconds: float | None
) -> None:
    server.answers(f"HTTP/1.1 503 No\r\nRetry-After: {value}\r\n\r\n".encode("latin-1"))
    assert failure(server.url).retry_after_seconds == seconds


def test_a_redirect_is_not_followed(server: RawServer) -> None:
    server.says("302 Found", b"", f"Location: {server.url}/elsewhere")
    assert failure(server.url).message.endswith("answered 302")
    assert len(server.heads) == 1


@pytest.mark.parametrize("head", [f"content-length: {10**9}\r\n\r\n", "connection: close\r\n\r\n"])
def test_a_huge_body_is_cut_off(server: RawServer, head: str) -> None:
    server.answers(OK + head.encode(), b"A" * (MAX_BODY_BYTES + 1), b"A" * MAX_BODY_BYTES)
    error = failure(server.url)
    assert error.code == "source_nonsense"
    assert "more than" in error.message


@pytest.mark.parametrize(
    "answer", [b"", b"\x00\xff\xfe\r\n\r\n", b"SSH-2.0-x\r\n", b"HTTP/9.9 x\r\n\r\n"]
)
def test_what_is_no_http_is_an_error_of_the_source(server: RawServer, answer: bytes) -> None:
    server.answers(answer)
    assert failure(server.url).code in ("source_unreachable", "source_nonsense")


@pytest.mark.parametrize(
    "body", [b"content-length: 100\r\n\r\nshort", b"transfer-encoding: chunked\r\n\r\nzz"]
)
def test_a_body_that_breaks_off_is_no_answer(server: RawServer, body: bytes) -> None:
    server.answers(OK + body)
    assert failure(server.url).code in ("source_unreachable", "source_nonsense")


def test_a_refused_connection_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    error = failure(f"http://127.0.0.1:{port}")
    assert error.code == "source_unreachable"
    assert f"127.0.0.1:{port} refused the connection" in error.message


def test_a_name_without_an_address_says_so() -> None:
    assert failure("http://nowhere.invalid").code == "source_unreachable"


def test_plain_http_where_tls_is_expected_is_a_tls_failure(server: RawServer) -> None:
    server.script = lambda connection: None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        error = failure(f"https://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(5)
    assert error.code == "source_tls_failed"


SLOW = {
    "a silent server": [b"", b""],
    "a trickling status line": [bytes([b]) for b in OK],
    "trickling headers": [OK, *[b"x"] * 20],
    "a trickling body of known length": [OK + b"content-length: 20\r\n\r\n", *[b"x"] * 20],
    "a trickling body until the end": [OK + b"connection: close\r\n\r\n", *[b"x"] * 20],
    "a trickling body of HTTP/1.0": [b"HTTP/1.0 200 OK\r\n\r\n", *[b"x"] * 20],
    "trickling chunks": [OK + b"transfer-encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 20],
}


@pytest.mark.parametrize("kind", SLOW)
def test_everything_together_takes_no_longer_than_the_limit(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(transport, "TOTAL_SECONDS", 0.06)
    parts = SLOW[kind]
    server.answers(*parts, pause=0.05 if len(parts) > 2 else 5)
    began = time.monotonic()
    error = failure(server.url)
    assert time.monotonic() - began < 0.6
    assert error.code == "source_slow"


def test_the_apps_proxy_settings_are_not_obeyed(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.says("200 OK", b"direct")
    assert ask(server.url) == b"direct"


def test_a_refusal_by_a_server_of_another_time_names_the_clock(server: RawServer) -> None:
    clock = FakeClock(wall=START)  # June 2025
    server.says(
        "400 Bad Request", b'{"error": "invalid_grant"}', "Date: Sun, 15 Jun 2025 17:06:40 GMT"
    )
    with pytest.raises(SourceError, match=r"invalid_grant.*clock is 7200 s behind theirs"):
        BoundedTransport("the server", clock=clock)(server.url)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": "invalid_grant", "error_description": SENTINEL}, ["invalid_grant"]),
        (
            {
                "error": {
                    "code": 403,
                    "status": "PERMISSION_DENIED",
                    "message": SENTINEL,
                    "details": [
                        {
                            "reason": "IAM_PERMISSION_DENIED",
                            "metadata": {"permission": "iam.serviceAccounts.getOpenIdToken"},
                        }
                    ],
                }
            },
            ["PERMISSION_DENIED", "IAM_PERMISSION_DENIED", "iam.serviceAccounts.getOpenIdToken"],
        ),
        ({"error": "a sentence with " + SENTINEL}, []),
        ({"error": "eyJhbGciOiJSUzI1NiJ9.x.y"}, []),
        ({"error": "x" * 65}, []),
        ({"error": ["x"]}, []),
        ({"error": {"status": 7, "details": {"a": 1}}}, []),
        ({"error": {"details": [None, 1, {"metadata": "x"}, {"reason": {}}]}}, []),
        (["invalid_grant"], []),
        ("invalid_grant", []),
        (None, []),
    ],
)
def test_of_an_error_body_only_single_known_words_are_shown(body: object, words: list[str]) -> None:
    assert error_words(json.dumps(body).encode()) == words


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"<html>", b"[" * 100_000, b'{"error": '])
def test_an_error_body_that_is_no_json_has_no_words(body: bytes) -> None:
    assert error_words(body) == []


def test_the_words_stand_in_the_sentence_and_the_rest_of_the_body_does_not(
    server: RawServer,
) -> None:
    body = json.dumps({"error": "invalid_grant", "error_description": SENTINEL}).encode()
    server.says("400 Bad Request", body)
    assert failure(server.url).message.endswith("answered 400 invalid_grant")
