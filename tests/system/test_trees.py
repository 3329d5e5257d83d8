"""Directories into and out of real containers; what a hostile one gives stays where it was put."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tfnz import Container, Location
from tfnz.protocol.errors import FileError, PathNotFound, PathRefused

Snapshot = dict[bytes, tuple[str, int, bytes]]


@pytest.fixture
def container(location: Location) -> Container:
    return location.node().spawn("busybox", ["sleep", "1000"])


def look(directory: Path) -> Snapshot:
    """Every entry beneath a directory: its kind, mode, and content or target."""
    found: Snapshot = {}
    for path, directories, files in os.walk(os.fsencode(directory)):
        for name in directories + files:
            there = os.path.join(path, name)
            status = os.lstat(there)
            relative = os.path.relpath(there, os.fsencode(directory))
            if stat.S_ISLNK(status.st_mode):
                found[relative] = ("link", 0, os.readlink(there))
            elif stat.S_ISDIR(status.st_mode):
                found[relative] = ("directory", stat.S_IMODE(status.st_mode), b"")
            else:
                assert stat.S_ISREG(status.st_mode), there
                found[relative] = (
                    "file",
                    stat.S_IMODE(status.st_mode),
                    Path(os.fsdecode(there)).read_bytes(),
                )
    return found


def test_a_tree_comes_back_as_it_went(container: Container, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "empty").mkdir(parents=True)
    (here / "nested" / "deep").mkdir(parents=True)
    (here / "nested").chmod(0o711)
    (here / "nested" / "deep" / "data").write_bytes(os.urandom(3 << 20))
    (here / "nothing").touch()
    (here / "program").write_text("#!/bin/sh\n")
    (here / "program").chmod(0o755)
    for name in (b"new\nline", b"not \xff\xfe utf-8", b"-dash", b" blank ", b"\x1b[31m", b"n" * 255):
        Path(os.fsdecode(os.path.join(os.fsencode(here), name))).write_bytes(name)
    os.symlink("nested/deep", here / "to-directory")
    os.symlink("/etc/passwd", here / "absolute")
    os.symlink(b"nowhere \xff", os.fsencode(here / "dangling"))
    container.put_tree("/there/it/is", here)
    container.fetch_tree("/there/it/is", tmp_path / "back" / "again")
    assert look(tmp_path / "back" / "again") == look(here)
    owners = container.run("find /there -exec stat -c '%u:%g' '{}' + | sort -u").stdout
    assert owners == b"0:0\n"


def test_a_tree_is_added_to_what_is_there(container: Container, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "replaced").write_bytes(b"new")
    container.run("mkdir -p /t/sub; echo kept >/t/sub/kept; echo old >/t/sub/replaced")
    container.put_tree("/t", tmp_path)
    assert container.run("cat /t/sub/*").stdout == b"kept\nnew"


def test_set_id_bits_devices_and_pipes_do_not_come_out(container: Container, tmp_path: Path) -> None:
    container.run(
        "mkdir /t; cp /bin/busybox /t/su; chmod 6755 /t/su; chmod 1777 /t; mkfifo /t/fifo; chmod 000 /t"
    )
    container.fetch_tree("/t", tmp_path / "t")
    assert {name: mode for name, (_, mode, _) in look(tmp_path / "t").items()} == {b"su": 0o755}
    container.fetch_tree("/dev", tmp_path / "dev")
    assert {kind for kind, _, _ in look(tmp_path / "dev").values()} <= {"directory", "link"}


def test_there_must_be_a_directory_on_both_sides(container: Container, tmp_path: Path) -> None:
    with pytest.raises(PathNotFound, match=r"no directory .*missing"):
        container.put_tree("/t", tmp_path / "missing")
    with pytest.raises(PathNotFound, match="/missing: No such file"):
        container.fetch_tree("/missing", tmp_path)
    with pytest.raises(FileError, match="/etc/passwd: Not a directory"):
        container.fetch_tree("/etc/passwd", tmp_path)
    with pytest.raises(FileError, match="/etc/passwd: Not a directory"):
        container.put_tree("/etc/passwd", tmp_path)


def test_no_link_inside_is_written_through(container: Container, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "passwd").write_bytes(b"hostile")
    container.run("mkdir /t; ln -s /etc /t/sub")
    before = container.fetch("/etc/passwd")
    with pytest.raises(FileError, match="sub"):
        container.put_tree("/t", tmp_path)
    assert container.fetch("/etc/passwd") == before


@pytest.mark.parametrize("link", ["{}", "../../../../../../../..{}", "/proc/1/root{}", "/proc/self/root{}"])
def test_no_link_leads_a_tree_to_the_host(container: Container, tmp_path: Path, link: str) -> None:
    host, ours = tmp_path / "host", tmp_path / "ours"
    host.mkdir()
    ours.mkdir()
    (host / "canary").write_bytes(b"the host's own")
    (ours / "canary").write_bytes(b"hostile")
    container.run(["ln", "-s", link.format(host), "/link"])
    with pytest.raises(FileError):
        container.put_tree("/link", ours)
    with pytest.raises(FileError):
        container.fetch_tree("/link", tmp_path / "stolen")
    assert look(host) == {b"canary": ("file", 0o644, b"the host's own")}
    assert not look(tmp_path / "stolen")


def test_a_hostile_tree_stays_in_its_directory(container: Container, tmp_path: Path) -> None:
    """What it brings as links is made as links, and what it finds as links is not followed."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "canary").write_bytes(b"mine")
    (outside / "twin").write_bytes(b"mine")
    os.link(outside / "twin", inside / "twin")
    os.symlink(outside / "canary", inside / "canary")
    container.run(
        f"mkdir /t; ln -s {outside} /t/absolute; ln -s ../outside /t/relative; ln -s ../../../../.. /t/up;"
        "echo hostile >/t/canary; echo hostile >/t/twin"
    )
    container.fetch_tree("/t", inside)
    assert look(outside) == {b"canary": ("file", 0o644, b"mine"), b"twin": ("file", 0o644, b"mine")}
    assert (inside / "canary").read_bytes() == b"hostile\n"
    assert not (inside / "canary").is_symlink()
    assert (inside / "absolute").is_symlink()
    container.run(
        "rm /t/absolute /t/relative; mkdir /t/absolute /t/relative; touch /t/absolute/x /t/relative/x"
    )
    with pytest.raises(FileError, match="on this machine"):
        container.fetch_tree("/t", inside)
    assert sorted(os.listdir(outside)) == ["canary", "twin"]


def test_paths_of_trees_cannot_leave_the_root(container: Container, tmp_path: Path) -> None:
    for act in (container.put_tree, container.fetch_tree):
        with pytest.raises(PathRefused, match="leaves the container"):
            act("/../../etc", tmp_path)
