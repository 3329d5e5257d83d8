"""The file of a unix socket: what is in its way, and who may use it."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from tfnz.protocol.errors import NoCapacity
from tfnz_node.gateway.unix_door import UnixDoor
from tfnz_node.gateway.unix_path import prepare_unix_path, private_umask, share_unix_path


def test_room_is_made_where_nothing_is(tmp_path: Path) -> None:
    prepare_unix_path(tmp_path / "run" / "node.sock")
    assert (tmp_path / "run").is_dir()


def test_a_dead_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    prepare_unix_path(path)
    assert not path.exists()


@pytest.mark.parametrize("callers", [0, 3])
def test_a_socket_that_somebody_listens_on_is_left(tmp_path: Path, callers: int) -> None:
    path = tmp_path / "node.sock"
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
        live.bind(str(path))
        live.listen(0)
        for _ in range(callers):  # more than it takes: it does not answer, and lives all the same
            caller = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(str(path))
        with pytest.raises(NoCapacity, match=f"another node is listening on {path}: stop it"):
            prepare_unix_path(path)
        assert path.is_socket()


def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("root")
    with pytest.raises(NoCapacity, match="is no socket: move it"):
        prepare_unix_path(path)
    assert path.read_text() == "root"


def test_a_socket_of_another_kind_is_left(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as other:
        other.bind(str(path))
        with pytest.raises(NoCapacity, match=f"{path} is in the way and is no socket of ours"):
            prepare_unix_path(path)
    assert path.is_socket()


def mode_of(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def test_a_socket_is_roots_alone_until_it_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    door = UnixDoor(str(path), allowed=lambda uid: True)
    before = os.umask(0o022)
    try:
        with private_umask():
            door.bind()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
        door.close()
    assert mode_of(path) == (0o600, 0, 0)
    group = grp.getgrall()[-1]
    share_unix_path(path, group.gr_name)
    assert mode_of(path) == (0o660, 0, group.gr_gid)


def test_without_the_group_it_stays_roots_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "node.sock"
    path.touch(0o600)
    share_unix_path(path, "no-such-group")
    assert mode_of(path) == (0o600, 0, 0)
    assert "no group 'no-such-group'" in caplog.text


def test_the_umask_comes_back_after_a_failure() -> None:
    before = os.umask(0o022)
    try:
        with pytest.raises(OSError, match="bind"), private_umask():
            raise OSError("bind")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
