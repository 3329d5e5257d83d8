"""Machines at the ends of cables: what is sent by a cable can be dropped, either way or one way alone."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from typing import Final

from tests.system.outside import run
from tfnz_node.kernel.netns import make_netns

#: An address of ours, where a node may listen: it can be reached by every cable.
HOST: Final = "192.0.2.1"
_THEIR_END: Final = "eth0"
#: A packet is dropped where it arrives, as by a cable: its sender has sent it.
_RULES: Final = """
table netdev of_{device} {{
  chain arriving {{
    type filter hook ingress device "{device}" priority 0
    {what} drop
  }}
}}
"""


class Cable:
    """The cable of a number, and the machine at the other end of it, which is in a network namespace."""

    def __init__(self, number: int, netns: int) -> None:
        self._netns = f"/proc/{os.getpid()}/fd/{netns}"
        self._network = f"198.18.{number}"
        self._our_end = f"cable{number}"
        self._free = itertools.count(2)
        self._address = ""

    @property
    def entrance(self) -> list[str]:
        """A command that executes another one on the machine at the end of the cable."""
        return ["nsenter", f"--net={self._netns}", "--"]

    def lay(self) -> None:
        ends = [self._our_end, "type", "veth", "peer", "name", _THEIR_END, "netns", self._netns]
        run("ip", "link", "add", *ends)
        run("ip", "address", "add", f"{self._network}.1/24", "dev", self._our_end)
        run("ip", "link", "set", self._our_end, "up")
        run(*self.entrance, "ip", "link", "set", "lo", "up")
        run(*self.entrance, "ip", "link", "set", _THEIR_END, "up")
        self.move()

    def remove(self) -> None:
        run("ip", "link", "delete", self._our_end)

    def move(self) -> None:
        """The machine has another address from now on, and no other."""
        run(*self.entrance, "ip", "address", "flush", "dev", _THEIR_END)
        address = f"{self._network}.{next(self._free)}/24"
        run(*self.entrance, "ip", "address", "add", address, "dev", _THEIR_END)
        run(*self.entrance, "ip", "route", "add", "default", "via", f"{self._network}.1")

    @contextlib.contextmanager
    def pulled(self, *, to_host: bool = True, to_machine: bool = True) -> Iterator[None]:
        """Nothing arrives inside the block, at one of the ends or at both."""
        with contextlib.ExitStack() as stack:
            if to_host:
                stack.enter_context(_dropping([], self._our_end))
            if to_machine:
                stack.enter_context(_dropping(self.entrance, _THEIR_END))
            yield

    def closed(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block no new connections are let through to us, as by a firewall that is overworked."""
        return _dropping([], self._our_end, "tcp flags & (syn | ack) == syn")


@contextlib.contextmanager
def _dropping(place: list[str], device: str, what: str = "") -> Iterator[None]:
    rules = _RULES.format(device=device, what=what)
    subprocess.run([*place, "nft", "-f", "-"], input=rules, check=True, text=True)
    try:
        yield
    finally:
        run(*place, "nft", "delete", "table", "netdev", f"of_{device}")


@contextlib.contextmanager
def cables(count: int) -> Iterator[list[Cable]]:
    """So many machines that are there for the block, each at a cable of its own."""
    with contextlib.ExitStack() as stack:
        run("ip", "address", "add", f"{HOST}/32", "dev", "lo")
        stack.callback(run, "ip", "address", "delete", f"{HOST}/32", "dev", "lo")
        laid = []
        for number in range(count):
            netns = make_netns()
            stack.callback(os.close, netns)
            one = Cable(number, netns)
            one.lay()
            stack.callback(one.remove)
            laid.append(one)
        yield laid
