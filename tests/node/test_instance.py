"""Which run of which node: one daemon to a data directory, and the living told from the dead."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfnz.protocol.errors import InvalidArgument, NoCapacity
from tfnz_node.instance import (
    find_start_time,
    is_dead_instance,
    is_own_instance,
    lock_data_dir,
    name_instance,
)


@pytest.fixture
def living() -> Iterator[int]:
    """A process that is not us, and lives."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate()


@pytest.fixture
def dead() -> int:
    """The id of a process that has been."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The data directory of another node."""
    directory = tmp_path / "other"
    directory.mkdir()
    return directory


# --- the lock


def test_a_data_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    os.close(lock_data_dir(tmp_path / "data"))
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


@pytest.mark.parametrize(("owner", "mode"), [(0, 0o777), (0, 0o1777), (1000, 0o700)])
def test_a_data_directory_that_others_can_change_is_refused(tmp_path: Path, owner: int, mode: int) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(mode)
    os.chown(directory, owner, owner)
    with pytest.raises(InvalidArgument, match=f"{directory} can be changed by others .* chown .* chmod o-w"):
        lock_data_dir(directory)
    assert list(directory.iterdir()) == []


def test_one_daemon_has_a_data_directory(tmp_path: Path) -> None:
    lock = lock_data_dir(tmp_path)
    with pytest.raises(NoCapacity, match=f"another node is using {tmp_path}: stop it, or give this one"):
        lock_data_dir(tmp_path)
    os.close(lock)
    os.close(lock_data_dir(tmp_path))


def test_other_directories_are_free(tmp_path: Path) -> None:
    locks = [lock_data_dir(tmp_path / name) for name in ("one", "two")]
    for lock in locks:
        os.close(lock)


def test_the_lock_dies_with_its_daemon(tmp_path: Path) -> None:
    hold = (
        "import sys, pathlib, tfnz_node.instance as i\n"
        "i.lock_data_dir(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"held\n"
        with pytest.raises(NoCapacity):
            lock_data_dir(tmp_path)
        daemon.kill()
        daemon.wait()
    os.close(lock_data_dir(tmp_path))


def test_programs_that_the_daemon_starts_do_not_hold_the_lock(tmp_path: Path) -> None:
    lock = lock_data_dir(tmp_path)
    pipe = subprocess.PIPE
    with subprocess.Popen(["/bin/cat"], stdin=pipe, stdout=pipe, bufsize=0, close_fds=False) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"it has begun\n")
        assert program.stdout.readline() == b"it has begun\n"
        os.close(lock)
        os.close(lock_data_dir(tmp_path))
        program.communicate()


# --- names


def make_name(data_dir: Path, pid: int, start_time: int | None) -> str:
    owner = name_instance(data_dir).split("-")[0]
    return f"{owner}-{pid}-{start_time}"


def test_a_name_says_whose_and_which_run(tmp_path: Path, other: Path) -> None:
    name = name_instance(tmp_path)
    assert name == make_name(tmp_path, os.getpid(), find_start_time(os.getpid()))
    assert name != name_instance(other)
    (tmp_path / "link").symlink_to(tmp_path)
    assert name == name_instance(tmp_path / "link")


def test_we_are_not_dead(tmp_path: Path, other: Path) -> None:
    assert not is_dead_instance(name_instance(tmp_path), tmp_path, has_processes=False)
    assert not is_dead_instance(name_instance(other), tmp_path, has_processes=False)


def test_who_had_our_directory_is_dead_for_we_have_the_lock(tmp_path: Path, living: int, dead: int) -> None:
    assert is_dead_instance(make_name(tmp_path, dead, 1), tmp_path, has_processes=False)
    assert is_dead_instance(
        make_name(tmp_path, living, find_start_time(living)), tmp_path, has_processes=False
    )


def test_another_nodes_daemon_is_dead_when_its_process_is(
    tmp_path: Path, other: Path, living: int, dead: int
) -> None:
    assert not is_dead_instance(
        make_name(other, living, find_start_time(living)), tmp_path, has_processes=False
    )
    assert is_dead_instance(make_name(other, dead, 1), tmp_path, has_processes=False)


def test_another_nodes_daemon_may_be_out_of_sight_while_something_of_it_runs(
    tmp_path: Path, other: Path, dead: int
) -> None:
    assert not is_dead_instance(make_name(other, dead, 1), tmp_path, has_processes=True)
    assert is_dead_instance(make_name(tmp_path, dead, 1), tmp_path, has_processes=True)


def test_which_are_our_own(tmp_path: Path, other: Path, dead: int) -> None:
    assert is_own_instance(make_name(tmp_path, dead, 1), tmp_path)
    assert not is_own_instance(make_name(other, dead, 1), tmp_path)
    assert not is_own_instance("user.slice", tmp_path)


def test_a_directory_is_known_by_what_it_is_and_not_by_its_path(tmp_path: Path) -> None:
    before = name_instance(tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    tmp_path.mkdir()
    assert name_instance(moved) == before != name_instance(tmp_path)


def test_a_process_that_has_an_id_of_old_is_somebody_else(tmp_path: Path, other: Path, living: int) -> None:
    assert is_dead_instance(make_name(other, living, 1), tmp_path, has_processes=False)
    assert is_dead_instance(make_name(other, os.getpid(), 1), tmp_path, has_processes=False)


@pytest.mark.parametrize(
    "name", ["", "user.slice", "n0123abcd-1", "n0123ABCD-1-2", "n0123abcd-1-2-3", "xn0123abcd-1-2"]
)
def test_what_is_not_a_nodes_is_left_alone(tmp_path: Path, name: str) -> None:
    assert not is_dead_instance(name, tmp_path, has_processes=False)


# --- start times


def test_a_process_has_one_start_time(living: int) -> None:
    ours = find_start_time(os.getpid())
    assert ours is not None
    assert find_start_time(os.getpid()) == ours
    theirs = find_start_time(living)
    assert theirs is not None
    assert theirs >= ours


def test_a_process_that_has_been_has_none(dead: int) -> None:
    assert find_start_time(dead) is None


def test_a_process_may_be_called_anything(tmp_path: Path) -> None:
    program = tmp_path / "a) 1 (b"
    shutil.copy("/bin/cat", program)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as process:
        start = find_start_time(process.pid)
        process.communicate()
    assert start is not None
    assert start >= (find_start_time(os.getpid()) or 0)
