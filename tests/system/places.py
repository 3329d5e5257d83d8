"""Real containers as places that packets are sent from and heard at, with rights that they do not have themselves."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tests.system.host_state import find_descendants
from tests.system.outside import HOST, OTHER, OUTSIDE, PRIVATE, PUBLIC
from tfnz import Container
from tfnz_node.kernel.netns import open_own_netns, visiting

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

ADDRESSES = {
    "host": HOST,
    "outside": OUTSIDE,
    "public": PUBLIC,
    "other": OTHER,
    "private": PRIVATE,
    "metadata": "169.254.169.254",
}


class Places:
    """The host, what is outside, and containers by names that a test gives them; closed at the end of a `with`.

    Their network namespaces are held open, so that they can be asked for also when the containers have ended.
    """

    def __init__(self, outside: int) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._home = open_own_netns()
        self._netns = {"host": os.dup(self._home), "outside": os.dup(outside)}
        self._addresses = dict(ADDRESSES)

    def __enter__(self) -> Places:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        for netns in (*self._netns.values(), self._home):
            os.close(netns)

    def add(self, name: str, container: Container, node: RunningNode) -> None:
        """Know a container of a node by a name."""
        self._netns[name] = open_netns(node, container.ip)
        self._addresses[name] = container.ip

    def address(self, name: str) -> str:
        """Where something is; an address is itself."""
        return self._addresses.get(name, name)

    def place_of(self, name: str) -> str:
        """In which namespace an address is."""
        return name if name in self._netns else "outside"

    def socket(self, place: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of a place; the caller closes it."""

        def make() -> socket.socket:
            with visiting(self._netns[place], self._home):
                return socket.socket(family, kind, protocol)

        return self._thread.submit(make).result()


def open_netns(node: RunningNode, address: str) -> int:
    """A descriptor of the network namespace of the node's container with this address."""
    assert node.process is not None
    for pid in find_descendants(node.process.pid):
        try:
            if f"|-- {address}\n" in Path(f"/proc/{pid}/net/fib_trie").read_text():
                return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError, OSError):
            continue
    raise AssertionError(f"no process of the node has the address {address}")
