"""The doctor looks at the rest of the host: privileges, tools, file systems, room and limits."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

from tfnz.protocol.errors import InvalidArgument
from tfnz.protocol.sizes import format_size
from tfnz_node.config import NodeConfig
from tfnz_node.init_binary import find_init
from tfnz_node.kernel.tools import find_tool

from .findings import Finding, fail, ok, warn

CAP_SYS_ADMIN: Final = 21
#: By tool, its Debian package. The first two are only needed to make and keep a btrfs.
BTRFS_TOOLS: Final = {"mkfs.btrfs": "btrfs-progs", "btrfs": "btrfs-progs"}
TOOLS: Final = {"mount": "mount"}
#: A container costs the daemon, and the keeper, about twelve descriptors: control socket, pidfd, namespaces, its
#: terminal or pipes, and those of its spools.
FDS_PER_CONTAINER: Final = 12
FEW_FDS: Final = 512
SOME_FDS: Final = 4096
LITTLE_SPACE: Final = 1 << 30
SOME_SPACE: Final = 10 << 30


def parse_capabilities(status: str) -> int:
    """The effective capabilities in the text of /proc/self/status."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def judge_privileges(uid: int, capabilities: int) -> Finding:
    if uid != 0:
        return fail("privileges", f"user {uid}, who cannot make containers", "run it as root")
    if not capabilities >> CAP_SYS_ADMIN & 1:
        return fail("privileges", "root without CAP_SYS_ADMIN", "run on the host itself, not in a container")
    return ok("privileges", "root")


def check_privileges() -> Finding:
    return judge_privileges(os.geteuid(), parse_capabilities(Path("/proc/self/status").read_text()))


def judge_tools(missing: dict[str, str]) -> Finding:
    """Judges the tools that are missing, each with its Debian package."""
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        return fail("tools", f"not found: {', '.join(sorted(missing))}", f"apt-get install {packages}")
    return ok("tools", "all there")


def check_tools(config: NodeConfig) -> Finding:
    wanted = TOOLS if config.storage == "directory" else TOOLS | BTRFS_TOOLS
    return judge_tools({tool: package for tool, package in wanted.items() if find_tool(tool) is None})


def parse_file_systems(filesystems: str, module_list: str) -> set[str]:
    """Every file system in the text of /proc/filesystems, or that a module in a modules.dep or .builtin provides."""
    built_in = {line.split()[-1] for line in filesystems.splitlines() if line.strip()}
    paths = (line.partition(":")[0].strip() for line in module_list.splitlines())
    return built_in | {path.rsplit("/", 1)[-1].split(".")[0] for path in paths}


def judge_file_systems(available: set[str], *, loop: bool, storage: str) -> Finding:
    name = "file systems"
    if "overlay" not in available:
        return fail(name, "this kernel has no overlay", "use a kernel with CONFIG_OVERLAY_FS")
    if storage == "directory":
        return ok(name, "overlay; a plain directory has no disk quotas")
    lacking = [part for part, there in (("btrfs", "btrfs" in available), ("loop devices", loop)) if not there]
    if not lacking:
        return ok(name, "overlay, btrfs, loop devices")
    what = f"this kernel has no {' and no '.join(lacking)}"
    if storage == "btrfs":
        return fail(name, what, "use a distribution's own kernel, or set storage = 'directory'")
    remedy = "use a distribution's own kernel, or set storage = 'directory' to say that it is meant"
    return warn(name, f"{what}: containers will be in a plain directory, without disk quotas", remedy)


def check_file_systems(config: NodeConfig) -> Finding:
    modules = Path("/lib/modules") / os.uname().release
    lists = [
        path.read_text() for path in (modules / "modules.dep", modules / "modules.builtin") if path.exists()
    ]
    available = parse_file_systems(Path("/proc/filesystems").read_text(), "\n".join(lists))
    loop = Path("/dev/loop-control").exists() or "loop" in available
    return judge_file_systems(available, loop=loop, storage=config.storage)


def judge_space(directory: Path, free_bytes: int) -> Finding:
    what = f"{format_size(free_bytes)} free for {directory}"
    if free_bytes < LITTLE_SPACE:
        return fail(
            "space", what, f"make room, or set data_dir elsewhere; {format_size(LITTLE_SPACE)} is the least"
        )
    if free_bytes < SOME_SPACE:
        return warn(
            "space", what, f"make room, or set data_dir elsewhere; images need {format_size(SOME_SPACE)} soon"
        )
    return ok("space", what)


def check_space(config: NodeConfig) -> Finding:
    there = find_existing(config.data_dir)
    status = os.statvfs(there)
    return judge_space(config.data_dir, status.f_bavail * status.f_frsize)


def find_existing(path: Path) -> Path:
    """The path itself, or the closest of its parents that is there: what it will be made on."""
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def judge_fds(hard: int) -> Finding:
    if hard == resource.RLIM_INFINITY:
        return ok("open files", "no limit")
    what = f"at most {hard}, enough for about {hard // FDS_PER_CONTAINER} containers, two thirds of them of one account"
    remedy = "raise it: LimitNOFILE= in the unit, or ulimit -Hn in the shell"
    if hard < FEW_FDS:
        return fail("open files", what, remedy)
    return warn("open files", what, remedy) if hard < SOME_FDS else ok("open files", what)


def check_fds() -> Finding:
    return judge_fds(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def check_init(configured: str) -> Finding:
    try:
        return ok("tfnz-init", str(find_init(configured)))
    except InvalidArgument as exc:
        what, _, remedy = exc.message.partition(": ")
        return fail("tfnz-init", what, remedy)
