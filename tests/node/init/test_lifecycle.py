"""A container's beginning, its end and its next life."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tfnz_node.kernel.mountinfo import list_mounts
from tfnz_node.sandbox.cgroup_entry import NOWHERE, Entry
from tfnz_node.sandbox.cgroups import find_v2_mount
from tfnz_node.sandbox.cgroups_v1 import find_v1_mounts
from tfnz_node.sandbox.control import InitFailed, InitGone
from tfnz_node.sandbox.launch import LaunchFailed, launch_init
from tfnz_node.sandbox.wire import Entrance

if TYPE_CHECKING:
    from tests.node.init.conftest import Box, LaunchBox


def _processes_below(pid: int) -> list[int]:
    """Host ids of the processes in the pid namespace of `pid`."""
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "ns" / "pid") == namespace:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["close", "kill"])
async def test_everything_inside_ends_with_it(box: Box, how: str) -> None:
    jobs = [await box.start("sh", "-c", "trap '' TERM HUP; (sleep 1000 &); sleep 1000") for _ in range(3)]
    inside = _processes_below(box.init.pid)
    assert len(inside) >= 4
    if how == "close":
        box.init.close()
    else:
        box.init.kill()
    status = await box.init.ended()
    assert (os.waitstatus_to_exitcode(status)) == (0 if how == "close" else -signal.SIGKILL)
    assert [await job.wait() for job in jobs] == [signal.SIGKILL] * 3
    # The kernel ends a pid namespace's processes before its PID 1 can be waited for.
    assert not [pid for pid in inside if Path(f"/proc/{pid}").exists()]
    for job in jobs:
        job.close()
    with pytest.raises(InitGone):
        await box.start("true")


@pytest.mark.asyncio
async def test_a_request_under_way_learns_of_the_end(box: Box) -> None:
    task = asyncio.create_task(box.start("true"))
    await asyncio.sleep(0)
    box.init.close()
    with pytest.raises(InitGone, match="ended before it answered RUN"):
        await task


@pytest.mark.asyncio
async def test_the_main_process_ends_and_the_container_stays(box: Box) -> None:
    assert (await box.run("true", main=True)).code == 0
    assert (await box.run("true")).code == 0


@pytest.mark.asyncio
async def test_exits_before_the_end_keep_their_true_status(box: Box) -> None:
    job = await box.start("sh", "-c", "exit 5")
    assert job.stdout is not None
    # Standard output ends with the process, and then its exit is on its way.
    while True:
        try:
            if not os.read(job.stdout, 1):
                break
        except BlockingIOError:
            await asyncio.sleep(0)
    status = await job.wait()
    box.init.kill()
    await box.init.ended()
    assert os.waitstatus_to_exitcode(status) == 5
    job.close()


@pytest.mark.asyncio
async def test_the_next_life_keeps_user_and_network_namespace(launch_box: LaunchBox) -> None:
    from tests.node.init.conftest import boot, launch

    box = await launch_box()
    first = box.init
    script = "cd /proc/self/ns; readlink user; readlink net; ip -4 -o addr | grep -c 10.9.8.7/32"
    before = await box.shell(f"sleep 1000 >/dev/null 2>&1 & touch /kept; {script}")
    first.kill()
    await first.ended()
    box.init = await launch(join=(first.userns_fd, first.netns_fd))
    first.close()
    await boot(box.init, box.root)
    assert await box.shell(script) == before
    assert before.endswith("\n1\n")
    assert await box.shell("id -u; ls /kept") == "0\n/kept\n"
    assert "sleep" not in await box.shell("ps -o comm")


@pytest.mark.asyncio
async def test_nothing_runs_before_boot_and_boot_happens_once(box: Box) -> None:
    from tests.node.init.conftest import boot, launch

    init = await launch()
    try:
        early = type(box)(init, box.root)
        with pytest.raises(InitFailed, match="before the container has booted"):
            await early.start("true")
        with pytest.raises(InitFailed, match="files are written between boot and the first process"):
            await early.write_file(b"/etc/x", b"")
        with pytest.raises(InitFailed, match="booted already"):
            await boot(box.init, box.root)
        with pytest.raises(InitFailed, match="10.9.8.700 is not an IPv4 address"):
            await boot(init, box.root, address="10.9.8.700")
    finally:
        init.close()
        await init.ended()


@pytest.mark.asyncio
async def test_a_launch_that_cannot_enter_its_cgroups_leaves_nothing() -> None:
    from tests.node.init.conftest import ALLOW_ALL, find_binary

    seen = []

    def refuse(pid: int) -> Entry:
        seen.append(pid)
        raise OSError("no such cgroup")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no such cgroup"):
        await launch_init(find_binary(), seccomp=ALLOW_ALL, id_base=3_000_000_000, enter=refuse)
    assert not Path(f"/proc/{seen[0]}").exists()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("seccomp", "id_base", "text"),
    [
        (b"", 3_000_000_000, "init failed before .*: a seccomp filter of 0 bytes"),
        (b"123", 3_000_000_000, "a seccomp filter of 3 bytes"),
        (bytes(8), 2**32 - 5, "cannot map ids 4294967291.. into the user namespace"),
    ],
)
async def test_a_launch_that_fails_says_where_and_leaves_nothing(
    seccomp: bytes, id_base: int, text: str
) -> None:
    from tests.node.init.conftest import find_binary

    pids: list[int] = []

    def enter(pid: int) -> Entry:
        pids.append(pid)
        return NOWHERE

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LaunchFailed, match=text):
        await launch_init(find_binary(), seccomp=seccomp, id_base=id_base, enter=enter)
    assert not Path(f"/proc/{pids[0]}").exists()
    assert len(os.listdir("/proc/self/fd")) == before


#: Launches an init, and ends it.
LAUNCHER = """
import asyncio
from tests.node.init.conftest import launch
async def main():
    init = await launch()
    init.close()
    await init.ended()
