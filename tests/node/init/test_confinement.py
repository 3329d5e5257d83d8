"""What a process in a container can see and do, beside what the host's processes can."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.node.init.conftest import ID_BASE
from tests.system.waiting import wait_for

if TYPE_CHECKING:
    from tests.node.init.conftest import Box, LaunchBox, MakeRoot

# chown dac_override fowner fsetid kill setgid setuid net_bind_service sys_chroot setfcap
ALLOWED_CAPABILITIES = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 10, 18, 31))

#: Of <linux/nsfs.h>.
NS_GET_OWNER_UID = 0xB704

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


async def _status(box: Box, *, user: str = "") -> dict[str, str]:
    outcome = await box.run("cat", "/proc/self/status", user=user)
    return dict(line.split(":\t", 1) for line in outcome.stdout.decode().splitlines())


@pytest.mark.asyncio
async def test_root_keeps_exactly_the_allowed_capabilities(box: Box) -> None:
    status = await _status(box)
    assert int(status["CapBnd"], 16) == ALLOWED_CAPABILITIES
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == ALLOWED_CAPABILITIES
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0


@pytest.mark.asyncio
async def test_others_have_no_capabilities(box: Box) -> None:
    status = await _status(box, user="ann")
    assert int(status["CapBnd"], 16) == ALLOWED_CAPABILITIES
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}


@pytest.mark.asyncio
async def test_no_new_privileges_and_the_filter_are_set(box: Box) -> None:
    status = await _status(box)
    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "1")


@pytest.mark.asyncio
async def test_the_filter_is_the_one_given(launch_box: LaunchBox) -> None:
    # Loads the system call's number; mkdir (83) fails with EXDEV, everything else is allowed.
    refuse_mkdir = struct.pack(
        "<HBBIHBBIHBBIHBBI",
        *(0x20, 0, 0, 0),
        *(0x15, 0, 1, 83),
        *(0x06, 0, 0, 0x00050000 | errno.EXDEV),
        *(0x06, 0, 0, 0x7FFF0000),
    )
    box = await launch_box(seccomp=refuse_mkdir)
    outcome = await box.run("mkdir", "/tmp/new")
    assert outcome.code != 0 and b"Invalid cross-device link" in outcome.stderr


@pytest.mark.asyncio
async def test_no_descriptor_leaks_in(box: Box) -> None:
    outcome = await box.run("ls", "/proc/self/fd")
    # 3 is the directory that ls itself has open.
    assert outcome.stdout.split() == [b"0", b"1", b"2", b"3"]
    assert (await box.run("get", "/proc/self/status", builtin=True)).code == 0


@contextlib.contextmanager
def without_limits() -> Iterator[None]:
    """This process may do more than a container, of what it may by default as well."""
    names = ("CORE", "MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO")
    before = {limit: resource.getrlimit(limit) for limit in (getattr(resource, f"RLIMIT_{n}") for n in names)}
    try:
        for limit in before:
            with contextlib.suppress(ValueError):  # we may not raise it ourselves
                resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        yield
    finally:
        for limit, values in before.items():
            resource.setrlimit(limit, values)


@pytest.mark.asyncio
async def test_resource_limits_are_the_containers_own(launch_box: LaunchBox) -> None:
    """Whatever the daemon may do: it raises its own limit of open files as far as it can."""
    with without_limits():
        box = await launch_box()
    outcome = await box.run("cat", "/proc/self/limits")
    limits = {line[:26].strip(): line[26:].split()[:2] for line in outcome.stdout.decode().splitlines()}
    hard_nofile = str(min(524288, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert limits["Max open files"] == ["1024", hard_nofile]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max msgqueue size"] == ["819200", "819200"]
    assert limits["Max nice priority"] == limits["Max realtime priority"] == ["0", "0"]
    assert int(limits["Max locked memory"][1]) <= 8 << 20


@pytest.mark.asyncio
async def test_init_itself_keeps_only_what_it_needs(launch_box: LaunchBox, tmp_path: Path) -> None:
    with (tmp_path / "careless").open("w") as careless:
        os.set_inheritable(careless.fileno(), True)
        box = await launch_box()
    # Requests are served one after another, so by now the one for booting is done with.
    assert (await box.run("true")).code == 0
    process = Path(f"/proc/{box.init.pid}")
    held = {int(entry.name): os.readlink(entry) for entry in (process / "fd").iterdir()}
    assert held.pop(0) == held.pop(1) == os.devnull
    assert held.pop(2) == os.readlink("/proc/self/fd/2")
    assert held.pop(3).startswith("socket:")
    # Its own terminals' directory and its signals.
    assert sorted(held.values()) == ["/dev/pts", "anon_inode:[signalfd]"]
    assert (process / "environ").read_bytes() == b""


@pytest.mark.asyncio
async def test_every_namespace_is_its_own(box: Box) -> None:
    inside = (
        await box.shell("for n in " + " ".join(NAMESPACES) + "; do readlink /proc/self/ns/$n; done")
    ).split()
    outside = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]
    assert not set(inside) & set(outside)


@pytest.mark.asyncio
async def test_its_user_namespace_belongs_to_its_own_root(box: Box) -> None:
    """By the owner of a user namespace the kernel counts what it gives each user only so many of."""
    owner = fcntl.ioctl(box.init.userns_fd, NS_GET_OWNER_UID, bytes(4))
    assert struct.unpack("I", owner) == (ID_BASE,)


@pytest.mark.asyncio
async def test_init_cannot_be_looked_into(box: Box) -> None:
    for path in ("exe", "root", "cwd", "fd", "environ", "maps", "mem"):
        outcome = await box.run("sh", "-c", f"ls -l /proc/1/{path}/ || cat /proc/1/{path}")
        assert outcome.code != 0 and b"ermission denied" in outcome.stderr, (path, outcome)
    assert (await box.run("cat", "/proc/1/cmdline")).stdout == b"tfnz-init\0"


@pytest.mark.asyncio
async def test_init_cannot_be_killed_from_inside(box: Box) -> None:
    await box.shell("kill -9 1; kill -TERM 1; kill -STOP 1; kill -SEGV 1; kill -CHLD 1")
    assert (await box.run("true")).code == 0


@pytest.mark.asyncio
async def test_only_its_own_processes_are_there(box: Box) -> None:
    # Init, the shell, and the two of its pipeline, if they have come so far.
    assert int(await box.shell("ls -d /proc/[0-9]* | wc -l")) <= 4


@pytest.mark.asyncio
async def test_the_host_is_nowhere_in_the_mounts(box: Box) -> None:
    mounts = [line.split() for line in (await box.shell("cat /proc/self/mounts")).splitlines()]
    by_target: dict[str, list[str]] = {}
    for mount in mounts:
        by_target[mount[1]] = mount
    assert all(not target.startswith("/tmp") for target in by_target)
    assert {"/", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/proc", "/sys"} <= set(by_target)
    options = {target: set(mount[3].split(",")) for target, mount in by_target.items()}
    assert {"nosuid", "nodev"} <= options["/"]
    assert {"ro", "nosuid", "nodev", "noexec"} <= options["/sys"] & options["/proc/sys"]
    assert {"size=65536k", "nosuid", "nodev", "noexec"} <= options["/dev/shm"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path", ["kcore", "keys", "timer_list", "interrupts", "sched_debug", "latency_stats"]
)
async def test_masked_files_of_proc_are_empty(box: Box, path: str) -> None:
    outcome = await box.run("cat", f"/proc/{path}")
    assert outcome.stdout == b""
    assert outcome.code == 0 or not Path(f"/proc/{path}").exists()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path", ["/proc/acpi", "/proc/scsi", "/proc/asound", "/sys/firmware", "/sys/devices/virtual/powercap"]
)
async def test_masked_directories_are_empty(box: Box, path: str) -> None:
    outcome = await box.run("ls", "-A", path)
    assert outcome.stdout == b""
    assert outcome.code == 0 or not Path(path).exists()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/sys/class/net/lo/mtu",
        "/proc/irq/default_smp_affinity",
        "/proc/pressure/cpu",
    ],
)
async def test_settings_are_read_only(box: Box, path: str) -> None:
    outcome = await box.run("sh", "-c", f"echo 1 >{path}")
    assert outcome.code != 0
    # Not every kernel has every setting.
    assert b"Read-only file system" in outcome.stderr or not Path(path).exists()


@pytest.mark.asyncio
async def test_mounting_unsharing_and_device_nodes_are_refused(box: Box) -> None:
    for command in (
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /sys",
        "umount /proc/keys",
        "umount /proc",
        "mknod /tmp/disk b 254 0",
        "hostname other",
        "ip link set lo down",
        "dmesg",
        "chroot / mount -t proc proc /proc",
        "swapoff -a && swapon /bin/busybox",
    ):
        outcome = await box.run("sh", "-c", command)
        assert outcome.code != 0, command
    assert (await box.shell("hostname")).strip() == "box"


@pytest.mark.asyncio
async def test_devices_work_and_are_few(box: Box) -> None:
    expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert (await box.shell("ls /dev | xargs")).strip() == expected
    assert await box.shell(
        "head -c 3 /dev/zero | od -An -tx1; echo x >/dev/null; head -c 4 /dev/urandom | wc -c"
    ) == (" 00 00 00\n4\n")
    outcome = await box.run("sh", "-c", "echo x >/dev/full")
    assert b"No space left on device" in outcome.stderr


@pytest.mark.asyncio
async def test_device_nodes_of_an_image_are_dead(box: Box) -> None:
    os.mknod(box.root / "tmp" / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    outcome = await box.run("head", "-c", "1", "/tmp/zero")
    assert outcome.code != 0 and b"Permission denied" in outcome.stderr


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize("what", ["link to /", "link out", "file", "fifo", "absent"])
async def test_mount_points_of_a_hostile_image_are_made_anew(
    launch_box: LaunchBox, make_root: MakeRoot, name: str, what: str, tmp_path: Path
) -> None:
    root = make_root()
    outside = tmp_path / "outside"
    outside.mkdir()
    if what == "link to /":
        (root / name).symlink_to("/")
    elif what == "link out":
        (root / name).symlink_to(outside)
    elif what == "file":
        (root / name).write_text("file")
    elif what == "fifo":
        os.mkfifo(root / name)
    box = await launch_box(root)
    assert (await box.shell("test -c /dev/null && test -d /proc/self && test -d /sys/class && pwd")) == "/\n"
    assert not (root / name).is_symlink() and (root / name).is_dir()
    assert not list(outside.iterdir())


@pytest.mark.asyncio
async def test_loopback_has_its_address_and_nothing_else_is_there(box: Box) -> None:
    shown = await box.shell("ip -4 -o addr")
    addresses = {line.split()[3] for line in shown.splitlines()}
    assert addresses == {"127.0.0.1/8", "10.9.8.7/32"}
    assert {line.split(":")[1].strip() for line in (await box.shell("ip -o link")).splitlines()} == {"lo"}


@pytest.mark.asyncio
async def test_anybody_may_ping_and_listen_below_1024(box: Box) -> None:
    script = "cd /proc/sys/net/ipv4 && cat ping_group_range ip_unprivileged_port_start"
    assert (await box.shell(script)).split() == ["0", "65535", "0"]


@pytest.mark.asyncio
async def test_processes_go_before_init_when_memory_is_short(box: Box) -> None:
    assert (await box.shell("cat /proc/self/oom_score_adj")).strip() == "200"
    assert int(Path(f"/proc/{box.init.pid}/oom_score_adj").read_text()) < 200
    # Work on files goes before the container's own processes: what it writes takes their memory.
    job = await box.start("put", "/file", "644", builtin=True)
    [worker] = Path(f"/proc/{box.init.pid}/task/{box.init.pid}/children").read_text().split()
    wait_for(
        lambda: Path(f"/proc/{worker}/oom_score_adj").read_text() == "999\n", 10.0, "it does not offer itself"
    )
    await box.init.signal(job.id, signal.SIGKILL)
    await box.finish(job)


#: CAP_SYS_RESOURCE, without which nobody gets below the lowest score that was set for them.
MAY_PROTECT_ITSELF = bool(
    int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16) >> 24 & 1
)


@pytest.mark.asyncio
async def test_the_daemons_own_protection_ends_before_a_container_begins(launch_box: LaunchBox) -> None:
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    own.write_text("-500" if MAY_PROTECT_ITSELF else "100")
    try:
        box = await launch_box()
    finally:
        own.write_text(before)
    assert Path(f"/proc/{box.init.pid}/oom_score_adj").read_text() == "0\n"
    outcome = await box.run("sh", "-c", "echo -1 >/proc/self/oom_score_adj")
    assert b"ermission denied" in outcome.stderr
    assert (await box.shell("cat /proc/self/oom_score_adj")).strip() == "200"


@pytest.mark.asyncio
async def test_an_idle_init_is_small(box: Box) -> None:
    await box.run("echo", "x" * 100_000)
    rollup = Path(f"/proc/{box.init.pid}/smaps_rollup").read_text()
    # What it does not share with the other inits on the machine. The sanitizers' shadow memory is another matter.
    anonymous_kb = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon:"))
    assert anonymous_kb <= 128 or "TFNZ_INIT" in os.environ, rollup
