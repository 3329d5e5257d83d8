"""The examples in the SDK's own documentation do what they say."""

from __future__ import annotations

import doctest
import importlib
from typing import TYPE_CHECKING

import pytest

from tfnz import Location

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode


@pytest.mark.parametrize(
    "module", ["location", "node", "container", "process", "secret", "tunnel", "waitable"]
)
def test_examples_do_what_they_say(node: RunningNode, location: Location, module: str) -> None:
    names = {
        "Location": node.location,
        "location": location,
        "container": location.node().spawn("busybox", "sleep 1000"),
    }
    result = doctest.testmod(importlib.import_module(f"tfnz.{module}"), extraglobs=names)
    assert result.attempted > 0
    assert result.failed == 0
