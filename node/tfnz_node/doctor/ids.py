"""The doctor looks for others who use the ids that containers are to have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from msgspec import Struct

from tfnz_node.config import IDS_PER_CONTAINER, MAX_ID, NodeConfig

from .findings import Finding, fail, ok, warn

#: Files with one id in the third field of each line, and files with a first id and a count.
SINGLE: Final = (Path("/etc/passwd"), Path("/etc/group"))
RANGES: Final = (Path("/etc/subuid"), Path("/etc/subgid"))


class IdUse(Struct, frozen=True):
    """Ids that somebody has."""

    file: str
    owner: str
    ids: range


def parse_single_ids(file: str, text: str) -> list[IdUse]:
    """The ids in a file like /etc/passwd; lines that have none are passed over, as the C library does."""
    uses = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isascii() and fields[2].isdigit():
            first = int(fields[2])
            uses.append(IdUse(file, fields[0], range(first, first + 1)))
    return uses


def parse_id_ranges(file: str, text: str) -> list[IdUse]:
    """The ranges in a file like /etc/subuid; lines that have none are passed over."""
    uses = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 3 and all(field.isascii() and field.isdigit() for field in fields[1:]):
            first, count = int(fields[1]), int(fields[2])
            uses.append(IdUse(file, fields[0], range(first, first + count)))
    return uses


def overlaps(one: range, other: range) -> bool:
    return bool(one) and bool(other) and one.start < other.stop and other.start < one.stop


def plan_id_base(id_count: int, uses: list[IdUse]) -> int | None:
    """The lowest id_base, from a million on, whose ids nobody has; None when there is no such place."""
    candidates = sorted({1_000_000, *(_round_up(use.ids.stop) for use in uses)})
    for base in candidates:
        wanted = range(base + IDS_PER_CONTAINER, base + IDS_PER_CONTAINER * (id_count + 1))
        fits = base >= 1_000_000 and wanted.stop - 1 <= MAX_ID
        if fits and not any(overlaps(wanted, use.ids) for use in uses):
            return base
    return None


def judge_ids(config: NodeConfig, uses: list[IdUse]) -> Finding:
    """An account with such an id could signal containers' processes, and own their files: never. A range that is lent
    to another engine is only a danger while that one runs containers too."""
    taken = [use for use in uses if overlaps(config.host_ids, use.ids)]
    what = f"{config.host_ids.start} to {config.host_ids.stop - 1}"
    if not taken:
        return ok("id ranges", f"{what} belong to nobody else")
    base = plan_id_base(config.id_count, uses)
    remedy = f"set id_base = {base}" if base is not None else "lower id_count, and choose a free id_base"
    others = ", ".join(f"{use.owner} in {use.file}" for use in taken[:3])
    if len(taken) > 3:
        others += f" and {len(taken) - 3} more"
    judge = fail if any(use.file in map(str, SINGLE) for use in taken) else warn
    return judge("id ranges", f"{what} are also those of {others}", f"{remedy} in the configuration")


def check_ids(config: NodeConfig) -> Finding:
    uses = []
    for path, parse in [(path, parse_single_ids) for path in SINGLE] + [
        (path, parse_id_ranges) for path in RANGES
    ]:
        if path.exists():
            uses += parse(str(path), path.read_text(encoding="utf-8", errors="replace"))
    return judge_ids(config, uses)


def _round_up(number: int) -> int:
    """To the next round number, for people to recognise."""
    return -(-number // 100_000) * 100_000