asyncio.run(main())
"""


def test_a_launch_takes_no_right_to_trace() -> None:
    """Init is not the daemon's user any more when the daemon needs its namespaces."""
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'node'}"}
    without = ["setpriv", "--bounding-set", "-sys_ptrace", sys.executable, "-c", LAUNCHER]
    subprocess.run(without, check=True, cwd=root, env=env)


@pytest.mark.asyncio
async def test_a_launch_that_can_be_watched_by_nobody_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is done but for the descriptor that tells of its end, and there is none left."""
    from tests.node.init.conftest import ALLOW_ALL, find_binary

    pids: list[int] = []

    def refuse(pid: int) -> int:
        pids.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Too many open files"):
        await launch_init(find_binary(), seccomp=ALLOW_ALL, id_base=3_000_000_000, enter=lambda _: NOWHERE)
    assert not Path(f"/proc/{pids[0]}").exists()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.asyncio
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_init_enters_its_cgroup_by_itself(version: str) -> None:
    from tests.node.init.conftest import ALLOW_ALL, ID_BASE, find_binary

    mounts = list_mounts()
    home = find_v1_mounts(mounts).get("pids") if version == "v1" else find_v2_mount(mounts)
    if home is None:
        pytest.skip(f"this kernel has no cgroups {version}")
    group = home / f"tfnz-test-{secrets.token_hex(4)}"
    group.mkdir()
    seen: list[int] = []

    def enter(pid: int) -> Entry:
        seen.append(pid)
        if version == "v1":
            return Entry(Entrance.TASKS, (os.open(group / "tasks", os.O_WRONLY),))
        return Entry(Entrance.BIRTH, (os.open(group, os.O_RDONLY),))

    before = len(os.listdir("/proc/self/fd"))
    try:
        init = await launch_init(find_binary(), seccomp=ALLOW_ALL, id_base=ID_BASE, enter=enter)
        assert (group / "cgroup.procs").read_text().split() == [str(init.pid)]
        assert not Path(f"/proc/{seen[0]}").exists()
        init.close()
        await init.ended()
    finally:
        group.rmdir()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("entrance", "text"),
    [(Entrance.TASKS, "entering a cgroup"), (Entrance.BIRTH, "making a process in its cgroup")],
)
async def test_an_init_that_cannot_enter_its_cgroup_says_so(entrance: Entrance, text: str) -> None:
    from tests.node.init.conftest import ALLOW_ALL, ID_BASE, find_binary

    def enter(pid: int) -> Entry:
        return Entry(entrance, (os.open("/dev/full", os.O_WRONLY),))

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LaunchFailed, match=text):
        await launch_init(find_binary(), seccomp=ALLOW_ALL, id_base=ID_BASE, enter=enter)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.asyncio
async def test_a_missing_program_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(LaunchFailed, match="cannot start .*: No such file or directory; build it with: make"):
        await launch_init(tmp_path / "absent", seccomp=b"", id_base=0, enter=lambda pid: NOWHERE)


@pytest.mark.asyncio
async def test_a_life_leaves_no_descriptor(launch_box: LaunchBox) -> None:
    box = await launch_box()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        other = await launch_box()
        await other.shell("true")
        with pytest.raises(OSError, match="no command"):
            await other.start("nothing-here")
        other.init.close()
        await other.init.ended()
    assert len(os.listdir("/proc/self/fd")) == before
    assert box.init.alive
