"""The host as the soak compares it: what `host_state` sees, rules of nftables, the keeper; and what they weigh."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.soak.node import LAN
from tests.system.conftest import RunningNode
from tests.system.host_state import (
    HostState,
    describe_differences,
    find_descendants,
    find_difference,
    list_descriptors,
    look,
    wait_for_rest,
)
from tests.system.memory import resident_bytes

#: For a machine that is very busy.
REST_S = 120.0
#: Longer than anything takes that the node does by itself when all has been closed.
CALM_S = 3.0


@dataclass(frozen=True)
class SoakState:
    """One look.

    Attributes:
        host: processes, cgroups, mounts, interfaces, loop devices, disk, descriptors of the daemon.
        rules: chains, rules and sets of the node's table in nftables, and how many elements each set has.
        keeper: descriptors of the keeper, by kind.
    """

    host: HostState
    rules: Counter[str]
    keeper: Counter[str]


def look_all(node: RunningNode) -> SoakState:
    daemon = find_daemon(node)
    keeper = find_keeper(node)
    return SoakState(
        look(daemon, node.data_dir),
        Counter(count_rules(read_rules(), LAN.table)),
        Counter(list_descriptors(keeper)) if keeper is not None else Counter(),
    )


def look_all_at_rest(node: RunningNode) -> SoakState:
    """The same once it rests. A session that was closed is there for a moment longer, for its last answer."""
    return wait_for_rest(lambda: look_all(node), calm_s=CALM_S, timeout_s=REST_S)


def compare(before: SoakState, look_again: Callable[[], SoakState], timeout_s: float = REST_S) -> str | None:
    """What is not as before, after waiting for it; None when all is."""
    return find_difference(before, look_again, describe, timeout_s)


def describe(before: SoakState, after: SoakState) -> str:
    """How two looks differ."""
    changes = [describe_differences(before.host, after.host)] if before.host != after.host else []
    for name, old, new in (("rules", before.rules, after.rules), ("keeper", before.keeper, after.keeper)):
        if old != new:
            changes.append(f"{name}: too many {new - old}, missing {old - new}")
    return "; ".join(changes)


def find_daemon(node: RunningNode) -> int | None:
    process = node.process
    return process.pid if process is not None and process.poll() is None else None


def find_keeper(node: RunningNode) -> int | None:
    """The node's keeper, which descends from us. It is not asked itself: while it has a daemon it lets others wait."""
    keepers = (pid for pid, command in find_descendants().items() if command == "tfnz-keeper")
    return next((pid for pid in keepers if bytes(node.data_dir) in _read(pid, "cmdline").split(b"\0")), None)


def read_rules() -> list[dict[str, Any]]:
    """All of nftables that this network namespace has, other nodes' too."""
    done = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, text=True, check=True)
    objects: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
    return objects


def count_rules(objects: list[dict[str, Any]], table: str) -> list[str]:
    """What there is of a table, by kind and place. Of elements that pass by themselves none are counted."""
    found = []
    for one in objects:
        for kind, what in one.items():
            if table not in (what.get("table"), what.get("name")):
                continue
            place = " ".join(str(what[key]) for key in ("chain", "name") if key in what)
            found.append(f"{kind} {place}")
            if kind in ("set", "map") and not {"dynamic", "timeout"} & set(what.get("flags", [])):
                found += [f"element of {place}"] * len(what.get("elem", []))
    return found


@dataclass(frozen=True)
class Sample:
    """What the daemon and its keeper weigh at one moment.

    Attributes:
        at_s: seconds since the run began.
        daemon_bytes: the daemon's resident memory.
        daemon_descriptors: how many it has open.
    """

    at_s: float
    daemon_bytes: int
    daemon_descriptors: int
    keeper_bytes: int
    keeper_descriptors: int


def take_sample(node: RunningNode, at_s: float) -> Sample:
    daemon, keeper = find_daemon(node), find_keeper(node)
    assert daemon is not None
    return Sample(
        round(at_s, 1),
        resident_bytes(daemon),
        len(os.listdir(f"/proc/{daemon}/fd")),
        resident_bytes(keeper) if keeper is not None else 0,
        len(os.listdir(f"/proc/{keeper}/fd")) if keeper is not None else 0,
    )


# --- processes of containers, as the host sees them


def find_processes(prefix: str) -> list[int]:
    """Processes of containers whose name begins so: it is in their environment."""
    wanted = f"SOAK={prefix}".encode()
    return [
        pid
        for pid in find_descendants()
        if any(one.startswith(wanted) for one in _read(pid, "environ").split(b"\0"))
    ]


#: So many of the last lines that the kernel has said are kept with each violation: of what it killed, and why.
KERNEL_LINES: Final = 60


def read_kernel_log() -> tuple[str, ...]:
    """What the kernel has said last; nothing where that may not be read."""
    done = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=False)
    return tuple(done.stdout.splitlines()[-KERNEL_LINES:])


def find_main(name: str, word: str) -> int | None:
    """The main process of a container: it has `word` in its command line, and is a child of init."""
    wanted = f"SOAK={name}".encode()
    for pid in find_descendants():
        if (
            wanted in _read(pid, "environ").split(b"\0")
            and word.encode() in _read(pid, "cmdline").split(b"\0")
            and _command(_parent(pid)) == "tfnz-init"
        ):
            return pid
    return None


def find_init(name: str, word: str) -> int | None:
    """The init of a container."""
    main = find_main(name, word)
    # It has no parent any more when it has ended since.
    return (_parent(main) or None) if main is not None else None


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _parent(pid: int) -> int:
    after = _read(pid, "stat").rpartition(b")")[2].split()
    return int(after[1]) if after else 0


def _command(pid: int) -> str:
    return _read(pid, "comm").decode().strip()
