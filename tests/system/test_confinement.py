"""What a container's own root can see, reach and use up: as little as the limits say."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.cgroup_files import find_limits
from tests.system.waiting import SOON_S
from tfnz import Container, Location
from tfnz.protocol.errors import NoCapacity
from tfnz.protocol.exits import Cause

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

CAPABILITIES = {  # by their numbers in linux/capability.h
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_SYS_CHROOT": 18,
    "CAP_SETFCAP": 31,
}


@pytest.fixture(params=["busybox", "python"])
def container(request: pytest.FixtureRequest, location: Location) -> Container:
    return location.node().spawn(request.param, ["sleep", "1000"]).wait_until_ready()


@pytest.fixture
def neighbour(location: Location) -> Iterator[Container]:
    """Somebody who must not notice anything."""
    one = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
    one.put("/kept", b"kept")
    yield one
    assert not one.dead
    assert one.run("echo fine >/new; cat /kept /new").stdout == b"keptfine\n"


def status_of(container: Container, process: str = "self", user: str = "root") -> dict[str, str]:
    """The fields of /proc/PROCESS/status."""
    text = container.run(["cat", f"/proc/{process}/status"], user=user, check=True).stdout.decode()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def main_process(container: Container) -> str:
    """What its main process is called inside."""
    found = container.run("grep -l '^sleep' /proc/[0-9]*/comm", check=True).stdout.decode().split("/")
    return found[2]


# --- identity and rights


def test_the_table_of_capabilities_is_init_s() -> None:
    source = (Path(__file__).parents[2] / "node" / "init" / "caps.c").read_text()
    table = re.search(r"allowed = (.*?);", source, re.DOTALL)
    assert table is not None
    assert set(re.findall(r"CAP_\w+", table[1])) == set(CAPABILITIES)


def test_ids_are_a_range_of_its_own(container: Container, neighbour: Container) -> None:
    ranges = []
    for one in (container, neighbour):
        maps = one.run("cat /proc/self/uid_map /proc/self/gid_map").stdout.split()
        inside, outside, count = (int(word) for word in maps[:3])
        assert maps[3:] == maps[:3]
        assert (inside, count) == (0, 65536)
        assert outside >= 1_000_000
        ranges.append(range(outside, outside + count))
    assert not set(ranges[0]) & set(ranges[1])


@pytest.mark.parametrize("user", ["root", "1000"])
def test_rights_of_every_process(container: Container, user: str) -> None:
    bounding = sum(1 << number for number in CAPABILITIES.values())
    processes = ["self"] if user != "root" else ["self", main_process(container)]
    for process in processes:
        status = status_of(container, process, user)
        effective = bounding if user == "root" else 0
        assert {name: int(status[name], 16) for name in status if name.startswith("Cap")} == {
            "CapInh": 0,
            "CapPrm": effective,
            "CapEff": effective,
            "CapBnd": bounding,
            "CapAmb": 0,
        }
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"


def test_set_id_programs_give_nobody_rights(location: Location) -> None:
    container = location.node().spawn("python", ["sleep", "1000"])
    container.run("cp /usr/bin/id /tmp/id; chmod 6755 /tmp/id", check=True)
    assert container.run("/tmp/id -u; /tmp/id -g", user="1000:1000").stdout == b"1000\n1000\n"


def test_descriptors_of_the_main_process(container: Container) -> None:
    assert container.run(f"ls /proc/{main_process(container)}/fd").stdout.split() == [b"0", b"1", b"2"]


# --- what it sees


def test_only_its_own_processes(container: Container, neighbour: Container) -> None:
    commands = container.run("cat /proc/[0-9]*/comm").stdout.split()
    assert set(commands) <= {b"tfnz-init", b"sleep", b"sh", b"cat"}
    assert commands.count(b"sleep") == 1


def test_every_namespace_is_its_own(container: Container, neighbour: Container) -> None:
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    seen = [
        [one.run(["readlink", f"/proc/self/ns/{kind}"]).stdout.decode().strip() for kind in kinds]
        for one in (container, neighbour)
    ]
    host = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds]
    for values in zip(*seen, host, strict=True):
        assert len(set(values)) == 3, values


MOUNTS = {
    "/": "overlay",
    "/dev": "tmpfs",
    "/dev/pts": "devpts",
    "/dev/shm": "tmpfs",
    "/dev/mqueue": "mqueue",
    "/proc": "proc",
    "/sys": "sysfs",
}


def test_no_mount_is_the_host_s(node: RunningNode, container: Container) -> None:
    text = container.run(["cat", "/proc/self/mountinfo"]).stdout.decode()
    assert str(node.directory) not in text
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        root, target, options = head.split()[3:6]
        kind = tail.split()[0]
        if target in MOUNTS:
            assert (root, kind) == ("/", MOUNTS[target])
            assert "nosuid" in options
        elif target.startswith("/dev/"):
            assert (root, kind) == (target.removeprefix("/dev"), "devtmpfs")
        else:  # a mask, or a part of /proc that is read-only
            assert target.startswith(("/proc/", "/sys/"))
            assert (root, kind) in {
                ("/null", "devtmpfs"),
                ("/empty", "tmpfs"),
                (target.removeprefix("/proc"), "proc"),
            }
            assert kind == "devtmpfs" or "ro" in options.split(",")


def test_no_file_names_the_node_s_directory(node: RunningNode, container: Container) -> None:
    """The disk is a file, and the kernel shows the path of a loop device's file to everybody."""
    seen = container.run(
        "cat /sys/block/*/loop/backing_file /sys/class/block/*/loop/backing_file /proc/swaps /proc/cmdline"
        " /proc/self/mounts /proc/self/mountstats; ls -l /sys/block/ /sys/devices/virtual/block/"
    )
    assert b"overlay" in seen.stdout
    assert str(node.directory).encode() not in seen.stdout


