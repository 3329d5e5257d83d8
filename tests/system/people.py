"""People who have accounts at a node of the tests, each in a home of their own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.waiting import SOON_S
from tfnz import Location
from tfnz.accounts import Account, create_account, encode_key, parse_key

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode


@dataclass
class Person:
    """Somebody with an account at the node, in a home of their own."""

    node: RunningNode
    home: Path
    account: Account

    @property
    def public_key(self) -> str:
        return encode_key(self.account.public)

    def location(self, *, location_ip: str | None = None) -> Location:
        with self.at_home():
            return Location(self.account.name, location_ip=location_ip, quiet=True)

    @contextlib.contextmanager
    def at_home(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TFNZ_HOME", str(self.home))
            yield

    def administer(self, *words: str) -> None:
        """Have an administrator do something about the account."""
        done = subprocess.run(
            self.node.command("account", *words), capture_output=True, text=True, timeout=SOON_S, check=False
        )
        assert done.returncode == 0, done.stderr


Introduce = Callable[[str], Person]


def introduce_to(node: RunningNode, homes: Path) -> Introduce:
    """What makes accounts, which the node does not know yet."""
    key = subprocess.run(node.command("key"), capture_output=True, timeout=SOON_S, check=True)
    server_key = parse_key(key.stdout)

    def make(name: str) -> Person:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TFNZ_HOME", str(homes / name))
            account = create_account(node.tcp.removeprefix("tcp://"), server_key=server_key)
        return Person(node, homes / name, account)

    return make
