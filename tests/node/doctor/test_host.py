"""What is said about the rest of a host, by what was seen of it."""

from pathlib import Path
from resource import RLIM_INFINITY

import pytest

from tfnz_node.config import NodeConfig
from tfnz_node.doctor import host
from tfnz_node.doctor.host import (
    check_init,
    find_existing,
    judge_fds,
    judge_file_systems,
    judge_privileges,
    judge_space,
    judge_tools,
    parse_capabilities,
    parse_file_systems,
)

STATUS = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t00000000a80425fb\n"


def test_capabilities() -> None:
    assert parse_capabilities(STATUS) == 0xA80425FB
    assert parse_capabilities("") == 0


@pytest.mark.parametrize(
    ("uid", "capabilities", "level", "remedy"),
    [
        (0, 0x1FFFFFFFFFF, "ok", ""),
        (1000, 0, "fail", "run it as root"),
        (0, 0xA80425FB, "fail", "not in a container"),
    ],
)
def test_privileges(uid: int, capabilities: int, level: str, remedy: str) -> None:
    finding = judge_privileges(uid, capabilities)
    assert (finding.level, remedy in finding.remedy) == (level, True)


def test_missing_tools_are_named_with_their_packages() -> None:
    assert judge_tools({}).level == "ok"
    finding = judge_tools({"mkfs.btrfs": "btrfs-progs", "btrfs": "btrfs-progs", "mount": "mount"})
    assert finding.what == "not found: btrfs, mkfs.btrfs, mount"
    assert finding.remedy == "apt-get install btrfs-progs mount"


def test_a_plain_directory_needs_no_btrfs_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "find_tool", {"mount": "/bin/mount"}.get)
    assert host.check_tools(NodeConfig(storage="directory")).level == "ok"
    assert host.check_tools(NodeConfig()).level == "fail"


def test_file_systems_may_be_modules() -> None:
    filesystems = "nodev\tsysfs\n\text4\nnodev\toverlay\n\n"
    modules = "kernel/fs/btrfs/btrfs.ko.xz: kernel/lib/raid6.ko.xz\nkernel/drivers/block/loop.ko:\n\n"
    assert parse_file_systems(filesystems, modules) >= {"sysfs", "ext4", "overlay", "btrfs", "loop"}


@pytest.mark.parametrize(
    ("available", "loop", "storage", "level", "what"),
    [
        ({"overlay", "btrfs"}, True, "auto", "ok", "overlay, btrfs, loop devices"),
        ({"overlay", "btrfs"}, True, "btrfs", "ok", "overlay, btrfs, loop devices"),
        ({"btrfs"}, True, "auto", "fail", "no overlay"),
        ({"overlay"}, True, "auto", "warn", "no btrfs: containers will be in a plain directory"),
        ({"overlay", "btrfs"}, False, "auto", "warn", "no loop devices"),
        ({"overlay"}, False, "btrfs", "fail", "no btrfs and no loop devices"),
        ({"overlay"}, False, "directory", "ok", "no disk quotas"),
    ],
)
def test_file_systems(available: set[str], loop: bool, storage: str, level: str, what: str) -> None:
    finding = judge_file_systems(available, loop=loop, storage=storage)
    assert (finding.level, what in finding.what) == (level, True), finding


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "fail"), (2 << 30, "warn"), (100 << 30, "ok")])
def test_space(free: int, level: str) -> None:
    finding = judge_space(Path("/srv"), free)
    assert (finding.level, "/srv" in finding.what) == (level, True)


def test_what_is_not_there_will_be_made_on_its_parent(tmp_path: Path) -> None:
    assert find_existing(tmp_path / "a" / "b") == tmp_path
    assert find_existing(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("hard", "level"), [(256, "fail"), (1024, "warn"), (20000, "ok"), (RLIM_INFINITY, "ok")]
)
def test_open_files(hard: int, level: str) -> None:
    assert judge_fds(hard).level == level


def test_tfnz_init(tmp_path: Path) -> None:
    program = tmp_path / "tfnz-init"
    finding = check_init(str(program))
    assert (finding.level, finding.what) == ("fail", f"tfnz-init is not at {program}")
    assert "make -C node/init" in finding.remedy
    program.touch(mode=0o755)
    assert check_init(str(program)).level == "ok"