def test_only_harmless_devices(container: Container) -> None:
    # The type that a directory tells is that of the file beneath a mount.
    command = "for f in /dev/* /dev/pts/*; do if [ ! -h $f ] && [ -c $f -o -b $f ]; then echo $f; fi; done"
    devices = container.run(command).stdout.decode().split()
    assert set(devices) - {"/dev/pts/0"} == {
        *(f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero")),
        "/dev/pts/ptmx",
    }


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/panic",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/vm/drop_caches",
        "/proc/irq/default_smp_affinity",
        "/proc/1/oom_score_adj",
        "/proc/1/mem",
        "/sys/power/state",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ],
)
def test_settings_of_the_kernel_are_out_of_reach(container: Container, path: str) -> None:
    result = container.run(f"test -e {path} || echo missing; echo 1 >{path}")
    assert result.exit_code != 0, path
    assert b"Read-only" in result.stderr or b"denied" in result.stderr or b"missing" in result.stdout


def test_masked_files_show_nothing(container: Container) -> None:
    for path in ("acpi", "kcore", "keys", "interrupts", "sched_debug", "timer_list"):
        assert container.run(f"cat /proc/{path}/* /proc/{path} 2>/dev/null | head -c 1").stdout == b"", path
    for path in (
        "firmware",
        "devices/virtual/block",
        "kernel/debug",
        "kernel/security",
        "kernel/tracing",
        "fs/cgroup",
    ):
        assert container.run(["ls", "-A", f"/sys/{path}"]).stdout == b"", path
    for path in ("root", "cwd", "environ", "maps", "exe", "fd/0"):
        assert container.run(["cat", f"/proc/1/{path}"]).exit_code != 0, path


def test_init_cannot_be_ended_from_inside(container: Container) -> None:
    for signal in ("KILL", "TERM", "STOP", "ABRT"):
        container.run(f"kill -{signal} 1")
    assert container.run("echo alive").stdout == b"alive\n"


# --- system calls

#: Tries calls one by one, and prints the name and the errno of each.
PROBE = """
import ctypes, errno, fcntl, os, socket, termios
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = dict(
    ptrace=101, mknod=133, pivot_root=155, acct=163, mount=165, umount2=166, swapon=167, reboot=169, sethostname=170,
    init_module=175, clock_settime=227, kexec_load=246, add_key=248, request_key=249, keyctl=250, unshare=272,
    perf_event_open=298, fanotify_init=300, open_by_handle_at=304, setns=308, finit_module=313, bpf=321,
    userfaultfd=323, io_uring_setup=425, open_tree=428, fsopen=430, pidfd_getfd=438, mount_setattr=442, syslog=103,
    iopl=172, clone3=435,
)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_void_p, arguments))
    return errno.errorcode.get(ctypes.get_errno(), "") if result < 0 else "DONE"
path = ctypes.cast(ctypes.create_string_buffer(b"/tmp/node"), ctypes.c_void_p).value
for name, number in NUMBERS.items():
    arguments = {
        "mknod": (path, 0o020666, 0x101),
        "unshare": (0x10000000,),
        "ptrace": (16, 1, 0, 0),
        "open_by_handle_at": (-100, path, 0),
    }.get(name, (0, 0, 0, 0, 0))
    print(name, call(number, *arguments))
for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
    print(f"clone-{flag:x}", call(56, flag | 17, 0, 0, 0, 0))
    print(f"unshare-{flag:x}", call(272, flag))
print("x32-getpid", call(39 | 0x40000000))
for family, kind, protocol in (("AF_PACKET", 3, 0), ("AF_INET", 3, 1), ("AF_ALG", 5, 0), ("AF_VSOCK", 1, 0)):
    try:
        socket.socket(getattr(socket, family), kind, protocol).close()
        print(family, "DONE")
    except OSError as exc:
        print(family, errno.errorcode[exc.errno])
pty, _ = os.openpty()
try:
    fcntl.ioctl(pty, termios.TIOCSTI, b"x")
    print("TIOCSTI", "DONE")
except OSError as exc:
    print("TIOCSTI", errno.errorcode[exc.errno])
os.chroot("/tmp")
print("chroot DONE")
"""


