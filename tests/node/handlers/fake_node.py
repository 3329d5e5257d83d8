"""A node whose sandboxes are fakes, with clients that reach it through sessions and their bytes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.node.gateway.fake_client import Client
from tests.node.supervisor.fake_sandbox import FakePool, FakeSandbox, FakeStorage, make_host
from tfnz.protocol.errors import restore_error
from tfnz.protocol.messages import Failure, NodeBody, Reply, Request, RequestBody, Result
from tfnz_node.core.registry import Registry
from tfnz_node.gateway.session import Session
from tfnz_node.handlers.context import Node
from tfnz_node.handlers.dispatch import dispatch
from tfnz_node.images.catalogue import Catalogue
from tfnz_node.images.limits import ImportLimits
from tfnz_node.images.record import ImageConfig, ImageRecord
from tfnz_node.store.memory import MemoryStore
from tfnz_node.supervisor.container import Container
from tfnz_node.supervisor.ledger import Ledger
from tfnz_node.supervisor.network import Network

Heard = TypeVar("Heard", bound=NodeBody)

LAYER = "0" * 64
DIGEST = "sha256:" + "d" * 64


class NodeClient(Client):
    """A client that counts its own requests and waits for what it is told."""

    def __init__(self, node: Node, *, session: str, account: str) -> None:
        async def serve(session: Session, request: Request) -> Result:
            return await dispatch(node, session, request)

        super().__init__(serve, session=session, account=account)
        self._last = 0
        self._news = asyncio.Event()

    def _hear(self, data: bytes) -> None:
        super()._hear(data)
        self._news.set()

    def post(self, body: RequestBody, *, node: str = "") -> int:
        """Send a request, and return its number."""
        self._last += 1
        self.send(Request(self._last, node, body))
        return self._last

    async def call(self, body: RequestBody, *, node: str = "") -> Result:
        """Ask, and raise what is answered with a failure."""
        answer = await self.answer(self.post(body, node=node))
        if isinstance(answer, Failure):
            raise restore_error(answer.error)
        return answer.result

    async def answer(self, number: int) -> Reply | Failure:
        while True:
            for body in self.heard:
                if isinstance(body, Reply | Failure) and body.request == number:
                    return body
            await self._wait()

    async def hear_of(self, kind: type[Heard]) -> Heard:
        """Wait for the first body of a kind."""
        while True:
            for body in self.heard:
                if isinstance(body, kind):
                    return body
            await self._wait()

    def position(self, body: NodeBody) -> int:
        return self.heard.index(body)

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()


class FakeNode:
    """The node, and all of it that a test may want to hold."""

    def __init__(
        self,
        directory: Path,
        executor: ThreadPoolExecutor,
        *,
        containers_quota: int = 0,
        files_quota: int = 0,
        network: Network | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.storage = FakeStorage(directory)
        self.pool = FakePool(network)
        self.catalogue = Catalogue(MemoryStore(), directory)
        self.registry: Registry[Container] = Registry(
            containers_per_account=containers_quota, files_per_account=files_quota
        )
        self.ended_sessions: list[str] = []
        self.node = Node(
            name="node-1",
            find_version=lambda: "2.0",
            cgroups="v2",
            host=make_host(self.storage, executor, self.pool, network, ledger),
            registry=self.registry,
            catalogue=self.catalogue,
            import_limits=ImportLimits(),
            started_s=0.0,
            end_session=self._end_session,
        )

    async def _end_session(self, session: Session) -> None:
        self.ended_sessions.append(session.id)

    def client(self, session: str = "a1", account: str = "a") -> NodeClient:
        return NodeClient(self.node, session=session, account=account)

    def add_image(self, *names: str, config: ImageConfig | None = None, digest: str = DIGEST) -> None:
        self.catalogue.layer_path(LAYER).mkdir(parents=True, exist_ok=True)
        self.catalogue.add(
            ImageRecord(
                digest=digest,
                names=list(names),
                layers=[LAYER],
                size_bytes=77,
                created_s=1.5,
                config=config or ImageConfig(cmd=["serve"]),
            )
        )

    @property
    def sandbox(self) -> FakeSandbox:
        """The sandbox that was handed out last."""
        return self.pool.taken[-1]
