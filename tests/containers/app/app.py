"""An app: answers each request with what a service answered to it; ends its requests at SIGTERM."""

import os
import signal
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    """GET /?url=http://…&delay=SECONDS."""

    def do_GET(self) -> None:
        wanted = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        time.sleep(float(wanted.get("delay", 0)))
        try:
            answer = urllib.request.urlopen(wanted["url"], timeout=10)
            status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        except OSError as error:
            status, body = 502, str(error).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for requests


server = Server(("0.0.0.0", int(os.environ["PORT"])), Handler)
stop = lambda *_: threading.Thread(target=server.shutdown).start()  # noqa: E731
signal.signal(signal.SIGTERM, stop)
server.serve_forever(0.1)
server.server_close()