@pytest.mark.parametrize("user", ["root", "1000"])
def test_system_calls_that_are_refused(location: Location, user: str) -> None:
    container = location.node().spawn("python", ["sleep", "1000"])
    container.put("/probe.py", PROBE)
    result = container.run(["python3", "/probe.py"], user=user)
    outcome = dict(line.split() for line in result.stdout.decode().splitlines())
    if user == "root":
        assert outcome.pop("chroot") == "DONE", result.stderr  # and beyond it nothing more is reached
    assert outcome.pop("clone3") == "ENOSYS"
    assert outcome.pop("x32-getpid") in {"ENOSYS", "EPERM"}
    assert len(outcome) == 49
    assert set(outcome.values()) == {"EPERM"}, outcome


def test_a_debugger_works_on_its_own(location: Location) -> None:
    """What is allowed is not forgotten over what is refused."""
    container = location.node().spawn("python", ["sleep", "1000"])
    script = (
        "import ctypes, os, signal; child = os.fork()\n"
        "if not child: signal.pause()\n"
        "print(ctypes.CDLL(None).ptrace(16, child, 0, 0)); os.kill(child, 9)"
    )
    assert container.run(["python3", "-c", script]).stdout == b"0\n"


# --- limits


def test_limits_are_set_on_cgroups(node: RunningNode, location: Location) -> None:
    assert node.process is not None
    container = location.node().spawn("busybox", ["sleep", "1000"], memory="64M", pids=20, cpus=0.5)
    base = int(container.run(["cat", "/proc/self/uid_map"]).stdout.split()[1])
    assert find_limits(node.process.pid, base) == {"memory": 64 << 20, "pids": 20, "cpus": 0.5}


def test_resource_limits(container: Container) -> None:
    limits = container.run(["cat", "/proc/self/limits"]).stdout.decode()
    found = {line[:26].strip(): tuple(line[26:].split()[:2]) for line in limits.splitlines()[1:]}
    assert found["Max core file size"] == ("0", "0")
    assert found["Max open files"][0] == "1024"
    assert found["Max nice priority"] == found["Max realtime priority"] == ("0", "0")
    assert "unlimited" not in found["Max locked memory"]
    assert container.run("ulimit -Hn 1048576").exit_code != 0


def test_a_fork_bomb_is_contained(location: Location, neighbour: Container) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"], pids=32)
    container.put("/bomb.sh", "sh /bomb.sh & sh /bomb.sh\n")
    refused = threading.Event()

    def watch(_: object, data: bytes) -> None:
        if b"can't fork" in data:
            refused.set()

    bomb = "while :; do sh /bomb.sh; done"
    container.spawn(f"({bomb}) & {bomb}", stderr_callback=watch)
    assert refused.wait(SOON_S)
    other = location.node().spawn("busybox", ["echo", "started"])
    assert other.wait(SOON_S).ok
    assert neighbour.run("echo fine").stdout == b"fine\n"
    container.destroy()


def test_a_memory_hog_ends_alone(location: Location, neighbour: Container) -> None:
    container = location.node().spawn("busybox", ["tail", "/dev/zero"], memory="32M")
    assert container.wait(SOON_S).cause is Cause.OUT_OF_MEMORY
    # Files in memory count, too.
    container = location.node().spawn("busybox", ["sleep", "1000"], memory="32M")
    hog = container.run("dd if=/dev/zero of=/dev/shm/x bs=1M count=200")
    assert hog.exit_code != 0
    shown = location.node().spawn("busybox", ["sleep", "1000"]).run("dd if=/dev/zero of=/dev/shm/x bs=1M")
    assert b"No space left" in shown.stderr


def test_a_disk_hog_ends_alone(location: Location, neighbour: Container) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"], disk="16M")
    for path in ("/fill", "/tmp/fill", "/etc/passwd"):
        result = container.run(f"dd if=/dev/zero of={path} bs=1M count=64")
        assert b"Disk quota exceeded" in result.stderr, path
    used_kb = int(container.run("du -s /fill /tmp /etc | awk '{ s += $1 } END { print s }'").stdout)
    assert used_kb <= 17 << 10


def test_too_many_processes_are_refused_outside_too(location: Location) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"], pids=3)
    container.spawn(["sleep", "1000"])
    with pytest.raises(NoCapacity, match="Raise pids="):
        container.run("true")


# --- each other


def test_two_containers_share_nothing(container: Container, neighbour: Container) -> None:
    container.run("echo mine >/dev/shm/x; echo mine >/tmp/x; mkdir /dev/mqueue/x 2>/dev/null")
    assert neighbour.run("ls -A /dev/shm /dev/mqueue /tmp").stdout.split() == [
        b"/dev/mqueue:",
        b"/dev/shm:",
        b"/tmp:",
    ]
    assert container.run("cat /etc/hostname").stdout != neighbour.run("cat /etc/hostname").stdout
    assert container.ip != neighbour.ip
    assert container.run(["ls", "/sys/class/net"]).stdout.split() == [b"eth0", b"lo"]
