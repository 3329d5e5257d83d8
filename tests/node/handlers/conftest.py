"""A node of fakes for every test, with one image, from which everything is gone when the test is over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio

from tests.node.handlers.fake_node import FakeNode
from tfnz.protocol.exits import Cause
from tfnz_node.supervisor import boot


@pytest.fixture(autouse=True)
def no_rootfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is mounted for sandboxes that are fakes."""
    monkeypatch.setattr(boot, "build_rootfs", lambda *_: os.open("/dev/null", os.O_RDONLY))


@pytest_asyncio.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeNode]:
    with ThreadPoolExecutor(2) as executor:
        fake = FakeNode(tmp_path, executor, containers_quota=10, files_quota=1000)
        fake.add_image("busybox")
        yield fake
        await asyncio.gather(*(container.end(Cause.DESTROYED) for container in fake.registry))
        await asyncio.gather(*fake.node.tasks)
        await fake.catalogue.close()
