"""One test for each way by which containers of others have been escaped from in the past."""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import termios
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.node.init.conftest import boot, launch
from tests.system.waiting import wait_for
from tfnz_node.sandbox.control import InitFailed
from tfnz_node.sandbox.jobs import RunFailed
from tfnz_node.sandbox.seccomp import compile_filter
from tfnz_node.sandbox.wire import Stage

if TYPE_CHECKING:
    from tests.node.init.conftest import LaunchBox, MakeRoot

#: For a machine that is very busy.
SOON_S = 30.0
#: More than init or its children ever have open.
DESCRIPTORS = range(24)
MASKED = ("acpi", "asound", "interrupts", "kcore", "keys", "key-users", "timer_list")
AT_FDCWD = -100
RENAME_EXCHANGE = 2

libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step."""
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), f"exchanging {one} and {other}")


def unread(pipe: int | None) -> int:
    """How many bytes in a pipe nobody has read yet."""
    assert pipe is not None
    count = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


@contextmanager
def left_open(directory: Path) -> Iterator[None]:
    """With a directory of the host that a careless daemon has left open for its children, at several numbers."""
    fds = []
    try:
        for _ in range(8):
            fds.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
            os.set_inheritable(fds[-1], True)
        yield
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.asyncio
async def test_descriptors_that_were_left_open_do_not_come_in(launch_box: LaunchBox, tmp_path: Path) -> None:
    """As in CVE-2024-21626: a directory of the host, open in what becomes the container's process."""
    host = tmp_path / "host"
    host.mkdir()
    with left_open(host):
        box = await launch_box()
        seen = await box.shell("ls -l /proc/self/fd; ls /proc/self/fd")
        assert str(host) not in seen
        assert seen.split()[-4:] == ["0", "1", "2", "3"]  # the last is what ls looks at
        # What works on files does not become another program, which would close what is to be closed then.
        job = await box.start("put", "/file", "644", builtin=True)
        assert job.stdin is not None
        os.write(job.stdin, b"some")
        # When it reads it has opened all it needs.
        wait_for(lambda: not unread(job.stdin), SOON_S, "it does not read")
        [worker] = Path(f"/proc/{box.init.pid}/task/{box.init.pid}/children").read_text().split()
        held = {int(entry.name): os.readlink(entry) for entry in Path(f"/proc/{worker}/fd").iterdir()}
        assert all(held.pop(number).startswith("pipe:") for number in (0, 1, 2))
        # Directories and files of the container, and neither init's socket to the daemon nor its signals.
        assert all(target.startswith("/") and str(host) not in target for target in held.values()), held
        await box.finish(job)


@pytest.mark.asyncio
async def test_no_descriptor_becomes_the_working_directory(
    launch_box: LaunchBox, make_root: MakeRoot, tmp_path: Path
) -> None:
    """As in CVE-2024-21626 by its other name: an image whose working directory is a descriptor of the runtime."""
    root = make_root()
    host = tmp_path / "host"
    host.mkdir()
    for number in DESCRIPTORS:
        (root / f"work{number}").symlink_to(f"/proc/self/fd/{number}")
    with left_open(host):
        box = await launch_box(root)
        for number, name in itertools.product(DESCRIPTORS, ("/proc/self/fd/{}", "/work{}")):
            with pytest.raises(RunFailed) as caught:
                await box.start("pwd", cwd=name.format(number))
            assert caught.value.stage is Stage.CWD
    # What is refused is what leads through descriptors, and not all that is in /proc.
    assert (await box.run("pwd", cwd="/proc/self")).code == 0


@pytest.mark.asyncio
async def test_the_file_of_init_is_out_of_reach(launch_box: LaunchBox, make_root: MakeRoot) -> None:
    """As in CVE-2019-5736: /proc/self/exe of a process of the runtime's, which can be opened and then written."""
    root = make_root()
    (root / "self").symlink_to("/proc/self/exe")
    (root / "first").symlink_to("/proc/1/exe")
    (root / "script").write_text("#!/proc/self/exe\n")
    (root / "script").chmod(0o755)
    box = await launch_box(root)
    program = Path(f"/proc/{box.init.pid}/exe")
    before = program.read_bytes()
    # From inside, of init and of what works on files.
    job = await box.start("put", "/file", "644", builtin=True)
    for pid in (1, job.pid):
        for way in (f"head -c 4 /proc/{pid}/exe", f": 7<>/proc/{pid}/exe", f"ls -l /proc/{pid}/fd/"):
            outcome = await box.run("sh", "-c", way)
            assert outcome.code != 0 and b"ermission denied" in outcome.stderr, (way, outcome)
    await box.finish(job)
    # Having init open it for us, by its true name and by a link in the image.
    for path in ("/proc/self/exe", "/self"):
        for words in (("get", path), ("put", path, "755")):
            outcome = await box.builtin(*words, input=b"#!/bin/sh\n")
            assert outcome.code == 1 and b"ELOOP" in outcome.stderr, (words, outcome)
    assert b"EACCES" in (await box.builtin("get", "/first")).stderr
    # It may be executed in the container, where it knows nothing and can do nothing.
    for program_name in ("/proc/self/exe", "/script"):
        assert (await box.run(program_name)).code != 0
    assert program.read_bytes() == before
    # And it belongs to somebody who is nobody inside.
    _, outside, count = map(int, Path(f"/proc/{box.init.pid}/uid_map").read_text().split())
    assert program.stat().st_uid not in range(outside, outside + count)


