"""The built-in put and get: one file in, one file out, whatever stands in the way."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tfnz_node.kernel import syscalls
from tfnz_node.sandbox.wire import seal

if TYPE_CHECKING:
    from tests.node.init.conftest import Box, LaunchBox, MakeRoot

# BPF: openat with O_TMPFILE's own bit fails as it does on an overlay before Linux 6.10, all else is allowed.
NO_NAMELESS_FILES = b"".join(
    struct.pack("<HBBI", *instruction)
    for instruction in (
        (0x20, 0, 0, 0),  # load the number
        (0x15, 0, 3, 257),  # openat?
        (0x20, 0, 0, 32),  # load its flags
        (0x45, 0, 1, 0o20000000),
        (0x06, 0, 0, 0x00050000 | errno.EOPNOTSUPP),
        (0x06, 0, 0, 0x7FFF0000),
    )
)


@pytest.fixture
def obstacles(make_root: MakeRoot, tmp_path: Path) -> Path:
    """A root with everything in it that put and get have to be careful about."""
    root = make_root()
    (tmp_path / "outside").write_text("host")
    os.mkfifo(root / "fifo")
    (root / "loop").symlink_to("loop")
    (root / "gone").symlink_to("/nowhere/at/all")
    (root / "gone2").symlink_to("gone")
    (root / "host").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to("../../../../../../etc/passwd")
    (root / "link").symlink_to("etc/group")
    (root / "var" / "rel").symlink_to("../etc/group")
    (root / "magic").symlink_to("/proc/self/fd/0")
    (root / "dir").symlink_to("var")
    return root


@pytest.mark.asyncio
async def test_put_writes_content_mode_and_parents(box: Box) -> None:
    content = os.urandom(3_000_000)
    outcome = await box.builtin("put", "/srv/new/file", "0640", input=content)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, b"", b"")
    assert (box.root / "srv/new/file").read_bytes() == content
    assert await box.shell("stat -c '%a %u %g' /srv /srv/new/file") == "755 0 0\n640 0 0\n"
    assert (await box.builtin("get", "/srv/new/file")).stdout == content


@pytest.mark.asyncio
async def test_put_replaces_at_once(box: Box) -> None:
    (box.root / "file").write_text("old")
    job = await box.start("put", "/file", "644", builtin=True)
    assert job.stdin is not None
    os.write(job.stdin, b"half of the new")
    assert (box.root / "file").read_text() == "old"
    await box.init.signal(job.id, signal.SIGKILL)
    assert (await box.finish(job)).code == -signal.SIGKILL
    assert (box.root / "file").read_text() == "old"
    assert (await box.builtin("put", "/file", "600", input=b"new")).code == 0
    assert (box.root / "file").read_text() == "new"
    assert (box.root / "file").stat().st_mode & 0o7777 == 0o600


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, (128 << 10) - 16, 128 << 10, (128 << 10) + 1, 1_000_001])
async def test_a_put_whose_sender_ends_before_its_content_changes_nothing(box: Box, size: int) -> None:
    """As a daemon that is killed does: what it had open is closed."""
    content = os.urandom(size)
    assert (await box.builtin("put", "/file", "644", input=content)).code == 0
    assert (box.root / "file").read_bytes() == content
    complaint = b"ECANCELED /file: the sender has ended before its content\n"
    for half in (
        content,
        content + seal(size)[:-1],
        content + seal(size + 1),
        b"tfnz:all",
        content + seal(0)[:8],
    ):
        outcome = await box.run("put", "/file", "600", input=half, builtin=True)
        assert (outcome.code, outcome.stderr) == (1, complaint)
        assert (box.root / "file").read_bytes() == content
    assert not list(box.root.rglob(".tfnz*"))


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [0, 1, 128 << 10, 3_000_001])
async def test_put_without_nameless_files(launch_box: LaunchBox, size: int) -> None:
    box = await launch_box(seccomp=NO_NAMELESS_FILES)
    (box.root / "file").write_text("old")
    content = os.urandom(size)
    assert (await box.builtin("put", "/file", "4750", input=content)).code == 0
    assert (box.root / "file").read_bytes() == content
    assert await box.shell("stat -c '%a %u %g' /file") == "4750 0 0\n"
    assert not list(box.root.rglob(".tfnz*"))


@pytest.mark.asyncio
async def test_nothing_is_left_of_a_killed_put_without_nameless_files(launch_box: LaunchBox) -> None:
    from tests.node.init.conftest import write_all

    box = await launch_box(seccomp=NO_NAMELESS_FILES)
    (box.root / "file").write_text("old")
    job = await box.start("put", "/file", "644", builtin=True)
    assert job.stdin is not None
    # More than any pipe holds, so that some of it has been written.
    await write_all(job.stdin, bytes(4 << 20))
    await box.init.signal(job.id, signal.SIGKILL)
    assert (await box.finish(job)).code == -signal.SIGKILL
    assert (box.root / "file").read_text() == "old"
    assert not list(box.root.rglob(".tfnz*"))


@pytest.mark.asyncio
async def test_put_on_a_full_disk_without_nameless_files(launch_box: LaunchBox, small_disk: Path) -> None:
    (small_disk / "file").write_text("old")
    box = await launch_box(small_disk, seccomp=NO_NAMELESS_FILES)
    # The second fits once, and ext4 cannot share its blocks with the copy.
    for size in (20 << 20, free_bytes(small_disk) // 2 + (1 << 20)):
        outcome = await box.builtin("put", "/file", "644", input=bytes(size))
        assert (outcome.code, outcome.stderr) == (1, b"ENOSPC /file: no space is left\n")
        assert (small_disk / "file").read_text() == "old"
        assert not list(small_disk.rglob(".tfnz*"))
    box.init.close()
    await box.init.ended()


def free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


@pytest.mark.asyncio
@pytest.mark.parametrize("launching", [{}, {"seccomp": NO_NAMELESS_FILES}], ids=["nameless", "unlinked"])
async def test_put_where_the_kernel_makes_the_files(
    launch_box: LaunchBox, launching: dict[str, bytes]
) -> None:
    box = await launch_box(**launching)
    outcome = await box.builtin("put", "/dev/pts/x", "644", input=b"x")
    assert outcome.code == 1
    assert outcome.stderr.endswith(b" /dev/pts/x is where no files can be made, as in /proc\n")


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["link", "/link", "/dir/rel", "/dir/../link", "//var/./rel"])
async def test_links_inside_are_followed(launch_box: LaunchBox, obstacles: Path, path: str) -> None:
    box = await launch_box(obstacles)
    assert (await box.builtin("put", path, "644", input=b"through")).code == 0
    assert (obstacles / "etc/group").read_bytes() == b"through"
    assert (obstacles / "link").is_symlink() and (obstacles / "var/rel").is_symlink()
    assert (await box.builtin("get", path)).stdout == b"through"


@pytest.mark.asyncio
async def test_a_link_cannot_lead_out(launch_box: LaunchBox, obstacles: Path, tmp_path: Path) -> None:
    box = await launch_box(obstacles)
    assert (await box.builtin("get", "/up")).stdout == (obstacles / "etc/passwd").read_bytes()
    assert (await box.builtin("get", "/../../../etc/passwd")).stdout == (
        obstacles / "etc/passwd"
    ).read_bytes()
    outcome = await box.builtin("get", "/host")
    assert outcome.code == 1 and outcome.stderr == b"ENOENT /host: No such file or directory\n"
    outcome = await box.builtin("put", "/host", "644", input=b"x")
    assert outcome.code == 1 and outcome.stderr.startswith(b"ELINK /host is a symbolic link to ")
    assert (tmp_path / "outside").read_text() == "host"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc", "EISDIR /etc is a directory"),
        ("/", "EISDIR / is a directory"),
        ("", "EISDIR the empty path is a directory"),
        ("/dir", "EISDIR /dir is a directory"),
        ("/fifo", "EINVAL /fifo is a special file, only regular files can be written"),
        ("/dev/null", "EINVAL /dev/null is a special file, only regular files can be written"),
        ("/loop", "ELOOP /loop leads through a loop of symbolic links or a magic link"),
        ("/magic", "ELOOP /magic leads through a loop of symbolic links or a magic link"),
        ("/proc/self/fd/1", "ELOOP /proc/self/fd/1 leads through a loop of symbolic links or a magic link"),
        (
            "/proc/self/root/x",
            "ELOOP /proc/self/root/x leads through a loop of symbolic links or a magic link",
        ),
        ("/gone", "ELINK /gone is a symbolic link to /nowhere/at/all, which does not exist in the container"),
        (
            "/gone2",
            "ELINK /gone2 is a symbolic link to /nowhere/at/all, which does not exist in the container",
        ),
        (
            "/gone/x",
            "ELINK /gone/ is a symbolic link to /nowhere/at/all, which does not exist in the container",
        ),
        ("/etc/passwd/x", "ENOTDIR /etc/passwd/: Not a directory"),
        ("/sys/x", "EROFS writing /sys/x: Read-only file system"),
        ("/fifo\n\x1b", None),
    ],
)
async def test_put_refuses(launch_box: LaunchBox, obstacles: Path, path: str, text: str | None) -> None:
    box = await launch_box(obstacles)
    outcome = await box.builtin("put", path, "644", input=b"x")
    if text is None:
        assert outcome.code == 0
    else:
        assert (outcome.code, outcome.stderr.decode()) == (1, text + "\n")
    assert not list(obstacles.rglob(".tfnz*"))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc", "EISDIR /etc is a directory"),
        ("/absent", "ENOENT /absent: No such file or directory"),
        ("/fifo", "EINVAL /fifo is a special file, only regular files can be fetched"),
        ("/dev/zero", "EINVAL /dev/zero is a special file, only regular files can be fetched"),
        ("/dev/tty", "EINVAL /dev/tty is a special file, only regular files can be fetched"),
        ("/loop", "ELOOP /loop leads through a loop of symbolic links or a magic link"),
        ("/magic", "ELOOP /magic leads through a loop of symbolic links or a magic link"),
        (
            "/proc/self/root/x",
            "ELOOP /proc/self/root/x leads through a loop of symbolic links or a magic link",
        ),
        ("/proc/1/root/x", "EACCES /proc/1/root/x: Permission denied"),
        ("/gone", "ENOENT /gone: No such file or directory"),
        ("/etc/passwd/x", "ENOTDIR /etc/passwd/x: Not a directory"),
        ("/proc/1/environ", "EACCES /proc/1/environ: Permission denied"),
    ],
)
async def test_get_refuses(launch_box: LaunchBox, obstacles: Path, path: str, text: str) -> None:
    box = await launch_box(obstacles)
    outcome = await box.builtin("get", path)
    assert (outcome.code, outcome.stdout, outcome.stderr.decode()) == (1, b"", text + "\n")


@pytest.mark.asyncio
async def test_as_another_user_only_what_that_user_may(box: Box) -> None:
    (box.root / "secret").write_text("x")
    (box.root / "secret").chmod(0o600)
    outcome = await box.builtin("get", "/secret", user="ann")
    assert (outcome.code, outcome.stderr) == (1, b"EACCES /secret: Permission denied\n")
    outcome = await box.builtin("put", "/etc/passwd", "644", input=b"x", user="ann")
    assert (outcome.code, outcome.stderr) == (1, b"EACCES writing /etc/passwd: Permission denied\n")
    assert (await box.builtin("put", "/tmp/mine", "644", input=b"x", user="ann")).code == 0
    assert await box.shell("stat -c %u:%g /tmp/mine") == "1000:1001\n"


@pytest.mark.asyncio
async def test_put_onto_a_secret_stays_in_memory(box: Box) -> None:
    await box.write_file(b"/key", b"a longer first value", mode=0o600, owner=b"ann", secret=True)
    assert (await box.builtin("put", "/key", "644", input=b"second")).code == 0
    assert (await box.builtin("get", "/key")).stdout == b"second"
    assert await box.shell("stat -c '%a %u' /key") == "600 1000\n"
    assert (box.root / "key").read_bytes() == b""


@pytest.fixture
def small_disk(tmp_path: Path, busybox_root: Path) -> Iterator[Path]:
    """A root on a file system of its own that is nearly full."""
    image, mounted = tmp_path / "disk", tmp_path / "small"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    try:
        subprocess.run(["cp", "-a", f"{busybox_root}/.", str(mounted)], check=True)
        yield mounted
    finally:
        syscalls.umount2(mounted, syscalls.MNT_DETACH)


@pytest.mark.asyncio
async def test_put_on_a_full_disk_keeps_the_old_file(launch_box: LaunchBox, small_disk: Path) -> None:
    (small_disk / "file").write_text("old")
    box = await launch_box(small_disk)
    outcome = await box.builtin("put", "/file", "644", input=bytes(20 << 20))
    assert (outcome.code, outcome.stderr) == (1, b"ENOSPC /file: no space is left\n")
    assert (small_disk / "file").read_text() == "old"
    assert not list(small_disk.rglob(".tfnz*"))
    box.init.close()
    await box.init.ended()


@pytest.mark.asyncio
async def test_a_file_that_many_write_is_always_whole(box: Box) -> None:
    contents = [bytes([65 + n]) * 200_000 for n in range(8)]
    await asyncio.gather(*(box.builtin("put", "/f", "644", input=content) for content in contents))
    assert (await box.builtin("get", "/f")).stdout in contents


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("put", "/x"), "EINVAL tfnz-init has no operation put with 1 arguments"),
        (("remove", "/x"), "EINVAL tfnz-init has no operation remove with 1 arguments"),
        (("put", "/x", "9"), "EINVAL the mode 9 is not an octal number up to 7777"),
        (("put", "/x", "17777"), "EINVAL the mode 17777 is not an octal number up to 7777"),
        (("put", "/x", ""), "EINVAL the mode  is not an octal number up to 7777"),
    ],
)
async def test_unknown_operations_are_refused(box: Box, argv: tuple[str, ...], text: str) -> None:
    outcome = await box.builtin(*argv)
    assert (outcome.code, outcome.stderr.decode()) == (1, text + "\n")


@pytest.mark.asyncio
async def test_operations_run_confined(box: Box) -> None:
    job = await box.start("put", "/file", "644", builtin=True)
    status = dict(
        line.split(":\t", 1) for line in (await box.shell(f"cat /proc/{job.pid}/status")).splitlines()
    )
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) != 0
    await box.finish(job)
