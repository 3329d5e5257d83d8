"""Tests of unpacking, with real files: owners, modes, times, links, replacement, attributes."""

from __future__ import annotations

import os
import stat
import tarfile

import pytest

from tests.node.images.archives import Tar
from tests.node.images.storage import Storage
from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.unpacker import is_valid_capability

# cap_net_bind_service=ep, as setcap writes it.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def test_files_are_as_the_archive_says(storage: Storage, tar: Tar) -> None:
    tar.directory("./", mode=0o755, mtime=5)
    tar.directory("./bin", mode=0o751, uid=7, gid=8, mtime=1_234_567_890)
    tar.file("./bin/tool", b"#!" * 200_000, mode=0o4755, uid=9, gid=10, mtime=1.25)
    tar.symlink("./bin/alias", "/nowhere/at/all", uid=11, gid=12, mtime=77)
    tar.hard_link("./bin/same", "bin/tool")
    tar.add("./bin/pipe", tarfile.FIFOTYPE, mode=0o622, uid=65535, gid=65535)
    tar.file("deep/er/file", b"x")
    root = storage.unpack(tar.bytes())
    tool = (root / "bin/tool").stat()
    assert (root / "bin/tool").read_bytes() == b"#!" * 200_000
    assert (stat.S_IMODE(tool.st_mode), tool.st_uid, tool.st_gid) == (0o4755, 9, 10)
    assert tool.st_mtime_ns == 1_250_000_000
    assert (root / "bin/same").stat().st_ino == tool.st_ino
    directory = (root / "bin").stat()
    assert (stat.S_IMODE(directory.st_mode), directory.st_uid, directory.st_gid) == (0o751, 7, 8)
    assert directory.st_mtime == 1_234_567_890
    assert root.stat().st_mtime == 5
    alias = (root / "bin/alias").lstat()
    assert (os.readlink(root / "bin/alias"), alias.st_uid, alias.st_gid) == ("/nowhere/at/all", 11, 12)
    assert alias.st_mtime == 77
    pipe = (root / "bin/pipe").lstat()
    assert stat.S_ISFIFO(pipe.st_mode)
    assert (stat.S_IMODE(pipe.st_mode), pipe.st_uid) == (0o622, 65535)
    implied = (root / "deep/er").stat()
    assert (stat.S_IMODE(implied.st_mode), implied.st_uid, implied.st_gid) == (0o755, 0, 0)


def test_names_may_be_any_bytes(storage: Storage) -> None:
    name = "caf\udce9 \n \u2603"
    root = storage.unpack(Tar().file(name, b"x").file("n" * 255, b"y").bytes())
    assert sorted(os.listdir(os.fsencode(root))) == sorted([os.fsencode(name), b"n" * 255])


def test_the_last_member_of_a_name_wins(storage: Storage, tar: Tar) -> None:
    tar.file("a", b"first").file("a", b"second")
    tar.directory("b").file("b/c", b"x").file("b", b"file now")
    tar.file("d", b"x").directory("d").file("d/e", b"y")
    tar.symlink("f", "a").file("f", b"own")
    tar.file("g", b"linked").hard_link("h", "g").file("h", b"apart")
    tar.directory("i", mode=0o700).file("i/j").directory("i", mode=0o711)
    root = storage.unpack(tar.bytes())
    assert (root / "a").read_bytes() == b"second"
    assert (root / "b").read_bytes() == b"file now"
    assert (root / "d/e").read_bytes() == b"y"
    assert (root / "f").read_bytes() == b"own"
    assert (root / "g").read_bytes() == b"linked"
    assert (root / "h").read_bytes() == b"apart"
    assert (root / "i/j").exists()
    assert stat.S_IMODE((root / "i").stat().st_mode) == 0o711


def test_a_hard_link_to_itself_changes_nothing(storage: Storage, tar: Tar) -> None:
    root = storage.unpack(tar.file("a", b"x").hard_link("./a", "/a").bytes())
    assert (root / "a").read_bytes() == b"x"


def test_device_nodes_are_skipped_and_counted(storage: Storage, tar: Tar) -> None:
    tar.file("dev/file")
    tar.add("dev/sda", tarfile.BLKTYPE, devmajor=8, devminor=0)
    tar.add("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3)
    tar.add("dev/whiteout", tarfile.CHRTYPE, devmajor=0, devminor=0)
    tar.add("odd", b"Z", b"content of an unknown kind")
    result = storage.load(tar.bytes())
    assert result.skipped == 4
    root = storage.root / "layers" / result.images[0].layers[0]
    assert os.listdir(root / "dev") == ["file"]
    assert os.listdir(root) == ["dev"]


def test_only_valid_capabilities_are_kept_of_attributes(storage: Storage, tar: Tar) -> None:
    def attributes(**values: bytes) -> dict[str, str]:
        return {
            f"SCHILY.xattr.{key.replace('__', '.')}": value.decode("latin-1") for key, value in values.items()
        }

    tar.file("good", b"x", pax_headers=attributes(security__capability=CAPABILITY, user__mine=b"1"))
    tar.file("bad", b"x", pax_headers=attributes(security__capability=b"short"))
    tar.directory("overlay", pax_headers=attributes(trusted__overlay__opaque=b"y"))
    root = storage.unpack(tar.bytes())
    assert os.listxattr(root / "good") == ["security.capability"]
    assert os.getxattr(root / "good", "security.capability") == CAPABILITY
    assert os.listxattr(root / "bad") == []
    assert os.listxattr(root / "overlay") == []


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (CAPABILITY, True),
        (b"\0" + CAPABILITY[1:], True),
        (b"", False),
        (CAPABILITY[:-1], False),
        (CAPABILITY + b"\0\0\0\0", False),
        (b"\x02" + CAPABILITY[1:], False),
        (CAPABILITY[:3] + b"\x03" + CAPABILITY[4:], False),
    ],
)
def test_what_valid_capabilities_are(value: bytes, valid: bool) -> None:
    assert is_valid_capability(value) is valid


@pytest.mark.parametrize(
    "ids",
    [{"uid": 65536}, {"gid": 65536}, {"uid": 2**31 - 1}, {"uid": -1}, {"pax_headers": {"gid": "4294967296"}}],
)
def test_ids_that_no_container_has_are_refused(storage: Storage, ids: dict[str, int]) -> None:
    archive = Tar().file("fine")
    # Negative numbers and large ones need the base-256 form of GNU tar.
    archive._tar.format = tarfile.GNU_FORMAT if "pax_headers" not in ids else tarfile.PAX_FORMAT
    archive.file("owned", b"", **ids)
    with pytest.raises(ImageInvalid, match=r"'owned' belongs to .*; ids go from 0 to 65535, at offset \d+"):
        storage.load(archive.bytes())
    assert storage.layers() == []


def test_times_outside_any_calendar_are_bounded(storage: Storage, tar: Tar) -> None:
    tar.file("old", mtime=-5).file("far", pax_headers={"mtime": "99999999999999999"})
    root = storage.unpack(tar.bytes())
    assert (root / "old").stat().st_mtime == 0
    assert (root / "far").stat().st_mtime <= 1 << 34
