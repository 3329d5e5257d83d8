"""Tunnels on the client's side, with a node that answers what the test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tfnz import (
    ConnectionBroken,
    InvalidArgument,
    ListenFailed,
    NobodyListens,
    NotServing,
    ObjectDead,
    QuotaExceeded,
    TimedOut,
    aio,
)
from tfnz.aio import tunnel as module
from tfnz.protocol.errors import ErrorInfo
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.flows import BROKEN
from tfnz.protocol.messages import Cancel, Data, Done, End, OpenConnection, RebootContainer, Stop

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode

pytestmark = pytest.mark.asyncio

SOON_S = 10.0


class Service:
    """Answers requests for connections as a container would, and echoes when it has accepted one."""

    def __init__(self, node: ScriptedNode) -> None:
        self.node = node
        self.asked: list[OpenConnection] = []
        #: What the next ones are refused with; then they are accepted.
        self.refusals: list[Exception] = []
        self.silent = False
        self.first_words = b""
        node.on(OpenConnection, self._on_request)

    def _on_request(self, id: int, body: OpenConnection) -> None:
        self.asked.append(body)
        if self.refusals:
            refusal: Any = self.refusals.pop(0)
            self.node.fail(id, refusal)
        elif not self.silent:
            self.node.reply(id, Done())
            if self.first_words:
                self.node.send(Data(body.from_container, self.first_words))

    @property
    def last(self) -> OpenConnection:
        return self.asked[-1]


@pytest.fixture
def service(scripted: ScriptedNode) -> Service:
    return Service(scripted)


@pytest_asyncio.fixture
async def container(core: aio.Location, service: Service) -> AsyncIterator[aio.Container]:
    async with core:
        yield await core.node().spawn("busybox")


@contextlib.asynccontextmanager
async def call(tunnel: aio.Tunnel) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(tunnel.bind, tunnel.localport())
    try:
        async with asyncio.timeout(SOON_S):
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_bytes_go_both_ways(scripted: ScriptedNode, service: Service, container: aio.Container) -> None:
    service.first_words = b"220 ready"
    tunnel = await container.attach_tunnel(80)
    async with call(tunnel) as (reader, writer):
        assert await reader.readexactly(9) == b"220 ready"
        writer.write(b"QUIT")
        writer.write_eof()
        await scripted.until(End)
        request = service.last
        assert (request.container, request.target) == (container.uuid, 80)
        assert scripted.find(Data) == [Data(request.to_container, b"QUIT")]
        assert scripted.find(End) == [End(request.to_container)]
        scripted.send(End(request.from_container))
        assert await reader.read() == b""


async def test_it_is_retried_while_nobody_listens_and_nothing_is_read_meanwhile(
    scripted: ScriptedNode, service: Service, container: aio.Container
) -> None:
    service.refusals = [NobodyListens("not yet")] * 4
    tunnel = await container.attach_tunnel("/run/app.sock")
    async with call(tunnel) as (_, writer):
        writer.write(b"early")
        [data] = await scripted.until(Data)
        assert len(service.asked) == 5
        assert data == Data(service.last.to_container, b"early")
        numbers = [number for one in service.asked for number in (one.to_container, one.from_container)]
        assert len(set(numbers)) == 10  # none is used twice


@pytest.mark.parametrize(
    "refusal", [QuotaExceeded("too many"), ConnectionBroken("cut off"), NobodyListens("never")]
)
async def test_a_connection_that_cannot_be_had_is_cut_off(
    service: Service,
    container: aio.Container,
    refusal: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    service.refusals = [refusal] * 100
    tunnel = await container.attach_tunnel(80)
    with caplog.at_level(logging.WARNING):
        async with call(tunnel) as (reader, _):
            with pytest.raises(ConnectionResetError):
                await reader.read()
    assert "is cut off" in caplog.text and str(refusal) in caplog.text
    assert not tunnel.dead


async def test_a_caller_that_is_reset_cuts_the_service_off(
    scripted: ScriptedNode, service: Service, container: aio.Container
) -> None:
    tunnel = await container.attach_tunnel(80)
    reader, writer = await asyncio.open_connection("127.0.0.1", tunnel.localport())
    writer.write(b"x")
    await scripted.until(Data)
    scripted.send(Data(service.last.from_container, b"unread"))
    writer.transport.abort()
    scripted.send(Data(service.last.from_container, b"more"))
    [stop] = await scripted.until(Stop)
    assert stop == Stop(service.last.from_container)
    assert reader is not None


@pytest.mark.parametrize("by", ["close", "container", "session"])
async def test_closing_it_cuts_off_and_frees_the_port(
    core: aio.Location, service: Service, container: aio.Container, by: str
) -> None:
    service.first_words = b"hello"
    tunnel = await container.attach_tunnel(80)
    number = tunnel.localport()
    assert core.tunnels == {tunnel.uuid: tunnel}
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    assert await reader.readexactly(5) == b"hello"
    if by == "close":
        await tunnel.close()
        await container.destroy_tunnel(tunnel)
    elif by == "container":
        await container.destroy()
    else:
        await core.disconnect()
    assert tunnel.dead and tunnel.bail_if_dead() and core.tunnels == {} and container.all_tunnels() == []
    with pytest.raises(ObjectDead, match="has been destroyed"):
        tunnel.localport()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", number)
    if by != "container":  # the node ends these
        with pytest.raises(ConnectionResetError):
            await reader.read()
    writer.close()


async def test_openings_under_way_are_given_up_with_it(
    scripted: ScriptedNode, service: Service, container: aio.Container
) -> None:
    service.silent = True
    tunnel = await container.attach_tunnel(80)
    async with call(tunnel) as (reader, _):
        await scripted.until(OpenConnection)
        await tunnel.close()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    await scripted.until(Cancel)
    assert [End(service.last.to_container, BROKEN)] == await scripted.until(End)
    assert [Stop(service.last.from_container)] == await scripted.until(Stop)


async def test_no_more_wait_for_their_service_than_may(
    scripted: ScriptedNode, service: Service, container: aio.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    service.silent = True
    tunnel = await container.attach_tunnel(80)
    calls = [await asyncio.open_connection("127.0.0.1", tunnel.localport()) for _ in range(4)]
    await scripted.until(OpenConnection, count=2)
    # A round trip: by now a third would have asked.
    await core_of(container).containers()
    assert len(service.asked) == 2
    for _, writer in calls:
        writer.close()


def core_of(container: aio.Container) -> aio.Location:
    return container.location()


async def test_it_survives_a_reboot(
    scripted: ScriptedNode, service: Service, container: aio.Container
) -> None:
    rebooting: list[int] = []
    scripted.on(RebootContainer, lambda id, body: rebooting.append(id))
    tunnel = await container.attach_tunnel(80)
    reboot = asyncio.create_task(container.reboot())
    await scripted.until(RebootContainer)
    service.first_words = b"back"
    async with call(tunnel) as (reader, _):
        scripted.reply(rebooting[0], Done())
        await reboot
        assert await reader.readexactly(4) == b"back"


async def test_nothing_of_many_connections_stays(
    scripted: ScriptedNode, service: Service, container: aio.Container
) -> None:
    tunnel = await container.attach_tunnel(80)
    gc.collect()  # what others have left open is not to be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        async with call(tunnel) as (reader, writer):
            writer.write_eof()
            await scripted.until(End, count=number + 1)
            scripted.send(End(service.last.from_container))
            assert await reader.read() == b""
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not tunnel._joints and not tunnel._session.joints
    await tunnel.close()


# --- attaching


async def test_a_port_that_is_taken(container: aio.Container) -> None:
    first = await container.attach_tunnel(80)
    with pytest.raises(ListenFailed, match="Choose another local port, or 0 for any") as caught:
        await container.attach_tunnel(81, first.localport())
    assert isinstance(caught.value, OSError) and isinstance(caught.value, RuntimeError)
    assert list(core_of(container).tunnels) == [first.uuid]


@pytest.mark.parametrize(
    ("port", "localport", "bind"),
    [
        (0, 0, None),
        (65536, 0, None),
        (-1, 0, None),
        ("http", 0, None),
        ("", 0, None),
        (80.0, 0, None),
        (True, 0, None),
        (80, 70000, None),
        (80, "x", None),
        ("/run/app.sock", None, None),
        (80, 0, "no.such.host.invalid"),
        (80, 0, "256.1.1.1"),
    ],
)
async def test_arguments_that_make_no_sense(
    container: aio.Container, port: Any, localport: Any, bind: Any
) -> None:
    with pytest.raises(InvalidArgument):
        await container.attach_tunnel(port, localport, bind)
    assert container.all_tunnels() == []


async def test_none_is_the_same_number(container: aio.Container) -> None:
    free = await container.attach_tunnel(80)
    number = free.localport()
    await free.close()
    tunnel = await container.attach_tunnel(number, None)
    assert tunnel.localport() == tunnel.port == number
    assert repr(tunnel) == f"<Tunnel {tunnel.uuid} to {number}: 127.0.0.1 port {number}>"
    assert tunnel.container() is container and tunnel.location() is core_of(container)


async def test_a_tunnel_of_another_container_is_not_destroyed(container: aio.Container) -> None:
    other = await container.node().spawn("busybox")
    tunnel = await other.attach_tunnel(80)
    with pytest.raises(InvalidArgument, match="is none of container"):
        await container.destroy_tunnel(tunnel)
    assert not tunnel.dead


async def test_what_programs_of_old_ask_the_location(core: aio.Location, container: aio.Container) -> None:
    tunnel = await core.tunnel_onto(container, "80", 0, "127.0.0.1", timeout=30)
    await core.wait_tcp(container, 80)
    await core.destroy_tunnel(tunnel, container, with_command=False)
    await core.destroy_tunnel(tunnel)
    assert tunnel.dead


# --- waiting


async def test_wait_tcp_leaves_at_once_and_in_order(
    scripted: ScriptedNode, service: Service, container: aio.Container
) -> None:
    service.refusals = [NobodyListens("not yet"), ConnectionBroken("not yet"), TimedOut("not yet")]
    await container.wait_tcp(80)
    await scripted.until(Stop)
    assert scripted.find(End) == [End(service.last.to_container)]
    assert scripted.find(Stop) == [Stop(service.last.from_container)]


async def test_wait_tcp_has_an_end(service: Service, container: aio.Container) -> None:
    service.refusals = [NobodyListens("nobody listens at port 80")] * 1000
    with pytest.raises(NotServing, match="within 1 s; at last: nobody listens at port 80") as caught:
        await container.wait_tcp(80, timeout_s=1)
    assert isinstance(caught.value, TimeoutError) and isinstance(caught.value, ValueError)
    with pytest.raises(InvalidArgument):
        await container.wait_tcp(80, timeout_s=None)  # type: ignore[arg-type]  # that is the test


async def test_waiting_ends_with_the_container(
    scripted: ScriptedNode, service: Service, container: aio.Container
) -> None:
    service.refusals = [NobodyListens("not yet")] * 1000
    waiting = asyncio.create_task(container.wait_tcp(80))
    await scripted.until(OpenConnection, count=2)
    scripted.end_container(container.uuid, Exit(Cause.EXITED, 0))
    service.refusals = [ObjectDead("gone")] * 1000
    with pytest.raises(ObjectDead, match="exited with code 0"):
        await waiting


async def answer_http(scripted: ScriptedNode, service: Service, *answers: bytes) -> list[bytes]:
    """Answer one request after another; what they were."""
    requests = []
    for number, answer in enumerate(answers):
        data = (await scripted.until(Data, count=number + 1))[number]
        requests.append(data.data)
        if answer:
            scripted.send(Data(service.last.from_container, answer))
        scripted.send(End(service.last.from_container))
    return requests


async def test_wait_http_200_asks_until_it_is_answered(
    scripted: ScriptedNode, service: Service, container: aio.Container
) -> None:
    waiting = asyncio.create_task(container.wait_http_200(8000, "www.example.org", "/ready?x=1"))
    requests = await answer_http(
        scripted,
        service,
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    tunnel = await waiting
    assert (tunnel.port, tunnel.dead) == (8000, False)
    assert requests[0] == b"GET /ready?x=1 HTTP/1.1\r\nHost: www.example.org\r\nConnection: close\r\n\r\n"
    assert len(set(requests)) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "it answered with status 404"),
        (b"hello\r\n\r\n", "what it answered is no HTTP"),
        (b"HTTP/1.0 twohundred\r\n\r\n", "what it answered is no HTTP"),
        (b"x" * 60_000, "what it answered is no HTTP"),
        (b"", "without an answer"),
    ],
)
async def test_wait_http_200_says_why_it_gave_up_and_leaves_no_tunnel(
    scripted: ScriptedNode, service: Service, container: aio.Container, answer: bytes, reason: str
) -> None:
    waiting = asyncio.create_task(container.wait_http_200(dest_port=80, timeout_s=1))
    [request] = await answer_http(scripted, service, answer)
    assert b"GET / HTTP/1.1\r\nHost: localhost\r\n" in request
    service.silent = True
    with pytest.raises(
        NotServing, match=rf"port 80 of .* did not answer a request for / with 200 within .*{reason}"
    ):
        await waiting
    assert container.all_tunnels() == [] and core_of(container).tunnels == {}


async def test_a_wait_that_is_cancelled_leaves_no_tunnel(
    scripted: ScriptedNode, service: Service, container: aio.Container
) -> None:
    waiting = asyncio.create_task(container.wait_http_200())
    await scripted.until(Data)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert container.all_tunnels() == []
    assert await scripted.until(Stop) == [Stop(service.last.from_container)]


@pytest.mark.parametrize(
    ("fqdn", "path"),
    [("a\r\nX: y", "/"), ("a", "/ HTTP/1.1\r\nX: y"), ("a", "/a b"), ("a", "/" + "x" * 20000)],
)
async def test_what_cannot_be_asked_for(container: aio.Container, fqdn: str, path: str) -> None:
    with pytest.raises(InvalidArgument):
        await container.wait_http_200(80, fqdn, path)
    assert container.all_tunnels() == []


async def test_an_error_of_the_stream_cuts_the_caller_off(
    scripted: ScriptedNode, service: Service, container: aio.Container
) -> None:
    service.first_words = b"x"
    tunnel = await container.attach_tunnel(80)
    async with call(tunnel) as (reader, _):
        assert await reader.readexactly(1) == b"x"
        scripted.send(End(service.last.from_container, ErrorInfo("connection_broken", "")))
        with pytest.raises(ConnectionResetError):
            await reader.read()
    [end] = await scripted.until(End)
    assert end == End(service.last.to_container, BROKEN)
