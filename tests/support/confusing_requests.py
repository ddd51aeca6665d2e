"""Requests with two or more readings: what is sent raw, and where the forward proxy may take it.

`{port}` stands for the port of the four hosts, `{wrapped}` for the same beyond 16 bits.
"""

from __future__ import annotations

from tests.support.differential import EVIL, OTHER, SVC

NOBODY = ""
GET, END = b"GET /p HTTP/1.1\r\n", b"Connection: close\r\n\r\n"


def hosts(*lines: bytes) -> bytes:
    """A request with exactly these header lines."""
    return GET + b"".join(line + b"\r\n" for line in lines) + END


def to(target: bytes, host: bytes = b"svc.test:{port}", method: bytes = b"GET") -> bytes:
    """A request with this target."""
    return method + b" " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + END


OURS, ALSO, THEIRS = b"svc.test:{port}", b"other.test:{port}", b"evil.test:{port}"
# What is sent, and where the forward proxy takes it (None: no claim beyond the invariants).
CASES: dict[str, tuple[bytes, str | None]] = {
    "plain": (hosts(b"Host: " + OURS), SVC),
    "other": (hosts(b"Host: " + ALSO), OTHER),
    "evil": (hosts(b"Host: " + THEIRS), EVIL),
    "upper case": (hosts(b"Host: SVC.Test:{port}"), SVC),
    "trailing dot": (hosts(b"Host: svc.test.:{port}"), SVC),
    "two trailing dots": (hosts(b"Host: svc.test..:{port}"), NOBODY),
    "leading dot": (hosts(b"Host: .svc.test:{port}"), NOBODY),
    "no port": (hosts(b"Host: svc.test"), NOBODY),
    "port 80": (hosts(b"Host: svc.test:80"), NOBODY),
    "port 443": (hosts(b"Host: svc.test:443"), NOBODY),
    "port with zeros": (hosts(b"Host: svc.test:000{port}"), NOBODY),
    "port with a sign": (hosts(b"Host: svc.test:+{port}"), NOBODY),
    "port 0": (hosts(b"Host: svc.test:0"), NOBODY),
    "port of 16 bits and more": (hosts(b"Host: svc.test:{wrapped}"), NOBODY),
    "empty port": (hosts(b"Host: svc.test:"), NOBODY),
    "two ports": (hosts(b"Host: svc.test:{port}:{port}"), NOBODY),
    "port and letters": (hosts(b"Host: svc.test:{port}x"), NOBODY),
    "userinfo": (hosts(b"Host: svc.test@" + THEIRS), NOBODY),
    "userinfo of evil": (hosts(b"Host: evil.test@" + OURS), NOBODY),
    "userinfo and password": (hosts(b"Host: svc.test:{port}@" + THEIRS), NOBODY),
    "two hosts": (hosts(b"Host: " + OURS, b"Host: " + THEIRS), NOBODY),
    "two hosts, evil first": (hosts(b"Host: " + THEIRS, b"Host: " + OURS), NOBODY),
    "the same host twice": (hosts(b"Host: " + OURS, b"Host: " + OURS), NOBODY),
    "comma": (hosts(b"Host: " + OURS + b"," + THEIRS), NOBODY),
    "comma and blank": (hosts(b"Host: " + OURS + b", " + THEIRS), NOBODY),
    "blank inside": (hosts(b"Host: svc.test evil.test"), NOBODY),
    "tab inside": (hosts(b"Host: svc.test\tevil.test"), NOBODY),
    "NUL": (hosts(b"Host: svc.test\0.evil.test:{port}"), NOBODY),
    "bare CR": (hosts(b"Host: svc.test\r.evil.test:{port}"), None),
    "bare CR and header": (hosts(b"Host: svc.test:{port}\rHost: " + THEIRS), None),
    "bare LF": (hosts(b"Host: " + OURS + b"\nHost: " + THEIRS), NOBODY),
    "slash": (hosts(b"Host: svc.test/@" + THEIRS), NOBODY),
    "backslash": (hosts(b"Host: svc.test\\@" + THEIRS), NOBODY),
    "question mark": (hosts(b"Host: svc.test?@" + THEIRS), NOBODY),
    "hash": (hosts(b"Host: svc.test#@" + THEIRS), NOBODY),
    "percent": (hosts(b"Host: svc%2etest:{port}"), NOBODY),
    "percent at": (hosts(b"Host: svc.test%40" + THEIRS), NOBODY),
    "UTF-8": (hosts("Host: svc。test:{port}".encode()), NOBODY),
    "UTF-8 letters": (hosts("Host: svç.test:{port}".encode()), NOBODY),
    "Latin-1": (hosts(b"Host: sv\xe7.test:{port}"), NOBODY),
    "folded": (hosts(b"Host: svc.test", b" .evil.test:{port}"), NOBODY),
    "blank before the colon": (hosts(b"Host : " + OURS), NOBODY),
    "blank before the name": (GET + b" Host: " + OURS + b"\r\n" + END, NOBODY),
    "no host": (hosts(b"X: y"), NOBODY),
    "empty host": (hosts(b"Host:"), NOBODY),
    "suffix of a rule": (hosts(b"Host: xsvc.test:{port}"), None),
    "below a rule": (hosts(b"Host: a.svc.test:{port}"), None),
    "rule inside": (hosts(b"Host: svc.test.evil.test:{port}"), None),
    "underscore": (hosts(b"Host: svc_a.test:{port}"), None),
    "punycode": (hosts(b"Host: xn--svc-zna.test:{port}"), None),
    "long label": (hosts(b"Host: " + b"a" * 64 + b".svc.test:{port}"), NOBODY),
    "long name": (hosts(b"Host: " + b"a." * 130 + b"svc.test:{port}"), NOBODY),
    "X-Forwarded-Host": (hosts(b"Host: " + OURS, b"X-Forwarded-Host: " + THEIRS), SVC),
    "X-Forwarded-Host of ours": (hosts(b"Host: " + THEIRS, b"X-Forwarded-Host: " + OURS), EVIL),
    "Forwarded": (hosts(b"Host: " + THEIRS, b"Forwarded: host=" + OURS), EVIL),
    "X-Original-Host": (hosts(b"Host: " + THEIRS, b"X-Original-Host: " + OURS), EVIL),
    "X-Host and friends": (
        hosts(b"Host: " + THEIRS, b"X-Host: " + OURS, b":authority: " + OURS),
        None,
    ),
    "X-Envoy-Original-Host": (
        hosts(b"Host: " + THEIRS, b"X-Envoy-Original-Dst-Host: " + OURS),
        EVIL,
    ),
    "Envoy's own headers": (
        hosts(b"Host: " + THEIRS, b"X-Envoy-Original-Path: /", b"X-Envoy-Decorator-Operation: x"),
        EVIL,
    ),
    "absolute": (to(b"http://" + OURS + b"/p"), SVC),
    "absolute against Host": (to(b"http://" + OURS + b"/p", THEIRS), SVC),
    "Host against absolute": (to(b"http://" + THEIRS + b"/p", OURS), EVIL),
    "absolute with userinfo": (to(b"http://svc.test@" + THEIRS + b"/p"), None),
    "absolute upper case": (to(b"HTTP://SVC.TEST:{port}/p"), None),
    "absolute https": (to(b"https://" + OURS + b"/p"), None),
    "absolute https of evil": (to(b"https://" + THEIRS + b"/p"), NOBODY),
    "absolute ftp": (to(b"ftp://" + OURS + b"/p"), NOBODY),
    "absolute without a host": (to(b"http:///p"), NOBODY),
    "absolute with backslash": (to(b"http://" + THEIRS + b"\\@" + OURS + b"/p"), None),
    "absolute with hash": (to(b"http://" + THEIRS + b"#@" + OURS + b"/p"), NOBODY),
    "absolute with query": (to(b"http://" + THEIRS + b"?@" + OURS + b"/p"), None),
    "path that is a URL": (to(b"/http://" + THEIRS + b"/p"), SVC),
    "path with two slashes": (to(b"//" + THEIRS + b"/p"), SVC),
    "path with an at": (to(b"/@" + THEIRS + b"/p"), SVC),
    "path with dots": (to(b"/../../" + THEIRS), SVC),
    "path with tabs": (to(b"/a\tb"), None),
    "asterisk": (to(b"*", OURS, b"OPTIONS"), NOBODY),
    "target without slash": (to(THEIRS), NOBODY),
    "TRACE": (to(b"/p", OURS, b"TRACE"), None),
    "method with a host": (to(b"/p", OURS, b"GET http://evil.test/"), NOBODY),
    "two Authorization": (
        hosts(b"Host: " + OURS, b"Authorization: Bearer a", b"Authorization: Bearer b"),
        None,
    ),
    "X-Serverless-Authorization": (hosts(b"Host: " + OURS, b"X-Serverless-Authorization: x"), SVC),
    "Connection names the token": (
        hosts(b"Host: " + OURS, b"Connection: authorization, x-serverless-authorization"),
        SVC,
    ),
    "Connection names the host": (hosts(b"Host: " + OURS, b"Connection: host"), None),
    "length and chunked": (
        hosts(b"Host: " + OURS, b"Content-Length: 3", b"Transfer-Encoding: chunked")
        + b"0\r\n\r\nGET /x HTTP/1.1\r\nHost: "
        + THEIRS
        + b"\r\n\r\n",
        NOBODY,
    ),
    "two lengths": (hosts(b"Host: " + OURS, b"Content-Length: 0", b"Content-Length: 9"), NOBODY),
    "odd chunked": (hosts(b"Host: " + OURS, b"Transfer-Encoding: xchunked"), NOBODY),
    "pipelined": (
        b"GET /1 HTTP/1.1\r\nHost: "
        + OURS
        + b"\r\n\r\nGET /2 HTTP/1.1\r\nHost: "
        + THEIRS
        + b"\r\n"
        + END,
        None,
    ),
    "upgrade to h2c": (
        hosts(b"Host: " + OURS, b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
        None,
    ),
    "HTTP/1.0": (b"GET /p HTTP/1.0\r\nHost: " + OURS + b"\r\n\r\n", SVC),
    "HTTP/1.0 without a host": (b"GET http://" + OURS + b"/p HTTP/1.0\r\n\r\n", SVC),
    "HTTP/0.9": (b"GET /p\r\n", NOBODY),
    "address of svc": (hosts(b"Host: 127.0.0.2:{port}"), None),
    "address as a number": (hosts(b"Host: 2130706434:{port}"), NOBODY),
    "address in hexadecimal": (hosts(b"Host: 0x7f.2:{port}"), NOBODY),
    "address in short": (hosts(b"Host: 127.2:{port}"), NOBODY),
    "address in octal": (hosts(b"Host: 0177.0.0.2:{port}"), NOBODY),
    "IPv6 with a zone": (hosts(b"Host: [::1%25lo]:{port}"), NOBODY),
    "IPv6 cut": (hosts(b"Host: [::1"), NOBODY),
    "IPv6 bare": (hosts(b"Host: ::1"), NOBODY),
    "name in brackets": (hosts(b"Host: [svc.test]:{port}"), NOBODY),
}


def filled(raw: bytes, port: int) -> bytes:
    """Put the hosts' port into a case."""
    wrapped = str(port + 65536).encode()
    return raw.replace(b"{port}", str(port).encode()).replace(b"{wrapped}", wrapped)
