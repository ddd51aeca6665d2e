"""Authorities: which can be read, what their normal form is, and which hosts are off limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.destination import Destination, parse_authority
from ext_authz.errors import BadDestinationError

LONG_LABEL = "a" * 63
LONGEST = ".".join([LONG_LABEL] * 3 + ["a" * 61])

# What Envoy 1.40 hands over (docs on host confusion), and what becomes of it.
READ = {
    "svc.test": ("svc.test", None),
    "SVC.Test": ("svc.test", None),
    "svc.test.": ("svc.test", None),
    "svc.test.:80": ("svc.test", 80),
    "svc.test:80": ("svc.test", 80),
    "svc.test:443": ("svc.test", 443),
    "svc.test:19001": ("svc.test", 19001),
    "svc.test:65535": ("svc.test", 65535),
    "svc_a.test": ("svc_a.test", None),
    "xn--bcher-kva.example": ("xn--bcher-kva.example", None),
    "backend": ("backend", None),
    "1password.com": ("1password.com", None),
    "1.2.3.4.nip.io": ("1.2.3.4.nip.io", None),
    "tag---svc-abc.a.run.app": ("tag---svc-abc.a.run.app", None),
    "127.0.0.1": ("127.0.0.1", None),
    "127.0.0.1:8080": ("127.0.0.1", 8080),
    "[::1]": ("::1", None),
    "[::1]:80": ("::1", 80),
    "[2001:DB8:0:0::1]": ("2001:db8::1", None),
    "[::ffff:127.0.0.1]": ("::ffff:7f00:1", None),
    LONGEST: (LONGEST, None),
}
REFUSED = [
    "",
    ".",
    "..",
    "svc.test..",
    ".svc.test",
    "svc..test",
    "svc.test:",
    ":80",
    "svc.test:0",
    "svc.test:00080",
    "svc.test:+80",
    "svc.test:-80",
    "svc.test:65536",
    "svc.test:65616",
    "svc.test:99999999999999999999",
    "svc.test:80x",
    "svc.test:８０",
    "svc.test:80:90",
    "a:80:90",
    "user@svc.test",
    "svc.test@evil",
    "user:pass@svc.test:80",
    "svc.test,evil.test",
    "svc.test, evil.test",
    "svc.test evil.test",
    " svc.test",
    "svc.test\t",
    "svc.test\r.evil.test",
    "svc.test\n",
    "svc\x00.test",
    "svc\x7f.test",
    "svc.test/p",
    "svc.test?x",
    "svc.test#f",
    "svc.test\\evil",
    "https://svc.test",
    "svc%2etest",
    "svc.test%40evil",
    "bücher.example",
    "svc。test",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "svc.0x",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.1.",
    "1.2.3.4.5",
    "256.1.1.1",
    "svc.123",
    "[::1%25lo]",
    "[::1%lo]",
    "[::1",
    "::1",
    "::1]",
    "[]",
    "[::1]x",
    "[::1]:",
    "[::1]:0",
    "[127.0.0.1]",
    "[svc.test]",
    "[[::1]]",
    "-svc.test",
    "svc-.test",
    "*.test",
    "svc!.test",
    "svc;test",
    "a" * 64 + ".test",
    LONGEST + "a",
    "a." * 200,
    "a" * 301,
]


@pytest.mark.parametrize("text", READ)
def test_these_authorities_are_read(text: str) -> None:
    found = parse_authority(text)
    assert (found.host, found.port) == READ[text]


@pytest.mark.parametrize("text", REFUSED)
def test_these_authorities_are_refused(text: str) -> None:
    with pytest.raises(BadDestinationError) as caught:
        parse_authority(text)
    assert caught.value.code == "bad_destination"
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("text", ["127.0.0.1", "8.8.8.8:80", "[::1]", "[fe80::1]:443"])
def test_literals_are_addresses(text: str) -> None:
    assert parse_authority(text).is_address


@pytest.mark.parametrize("text", ["svc.test", "1.2.3.4.nip.io", "localhost"])
def test_names_are_not_addresses(text: str) -> None:
    assert not parse_authority(text).is_address


def test_the_authority_leaves_the_default_port_out() -> None:
    assert Destination("svc.test", 443).authority(443) == "svc.test"
    assert Destination("svc.test", 443).authority() == "svc.test:443"
    assert Destination("svc.test").authority(443) == "svc.test"
    assert Destination("::1", 80, is_address=True).authority() == "[::1]:80"


host_like = st.text(alphabet="aAzZ019.-_:[]%@/ *\x00\r\n\t,é。x", max_size=40)
label = st.from_regex(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
names = st.lists(label, min_size=1, max_size=5).map(".".join)
v6 = st.ip_addresses(v=6).map(lambda address: f"[{address}]")
v4 = st.ip_addresses(v=4).map(str)
ports = st.one_of(st.just(""), st.integers(0, 70_000).map(lambda port: f":{port}"))
plausible = st.tuples(st.one_of(names, v4, v6), st.sampled_from(["", "."]), ports).map("".join)


@given(st.one_of(host_like, plausible))
def test_reading_raises_nothing_but_bad_destination(text: str) -> None:
    try:
        found = parse_authority(text)
    except BadDestinationError:
        return
    assert found.host
    assert found.host.isascii()
    assert found.host == found.host.lower()
    assert not found.host.endswith(".")
    assert not set(found.host) & set("@,/\\?#%[] \t\r\n")
    assert found.port is None or 1 <= found.port <= 65535


@given(plausible)
def test_the_normal_form_is_stable(text: str) -> None:
    try:
        found = parse_authority(text)
    except BadDestinationError:
        return
    assert parse_authority(found.authority()) == found
    forms = [parse_authority(form).host for form in (text.upper(), text.lower())]
    assert forms == [found.host] * 2
