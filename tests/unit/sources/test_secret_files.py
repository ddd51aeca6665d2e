"""Secret files and static tokens: read whole and bounded, and never shown."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from ext_authz.errors import SourceError
from ext_authz.settings import EnvSecret, FileSecret
from ext_authz.sources.secret_files import MAX_SECRET_BYTES, read_json, read_secret
from ext_authz.sources.static_token import FILE_RECHECK_SECONDS, StaticSource
from tests.unit.fakes import SENTINEL


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "secret"


def refused(path: Path | str, *, code: str = "bad_x") -> str:
    with pytest.raises(SourceError) as caught:
        read_json(FileSecret(Path(path)), code)
    assert caught.value.code == code
    assert caught.value.permanent
    assert caught.value.__cause__ is None
    assert SENTINEL not in caught.value.message
    return caught.value.message


def test_a_file_is_read_as_it_is(file: Path) -> None:
    file.write_bytes(b" x\n")
    assert read_secret(FileSecret(file), "c") == b" x\n"


def test_an_environment_secret_needs_no_file() -> None:
    assert read_secret(EnvSecret("NAME", "x"), "c") == b"x"


@pytest.mark.parametrize("shape", ["raw", "base64", "lines"])
def test_json_is_read_raw_or_in_base64(file: Path, shape: str) -> None:
    raw = json.dumps({"type": "service_account", "private_key": "é" * 60}).encode()
    encoded = base64.encodebytes(raw) if shape == "lines" else base64.b64encode(raw) + b"\n"
    file.write_bytes(b"\n  " + raw if shape == "raw" else encoded)
    assert read_json(FileSecret(file), "c")["type"] == "service_account"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"\x00\xff\xfe",
        SENTINEL.encode(),
        f'{{"private_key": "{SENTINEL}"'.encode(),
        f'["{SENTINEL}"]'.encode(),
        base64.b64encode(f'"{SENTINEL}"'.encode()),
        b"{" * 10_000,
        b"{}" + b" " * MAX_SECRET_BYTES,
    ],
)
def test_any_other_content_is_refused_with_the_path_and_without_the_content(
    file: Path, content: bytes
) -> None:
    file.write_bytes(content)
    assert refused(file).startswith(f"{file}: ")


def test_a_file_that_cannot_be_read_is_refused_with_the_path(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent").endswith("No such file or directory")
    assert str(tmp_path) in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "pipe" in refused(tmp_path / "pipe")


@pytest.mark.parametrize(
    "path",
    [
        f'{{"type": "service_account", "private_key": "{SENTINEL}"}}',
        f"-----BEGIN PRIVATE KEY-----\n{SENTINEL}\n",
        SENTINEL * 100,
        f"a\0{SENTINEL}",
    ],
)
def test_a_key_pasted_where_a_path_belongs_is_not_shown(path: str) -> None:
    assert len(refused(path)) < 200


def test_an_environment_value_that_is_no_utf8_is_refused_and_not_shown() -> None:
    with pytest.raises(SourceError) as caught:
        read_json(EnvSecret("KEY", SENTINEL + "\udcff"), "c")
    assert "KEY" in caught.value.message
    assert SENTINEL not in caught.value.message


def test_a_static_token_comes_from_the_environment() -> None:
    source = StaticSource(EnvSecret("TOKEN", " abc.DEF-1_2~+/== "))
    fetched = source.fetch("https://ignored")
    assert fetched.text == "abc.DEF-1_2~+/=="
    assert fetched.recheck_seconds is not None
    assert (source.kind, source.found) == ("static token", "environment variable TOKEN")


def test_a_static_token_file_is_read_anew_each_time(file: Path) -> None:
    file.write_text("first\n")
    source = StaticSource(FileSecret(file))
    assert (source.fetch("").text, source.found) == ("first", str(file))
    other = file.with_name("new")
    other.write_text("second")
    other.replace(file)
    fetched = source.fetch("")
    assert fetched.text == "second"
    assert fetched.recheck_seconds == FILE_RECHECK_SECONDS


@pytest.mark.parametrize(
    "content", [b"", b"  \n", b"two\nlines", b"a b", b"\xff\x00", b"x" * 20_000]
)
def test_a_static_token_that_no_header_can_carry_is_refused_at_once(
    file: Path, content: bytes
) -> None:
    file.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        StaticSource(FileSecret(file))
    assert (caught.value.code, caught.value.permanent) == ("bad_token_file", True)
    assert str(file) in caught.value.message


def test_a_token_file_that_breaks_later_is_an_error_then_and_works_again_after(file: Path) -> None:
    file.write_text("good")
    source = StaticSource(FileSecret(file))
    for broken in ("", f"{SENTINEL} {SENTINEL}"):
        file.write_text(broken)
        with pytest.raises(SourceError) as caught:
            source.fetch("")
        assert SENTINEL not in caught.value.message
    file.unlink()
    with pytest.raises(SourceError, match="No such file"):
        source.fetch("")
    file.mkdir()
    with pytest.raises(SourceError, match="directory"):
        source.fetch("")
    file.rmdir()
    file.write_text("back")
    assert source.fetch("").text == "back"


def test_no_representation_shows_the_token() -> None:
    secret = EnvSecret("TOKEN", SENTINEL)
    source = StaticSource(secret)
    for thing in (secret, source, source.fetch("")):
        assert SENTINEL not in f"{thing!r} {thing!s}"
