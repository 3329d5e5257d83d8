"""Reading mountinfo."""

from __future__ import annotations

from pathlib import Path

from tfnz_node.kernel import syscalls
from tfnz_node.kernel.mountinfo import Mount, find_mount, list_mounts, parse_mountinfo

RECORDED = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
30 22 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:2 master:7 - cgroup cgroup rw,cpu,cpuacct
40 22 0:40 /sub\040dir /mnt/a\040b\134c rw - btrfs /dev/loop3 rw,ssd,subvol=/sub\040dir
"""


def test_recorded_lines() -> None:
    assert parse_mountinfo(RECORDED) == [
        Mount("/", Path("/"), "ext4", "/dev/vda", frozenset({"rw", "errors=remount-ro"})),
        Mount(
            "/", Path("/sys/fs/cgroup/cpu,cpuacct"), "cgroup", "cgroup", frozenset({"rw", "cpu", "cpuacct"})
        ),
        Mount(
            "/sub dir",
            Path("/mnt/a b\\c"),
            "btrfs",
            "/dev/loop3",
            frozenset({"rw", "ssd", r"subvol=/sub\040dir"}),
        ),
    ]


def test_no_lines() -> None:
    assert parse_mountinfo("") == []


def test_this_host() -> None:
    assert any(mount.target == Path("/proc") and mount.fstype == "proc" for mount in list_mounts())


def test_the_visible_one_of_two_mounts_is_found(tmp_path: Path) -> None:
    target = tmp_path / "with space"
    target.mkdir()
    assert find_mount(target) is None
    for source in ("below", "above"):
        syscalls.mount(source, target, "tmpfs")
    found = find_mount(target)
    syscalls.umount2(target)
    syscalls.umount2(target)
    assert found is not None and found.source == "above"