class Exchange:
    """Somebody who exchanges a directory and a link at it, over and over, until one of the two has gone."""

    def __init__(self, directory: Path, link: Path) -> None:
        self._directory, self._link = directory, link
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                exchange(self._directory, self._link)
            except OSError:
                return


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
async def test_mounts_do_not_follow_links_that_change_meanwhile(make_root: MakeRoot, name: str) -> None:
    """As in CVE-2019-19921 and CVE-2021-30465: mount points become links while they are being mounted on."""
    mounted = 0
    for _ in range(10):
        root = make_root()
        for directory in (root / name, root / "tmp" / "elsewhere"):
            directory.mkdir()
        link = root / "spare"
        link.symlink_to("tmp/elsewhere")
        init = await launch()
        try:
            with Exchange(root / name, link):
                try:
                    await boot(init, root)
                except InitFailed:
                    continue  # then nothing of it runs
            mounts = Path(f"/proc/{init.pid}/mountinfo").read_text().splitlines()
            targets = [line.split()[4] for line in mounts]
            # On the directory itself, whatever it is called by now, and not on what the link leads to.
            assert not [target for target in targets if "elsewhere" in target], targets
            mounted += 1
        finally:
            init.close()
            await init.ended()
    assert mounted


@pytest.mark.asyncio
@pytest.mark.parametrize("life", ["first", "next"])
async def test_masks_are_not_the_image_s_to_choose(
    launch_box: LaunchBox, make_root: MakeRoot, life: str
) -> None:
    """As in CVE-2025-31133: an image, or a container before its reboot, whose /dev/null is another file."""
    root = make_root()
    box = await launch_box(root)
    (root / "dev").mkdir(exist_ok=True)
    for name in ("null", "console", "pts"):
        (root / "dev" / name).symlink_to("/proc/sys/kernel/core_pattern")
    if life == "first":
        box = await launch_box(root)
    else:
        # From inside nothing can be put in the place of a device, either.
        for command in ("rm /dev/null", "mv /dev/null /dev/x", "mv /dev /x", "umount /proc/keys"):
            assert (await box.run("sh", "-c", command)).code != 0, command
        first = box.init
        first.kill()
        await first.ended()
        box.init = await launch(join=(first.userns_fd, first.netns_fd))
        first.close()
        await boot(box.init, root)
    null = os.stat("/dev/null")
    for name in MASKED:
        seen = Path(f"/proc/{box.init.pid}/root/proc/{name}")
        if not Path("/proc", name).exists():
            continue
        if Path("/proc", name).is_dir():
            assert os.listdir(seen) == [], name
        else:
            status = os.stat(seen)
            assert (status.st_dev, status.st_ino) == (null.st_dev, null.st_ino), name
    # By other ways to the same files there is no more to be seen.
    for way in ("/proc/self/root/proc", "/proc/self/task/1/../../../proc", "/proc/self/cwd/proc"):
        assert (await box.run("sh", "-c", f"cat {way}/keys {way}/interrupts")).stdout == b"", way
    assert b"ead-only" in (await box.run("sh", "-c", "echo x >/proc/sys/kernel/core_pattern")).stderr


@pytest.mark.asyncio
async def test_no_release_agent_can_be_set(launch_box: LaunchBox) -> None:
    """As in CVE-2022-0492: a program that the kernel starts on the host when a cgroup becomes empty."""
    box = await launch_box(seccomp=compile_filter())
    # The files are nowhere ...
    found = await box.run("find", "/", "-name", "release_agent", "-o", "-name", "cgroup.procs")
    assert found.stdout == b""
    # ... they cannot be mounted ...
    for kind in ("cgroup -o rdma", "cgroup -o none,name=mine", "cgroup2"):
        outcome = await box.run("sh", "-c", f"mount -t {kind} none /tmp")
        assert outcome.code != 0 and b"ermission denied" in outcome.stderr, (kind, outcome)
    # ... and nobody gets the rights for that in namespaces of their own.
    for option in ("-Ur", "-U", "-m", "-n", "-p", "-i", "-u"):
        outcome = await box.run("unshare", option, "true")
        assert outcome.code != 0 and b"not permitted" in outcome.stderr, (option, outcome)
