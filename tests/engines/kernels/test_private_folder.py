"""Machine code is run from a folder that nobody else can write or replace, or from none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from adam_any.engines.kernels import private_folder

if os.name != "posix":
    pytest.skip("this system has other permissions and links", allow_module_level=True)


class Places:
    """A home, and a folder for temporary files that all may write, as /tmp."""

    def __init__(self, root: Path) -> None:
        self.home, self.temporary = root / "home", root / "temporary"
        self.cache = self.home / ".cache"
        self.wanted = self.cache / "adam_any"
        self.second = self.temporary / f"adam_any-{os.getuid()}"
        self.cache.mkdir(parents=True)
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)

    def found(self) -> Path | None:
        return private_folder.folder.__wrapped__()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    made = Places(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.setattr(tempfile, "tempdir", str(made.temporary))
    return made


def test_it_is_in_the_cache_of_the_user(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.found() == places.wanted
    assert places.wanted.stat().st_mode & 0o777 == 0o700
    assert places.found() == places.wanted
    other = places.home / "not" / "yet" / "there"
    monkeypatch.setenv("XDG_CACHE_HOME", str(other))
    assert places.found() == other / "adam_any"
    assert other.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("relative", ["", "here", "./here", "../here"])
def test_a_relative_place_is_ignored(
    places: Places, monkeypatch: pytest.MonkeyPatch, relative: str
) -> None:
    monkeypatch.chdir(places.home)
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    assert places.found() == places.wanted


def test_a_user_without_a_home_has_the_second(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(places.home)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert places.found() == places.second
    assert [path.name for path in places.home.iterdir()] == [".cache"]


def _link(places: Places, path: Path) -> None:
    """A link to a folder that is this user's own, which whoever made the link can turn round."""
    (places.home / "own").mkdir(mode=0o700)
    path.symlink_to(places.home / "own")


UNSAFE: dict[str, Callable[[Places], object]] = {
    "others can write there": lambda at: (at.wanted.mkdir(), at.wanted.chmod(0o777)),
    "others can write there, but not delete": lambda at: (
        at.wanted.mkdir(),
        at.wanted.chmod(0o1777),
    ),
    "a group can write there": lambda at: (at.wanted.mkdir(), at.wanted.chmod(0o770)),
    "it is a link": lambda at: _link(at, at.wanted),
    "it is a file": lambda at: at.wanted.write_text(""),
    "others can rename it": lambda at: at.cache.chmod(0o777),
    "a group can rename it": lambda at: at.cache.chmod(0o770),
    "others can rename what it is in": lambda at: at.home.chmod(0o777),
    "a link leads where others can rename it": lambda at: (
        at.cache.rmdir(),
        at.cache.symlink_to(at.temporary / "theirs"),
        (at.temporary / "theirs").mkdir(),
        (at.temporary / "theirs").chmod(0o777),
    ),
    "links in a circle": lambda at: (at.cache.rmdir(), at.cache.symlink_to(at.cache)),
}


@pytest.mark.promise("Machine code is run from no folder that others can write or replace.")
@pytest.mark.parametrize("why", UNSAFE)
def test_another_is_taken_where(places: Places, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_folder, "_alone", lambda group: False)
    UNSAFE[why](places)
    before = sorted(places.home.rglob("*"))
    assert places.found() == places.second
    assert sorted(places.home.rglob("*")) == before  # nothing was put there


@pytest.mark.parametrize("why", ["it is a link", "it is a file", "others can write there"])
def test_where_neither_can_be_trusted_there_is_none(places: Places, why: str) -> None:
    places.cache.chmod(0o777)
    places.wanted = places.second
    UNSAFE[why](places)
    before = sorted(places.temporary.iterdir())
    assert places.found() is None
    assert sorted(places.temporary.iterdir()) == before  # no folder for each process


def test_a_folder_of_another_user_is_not_taken(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places.found() == places.wanted
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert places.found() is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make what belongs to another user")
def test_a_link_of_another_user_is_not_followed(places: Places) -> None:
    own = places.home / "own"
    own.mkdir()
    places.cache.rmdir()
    places.cache.symlink_to(own)
    assert places.found() == own / "adam_any"  # the user's own, or root's, is
    os.chown(places.cache, 12345, 12345, follow_symlinks=False)
    assert places.found() == places.second
    os.chown(places.second, 12345, 12345)
    assert places.found() is None


def test_a_group_of_this_user_alone_is_this_user(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.cache.chmod(0o775)
    monkeypatch.setattr(private_folder, "_alone", lambda group: True)
    assert places.found() == places.wanted
    monkeypatch.undo()
    assert not private_folder._alone(2**31 - 2)  # a group without a name
