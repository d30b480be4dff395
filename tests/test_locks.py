"""The folder that a user's processes share: nobody else's is trusted, though anyone may make one of its name."""

import os
import stat
from pathlib import Path

import pytest

from autolr.errors import UsageError
from autolr.machine import locks


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folder is to be made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"autolr-{os.getuid()}"


def test_a_new_folder_is_its_owners_alone(shared: Path) -> None:
    assert locks.own_folder() == shared
    assert stat.S_IMODE(shared.stat().st_mode) == 0o700


def test_an_own_folder_that_others_may_enter_is_closed_to_them(shared: Path) -> None:
    shared.mkdir()
    shared.chmod(0o777)
    assert stat.S_IMODE(locks.own_folder().stat().st_mode) == 0o700


def test_a_link_in_its_place_is_refused(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shared.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"{shared} must be a folder of user .* got lrwx.*; remove it, or set TMPDIR"):
        locks.own_folder()


def test_a_file_in_its_place_is_refused(shared: Path) -> None:
    shared.write_text("")
    with pytest.raises(UsageError, match=f"{shared} must be a folder"):
        locks.own_folder()


def test_a_folder_of_another_user_is_refused(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the test stands for the other user."""
    me = os.getuid()
    (tmp_path / f"autolr-{me + 1}").mkdir(mode=0o777)
    monkeypatch.setattr("os.getuid", lambda: me + 1)
    with pytest.raises(UsageError, match=f"must be a folder of user {me + 1}, got drwx.* of user {me}; remove it"):
        locks.own_folder()
    assert not shared.exists()


def test_a_lock_that_is_a_link_is_refused_and_makes_no_file_elsewhere(shared: Path, tmp_path: Path) -> None:
    (locks.own_folder() / "clock").symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match="clock must be a file, got a symbolic link; remove it"), locks.evaluating():
        pass
    assert not (tmp_path / "victim").exists()
