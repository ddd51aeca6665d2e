"""What the private service of the client tests serves behind its guard."""

from __future__ import annotations

from ext_authz.standins.private_app import App, Receive, Scope, Send, hello_app
from tests.support.go_modules import ModuleServer
from tests.support.messages import big_body

MODULE_PREFIX = "/example.com/"


def client_app(modules: ModuleServer | None = None) -> App:
    """`hello_app` with /big (10 MB) and a Go module proxy below /example.com/."""
    modules = modules or ModuleServer()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("raw_path", b"").decode("latin-1")
        if scope["type"] == "http" and path == "/big":
            await _answer(send, 200, {"content-type": "application/octet-stream"}, big_body())
        elif scope["type"] == "http" and path.startswith(MODULE_PREFIX):
            await _answer(send, *modules.module_response(path))
        else:
            await hello_app(scope, receive, send)

    return app


async def _answer(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    named.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": named})
    await send({"type": "http.response.body", "body": body})
