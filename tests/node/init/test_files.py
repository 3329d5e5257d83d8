"""Files and secrets written before the first process, on hostile images too."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

import pytest

from tfnz_node.sandbox.control import InitFailed
from tfnz_node.sandbox.memory import find_parts, memory_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.node.init.conftest import Box, MakeRoot


@pytest.mark.asyncio
async def test_content_mode_owner_and_parents(box: Box) -> None:
    await box.write_file(b"/srv/a/b.txt", b"hello\0world", mode=0o640, owner=b"ann")
    await box.write_file(b"relative/./c//d", b"", owner=b"5:6")
    await box.write_file(b"/big", b"x" * 3_000_000, mode=0o4755)
    shown = await box.shell(
        "cd /; stat -c '%a %u %g %s' srv srv/a srv/a/b.txt relative/c/d big | sed 's/ [0-9]*$//'"
    )
    assert shown == "755 0 0\n755 0 0\n640 1000 1001\n644 5 6\n4755 0 0\n"
    assert (box.root / "srv/a/b.txt").read_bytes() == b"hello\0world"
    assert (box.root / "big").stat().st_size == 3_000_000
    assert not list(box.root.glob("**/.tfnz*"))


@pytest.mark.asyncio
async def test_a_file_or_link_is_replaced_and_never_followed(box: Box, tmp_path: Path) -> None:
    (box.root / "etc" / "conf").symlink_to(tmp_path / "outside")
    (box.root / "etc" / "resolv.conf").symlink_to("../run/gone/resolv.conf")
    for name in (b"/etc/conf", b"/etc/passwd", b"/etc/resolv.conf"):
        await box.write_file(name, b"new")
        path = box.root / name.decode()[1:]
        assert path.read_bytes() == b"new" and not path.is_symlink()
    assert not (tmp_path / "outside").exists()


@pytest.mark.asyncio
async def test_links_in_the_way_lead_to_places_inside(box: Box, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (box.root / "abs").symlink_to("/var")
    (box.root / "up").symlink_to("../../../../../var")
    await box.write_file(b"/abs/one", b"1")
    await box.write_file(b"/up/deep/two", b"2")
    assert (box.root / "var/one").read_bytes() == b"1"
    assert (box.root / "var/deep/two").read_bytes() == b"2"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "number", "text"),
    [
        (b"/etc", errno.EISDIR, "/etc is a directory"),
        (b"/", errno.EISDIR, "/ is a directory"),
        (b"", errno.EISDIR, "the empty path is a directory"),
        (b"/etc/..", errno.EISDIR, "/etc/.. is a directory"),
        (b"/etc/passwd/x", errno.ENOTDIR, "/etc/passwd/: Not a directory"),
        (b"/new/../../x", errno.EINVAL, r"/new/../../ goes up \(..\) from a directory that does not exist"),
        (b"/self/x", errno.ELOOP, "/self/ leads through a loop of symbolic links or a magic link"),
        (b"/magic/x", errno.ELOOP, "/magic/ leads through a loop of symbolic links or a magic link"),
        (b"/proc/1/root/tmp/x", errno.ELOOP, "/proc/1/root/tmp/ leads through a loop"),
        (
            b"/gone/x",
            errno.ENOENT,
            "/gone/ is a symbolic link to /nowhere, which does not exist in the container",
        ),
        (b"/proc/x", errno.EPERM, "/proc/x is in /proc, /sys or /dev/pts, where no files can be written"),
        (b"/sys/x", errno.EPERM, "where no files can be written"),
        (b"/pipe", errno.EINVAL, "/pipe is a special file, only regular files can be written"),
        (b"/dev/null", errno.EINVAL, "/dev/null is a special file"),
        (b"/" + b"n" * 300, errno.ENAMETOOLONG, "is longer than 255 bytes"),
        (b"/a" * 3000, errno.ENAMETOOLONG, "a path of 6000 bytes is too long, at most 4095 are possible"),
        (b"/a" * 200, errno.ENAMETOOLONG, "would need more than 128 new directories"),
    ],
)
async def test_what_cannot_be_written_is_refused(box: Box, path: bytes, number: int, text: str) -> None:
    (box.root / "self").symlink_to("self")
    (box.root / "magic").symlink_to("/proc/self/cwd")
    (box.root / "gone").symlink_to("/nowhere")
    os.mkfifo(box.root / "pipe")
    with pytest.raises(InitFailed, match=text) as caught:
        await box.write_file(path, b"x")
    assert caught.value.errno == number


@pytest.mark.asyncio
async def test_an_unknown_owner_or_mode_is_refused(box: Box) -> None:
    with pytest.raises(InitFailed, match="there is no user bob"):
        await box.write_file(b"/x", b"", owner=b"bob")
    with pytest.raises(InitFailed, match="mode 20000 or flags 0 are unknown"):
        await box.write_file(b"/x", b"", mode=0o20000)
    assert not (box.root / "x").exists()


@pytest.mark.asyncio
async def test_not_once_a_process_has_run(box: Box) -> None:
    await box.run("true")
    for secret in (False, True):
        with pytest.raises(InitFailed, match="between boot and the first process") as caught:
            await box.write_file(b"/x", b"", secret=secret)
        assert caught.value.errno == errno.EBUSY


@pytest.mark.asyncio
async def test_control_characters_do_not_reach_the_text(box: Box) -> None:
    with pytest.raises(InitFailed, match=r"/\?\[31m\?x/: Not a directory|/etc/passwd/\?\[31m\?/") as caught:
        await box.write_file(b"/etc/passwd/\x1b[31m\n/x", b"")
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.asyncio
async def test_secrets_live_in_memory_only(box: Box) -> None:
    (box.root / "etc" / "old").write_text("old")
    await box.write_file(b"/run/secrets/key", b"hidden", mode=0o400, owner=b"ann", secret=True)
    await box.write_file(b"/etc/old", b"new", secret=True)
    for name in ("run/secrets/key", "etc/old"):
        assert (box.root / name).read_bytes() == b""
    assert await box.shell("cat /run/secrets/key", user="ann") == "hidden"
    assert (
        await box.shell("cat /etc/old; stat -c '%a %u' /run/secrets/key /etc/old") == "new400 1000\n644 0\n"
    )
    mounts = await box.shell("grep -E ' (/run/secrets/key|/etc/old) ' /proc/self/mounts")
    for line in mounts.splitlines():
        kind, options = line.split()[2:4]
        assert kind == "tmpfs" and {"nosuid", "nodev", "noexec"} <= set(options.split(","))
    assert len(mounts.splitlines()) == 2


@pytest.mark.asyncio
async def test_the_secrets_file_system_itself_is_out_of_reach(box: Box) -> None:
    await box.write_file(b"/key", b"hidden", secret=True)
    assert ".tfnz" not in await box.shell("ls -A /dev; cat /proc/self/mounts")
    assert (await box.run("umount", "/key")).code != 0
    assert (await box.run("rm", "/key")).code != 0


@pytest.mark.asyncio
async def test_a_secret_given_twice_is_refused(box: Box) -> None:
    await box.write_file(b"/key", b"one", secret=True)
    with pytest.raises(InitFailed, match="/key is a mount point already; was it given twice"):
        await box.write_file(b"/key", b"two", secret=True)
    assert await box.shell("cat /key") == "one"


@pytest.mark.asyncio
async def test_a_secret_that_does_not_fit_is_refused(box: Box) -> None:
    with pytest.raises(InitFailed, match="/key: no space is left") as caught:
        await box.write_file(b"/key", bytes(17 << 20), secret=True)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.asyncio
async def test_what_is_asked_before_the_answer_is_done_in_order_and_not_without_what_it_needs(
    make_root: MakeRoot,
) -> None:
    from tests.node.init.conftest import Box, clone_mapped, launch

    root = make_root()
    init = await launch()
    box = Box(init, root)
    mount = clone_mapped(root, init.userns_fd)
    fd = memory_file("test", b"hello")
    [content] = find_parts(fd, [5])
    try:
        booting = init.boot(mount, hostname="box")
        good, bad, later = (init.write_file(path, content) for path in (b"/good", b"/etc", b"/later"))
        main = asyncio.create_task(box.start("cat", "/good", main=True))
        await booting
        await good
        with pytest.raises(InitFailed, match="/etc") as refused:
            await bad
        assert refused.value.errno == errno.EISDIR
        await later
        with pytest.raises(InitFailed, match="the main process is not started: a file that it needs"):
            await main
        assert await box.shell("cat /good /later") == "hellohello"
    finally:
        os.close(fd)
        os.close(mount)
        init.close()
        await init.ended()
