"""A static token of a file: re-read as it is replaced, refused with a sentence when it is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ext_authz.clock import system_clock
from ext_authz.errors import SourceError
from ext_authz.settings import FileSecret
from ext_authz.sources.static_token import StaticSource
from ext_authz.tokens import TokenState, accept, state_of
from tests.unit.fakes import SENTINEL


def text_of(source: StaticSource) -> str:
    return source.fetch("").text


def test_a_file_replaced_by_renaming_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    source = StaticSource(FileSecret(path))
    assert text_of(source) == "one"
    other = tmp_path / "new"
    other.write_text("two")
    other.replace(path)
    assert text_of(source) == "two"


def test_kubernetes_symlink_swap(tmp_path: Path) -> None:
    """token → ..data/token, ..data → ..2026; the swap replaces ..data."""
    for name, text in (("..one", "one"), ("..two", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(text)
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "token").symlink_to("..data/token")
    source = StaticSource(FileSecret(tmp_path / "token"))
    assert text_of(source) == "one"
    (tmp_path / "..tmp").symlink_to("..two")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    assert text_of(source) == "two"


def test_it_is_looked_at_again_after_a_second(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    now = system_clock()
    token = accept(StaticSource(FileSecret(path)).fetch(""), "", now, 0.5)
    assert state_of(token, now) is TokenState.FRESH
    later = type(now)(now.wall + 1, now.elapsed + 1)
    assert state_of(token, later) is TokenState.STALE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"\x00\xff\xfe",
        b"x" * 70_000,
        b"x" * 20_000,
        f"two {SENTINEL}".encode(),
        f"Bearer {SENTINEL}".encode(),
        f"{SENTINEL}\r\nX-Header: y".encode(),
        b'{"token": "x"}',
    ],
)
def test_what_is_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        StaticSource(FileSecret(path))
    assert (caught.value.code, caught.value.permanent) == ("bad_token_file", True)
    assert str(path) in caught.value.message
    assert SENTINEL not in caught.value.message


def test_a_directory_a_pipe_and_nothing_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent"):
        with pytest.raises(SourceError) as caught:
            StaticSource(FileSecret(path))
        assert caught.value.code == "bad_token_file"


def test_a_file_that_breaks_later_is_an_error_of_the_fetch(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    source = StaticSource(FileSecret(path))
    path.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        source.fetch("")
    path.write_text("two")
    assert text_of(source) == "two"
