"""What the daemon reads from an init: packets and the last words of a process, or a refusal."""

from __future__ import annotations

import contextlib

from tfnz_node.sandbox.wire import WireError, pack_packet, parse_exec_failure, parse_packet


def run(data: bytes) -> None:
    with contextlib.suppress(WireError):
        packet = parse_packet(data)
        packed = pack_packet(packet.kind, id=packet.id, arguments=packet.arguments, strings=packet.strings)
        assert packed == data
    with contextlib.suppress(WireError):
        parse_exec_failure(data)
