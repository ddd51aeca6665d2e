"""The status pages over a real loopback socket."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from ext_authz.errors import StartError
from ext_authz.status_server import Page, StatusServer, text_page


class Pages:
    """Three pages; `ready` may be changed while they are served."""

    def __init__(self) -> None:
        self.ready = True

    def all(self) -> dict[str, object]:
        return {
            "/healthz": lambda: text_page(200, "ok"),
            "/readyz": lambda: text_page(200 if self.ready else 503, "readiness"),
            "/metrics": lambda: Page(200, "text/plain; version=0.0.4", b"a 1\n"),
            "/broken": lambda: 1 / 0,
        }


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages()


@pytest.fixture(scope="module")
def server(pages: Pages) -> Iterator[StatusServer]:
    serving = StatusServer("127.0.0.1", 0, pages.all())  # type: ignore[arg-type]
    serving.start()
    yield serving
    serving.stop()


def ask(server: StatusServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.getheader("content-type", ""), response.read()
    finally:
        connection.close()


def test_each_page_is_served_on_a_free_port(server: StatusServer) -> None:
    assert server.port > 0
    assert ask(server, "/healthz") == (200, "text/plain; charset=utf-8", b"ok\n")
    assert ask(server, "/metrics?x=1") == (200, "text/plain; version=0.0.4", b"a 1\n")


def test_a_page_is_made_anew_each_time(server: StatusServer, pages: Pages) -> None:
    assert ask(server, "/readyz")[0] == 200
    pages.ready = False
    assert ask(server, "/readyz")[0] == 503
    pages.ready = True


@pytest.mark.parametrize("path", ["/", "/nothing", "/../etc/passwd", "/healthz/"])
def test_any_other_path_says_what_there_is(server: StatusServer, path: str) -> None:
    status, _, body = ask(server, path)
    assert status == 404
    assert b"/healthz, /readyz" in body


def test_head_has_no_body_and_other_methods_are_refused(server: StatusServer) -> None:
    assert ask(server, "/healthz", "HEAD") == (200, "text/plain; charset=utf-8", b"")
    assert ask(server, "/healthz", "POST")[0] >= 400


def test_the_answer_says_nothing_of_python(server: StatusServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    response.read()
    connection.close()
    assert "Python" not in str(response.headers)


def test_a_page_that_breaks_and_a_client_that_talks_nonsense_harm_nobody(
    server: StatusServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        ask(server, "/broken")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"\x00\xff\r\n\r\n")
        client.recv(1000)
    assert ask(server, "/healthz")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_silent_client_does_not_keep_others_waiting(server: StatusServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        assert ask(server, "/healthz")[0] == 200


def test_a_taken_port_is_an_error_that_names_the_flag(server: StatusServer) -> None:
    with pytest.raises(StartError, match=f"--status-port: 127.0.0.1:{server.port} cannot be"):
        StatusServer("127.0.0.1", server.port, {})


def test_ipv6_is_served_too(pages: Pages) -> None:
    try:
        serving = StatusServer("::1", 0, pages.all())  # type: ignore[arg-type]
    except StartError:
        pytest.skip("this machine has no IPv6 loopback")
    serving.start()
    try:
        with socket.create_connection(("::1", serving.port)) as client:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 200")
    finally:
        serving.stop()


def test_after_a_stop_nobody_answers(pages: Pages) -> None:
    serving = StatusServer("127.0.0.1", 0, pages.all())  # type: ignore[arg-type]
    serving.start()
    serving.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", serving.port))
