"""The watcher sees every way a file can change, and no change is lost."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ext_authz.reload import PERIOD_SECONDS, Watcher, signature


class Watched:
    """A watcher over one file, and how often it called."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self.calls = 0
        self.watcher = Watcher(lambda: self.paths, self._changed)

    def _changed(self) -> None:
        self.calls += 1

    def look(self) -> int:
        self.watcher.look()
        return self.calls


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text("one")
    return path


def test_an_unchanged_file_calls_for_nothing(file: Path) -> None:
    watched = Watched(file)
    assert [watched.look() for _ in range(3)] == [0, 0, 0]


def test_rewriting_replacing_removing_and_returning_are_each_noticed_once(file: Path) -> None:
    watched = Watched(file)
    file.write_text("longer")
    assert [watched.look(), watched.look()] == [1, 1]
    other = file.with_name("new")
    other.write_text("LONGER")
    other.replace(file)
    assert [watched.look(), watched.look()] == [2, 2]
    file.unlink()
    assert [watched.look(), watched.look()] == [3, 3]
    file.write_text("back")
    assert [watched.look(), watched.look()] == [4, 4]


def test_a_touched_file_of_the_same_size_is_noticed(file: Path) -> None:
    watched = Watched(file)
    os.utime(file, ns=(1, 1))
    assert watched.look() == 1


def test_a_symlink_swap_as_kubernetes_does_it_is_noticed(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.yaml").write_text("same")
    (tmp_path / "data").symlink_to("v1")
    watched = Watched(tmp_path / "data" / "c.yaml")
    (tmp_path / "data_tmp").symlink_to("v2")
    (tmp_path / "data_tmp").replace(tmp_path / "data")
    assert watched.look() == 1


def test_files_that_the_new_configuration_names_are_watched_from_then_on(file: Path) -> None:
    key = file.with_name("key.json")
    key.write_text("k")
    watched = Watched(file)
    file.write_text("names the key")
    watched.paths.append(key)
    assert watched.look() == 1
    key.write_text("rotated")
    assert [watched.look(), watched.look()] == [2, 2]


def test_a_write_that_lands_during_the_reload_is_noticed_the_next_time(file: Path) -> None:
    calls = []

    def changed() -> None:
        calls.append(file.read_text())
        if len(calls) == 1:
            file.write_text("written meanwhile")

    watcher = Watcher(lambda: [file], changed)
    file.write_text("second")
    for _ in range(3):
        watcher.look()
    assert calls == ["second", "written meanwhile"]


def test_an_absent_file_has_a_signature_too(tmp_path: Path) -> None:
    assert signature([tmp_path / "absent"]) == (None,)


async def test_it_looks_once_a_period_for_ever(file: Path) -> None:
    watched = Watched(file)
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        file.write_text("x" * len(slept))
        if len(slept) > 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await watched.watcher.watch(sleep)
    assert slept == [PERIOD_SECONDS] * 4
    assert watched.calls == 3
