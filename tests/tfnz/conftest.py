"""A node in memory that does as much as the SDK can see, and otherwise what a test tells it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from tfnz import Location, aio
from tfnz.links import LinkBroken
from tfnz.links.memory import MemoryConnector, MemoryLink
from tfnz.protocol.channel import open_node_channel
from tfnz.protocol.errors import (
    CommandNotFound,
    ErrorInfo,
    PathNotFound,
    SessionLost,
    TfnzError,
    describe_error,
    restore_error,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.frames import client_frames, encode
from tfnz.protocol.messages import (
    Cancel,
    ClientEnvelope,
    ClientFrame,
    ConnectionInfo,
    ConnectionList,
    ContainerCreated,
    ContainerEnded,
    ContainerInfo,
    ContainerList,
    ContainerRunning,
    Credit,
    Data,
    DestroyContainer,
    DestroyProcess,
    Done,
    End,
    EndSession,
    Failure,
    FetchFile,
    FetchTree,
    GetNodeStatus,
    Hello,
    ImageInfo,
    ImageList,
    ImportImage,
    InspectImage,
    ListConnections,
    ListContainers,
    ListImages,
    NodeBody,
    NodeFrame,
    NodeOffer,
    NodeStatus,
    Ping,
    Pong,
    ProcessDone,
    ProcessEnded,
    ProcessStarted,
    PutFile,
    PutTree,
    Reply,
    Request,
    RequestBody,
    RunProcess,
    SpawnContainer,
    StartProcess,
    Stop,
    Streams,
    Welcome,
)
from tfnz.protocol.streams import MAX_CHUNK, ReceiveCredit, SendCredit

#: How long a test waits for what must come; never reached when all is well.
PATIENCE_S = 10.0
B = TypeVar("B")


class Upload:
    """Bytes from the client, and what is to happen at their end."""

    def __init__(self, on_end: Callable[[bytes, ErrorInfo | None], None]) -> None:
        self.data = bytearray()
        self.credit = ReceiveCredit()
        self.on_end = on_end
        self.on_data: Callable[[bytes], None] | None = None


class Download:
    """Bytes to the client, sent as its credit allows."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.credit = SendCredit()
        self.finish: Callable[[], None] | None = None
        self.stopped = False


class ScriptedNode:
    """The node's side of a session.

    Attributes:
        received: every body that the client sent, in order.
        hellos: every hello.
        files: what was put, by path.
        links: our ends of all connections there have been.
        unreachable: raised to whoever connects.
        deaf: signs of life are not answered, nor hellos.
        version: what a welcome says.
    """

    def __init__(self) -> None:
        self.connector = MemoryConnector(self._accept)
        self.received: list[Any] = []
        self.loose: list[ClientFrame] = []
        self.hellos: list[Hello] = []
        self.links: list[MemoryLink] = []
        self.files: dict[str, bytes] = {}
        self.images: list[ImageInfo] = []
        self.containers: dict[str, SpawnContainer] = {}
        self.connections: list[ConnectionInfo] = []
        self.processes: dict[str, tuple[str, Streams]] = {}
        #: Of those that are to be run to their ends, the requests.
        self.runs: dict[str, int] = {}
        self.unreachable: TfnzError | None = None
        self.version = 1
        self.offers = [NodeOffer("n1", b"s" * 32, {"cpu": 2.0, "memory": 100.0, "paging": 0.0})]
        self.silence_s = 120.0
        self.deaf = False
        self.grant = True
        self._handlers: dict[type[Any], Callable[[int, Any], None]] = {}
        self._channel = open_node_channel()
        self._uploads: dict[int, Upload] = {}
        self._downloads: dict[int, Download] = {}
        self._link: MemoryLink | None = None
        self._news = threading.Condition()
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._made = 0
        self.loop: asyncio.AbstractEventLoop | None = None

    # --- for tests

    def on(self, kind: type[B], handler: Callable[[int, B], None]) -> None:
        """Have `handler` called with the number and the body of requests of a kind, in place of what is usual."""
        self._handlers[kind] = handler

    def ignore(self, kind: type[Any]) -> None:
        """Never answer requests of a kind."""
        self.on(kind, lambda id, body: None)

    def refuse(self, kind: type[Any], error: TfnzError) -> None:
        """Answer requests of a kind with an error."""
        self.on(kind, lambda id, body: self.fail(id, error))

    def send(self, body: NodeBody) -> None:
        frame = self._channel.send(body)
        if self._link is not None:
            self._link.send(frame)

    def send_loose(self, frame: NodeFrame) -> None:
        assert self._link is not None
        self._link.send(encode(frame))

    def reply(self, id: int, result: Any) -> None:
        self.send(Reply(id, result))

    def reply_done(self, id: int, body: object) -> None:
        """A handler that does nothing, well."""
        self.reply(id, Done())

    def fail(self, id: int, error: TfnzError) -> None:
        self.send(Failure(id, describe_error(error)))

    def write(self, stream: int, data: bytes) -> None:
        """Send bytes as credit comes."""
        download = self._downloads.setdefault(stream, Download())
        download.waiting += data
        self._flush(stream)

    def break_link(self) -> None:
        assert self._link is not None
        self._link.close()

    def forget_session(self) -> None:
        """Whoever wants to resume is refused from now on."""
        self.unreachable = SessionLost("the node has ended this session")

    def do(self, function: Callable[[], object]) -> None:
        """Do something on the loop that serves the client, from another thread, and wait until it is done."""
        assert self.loop is not None
        done = threading.Event()

        def act() -> None:
            try:
                function()
            finally:
                done.set()

        self.loop.call_soon_threadsafe(act)
        assert done.wait(PATIENCE_S)

    def wait_for(self, kind: type[B], *, count: int = 1) -> list[B]:
        """What came of a kind, as a body or in a request, once there are `count`; for tests in another thread."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.find(kind)) >= count, PATIENCE_S), self.received
        return self.find(kind)

    async def until(self, kind: type[B], *, count: int = 1) -> list[B]:
        """The same for tests on the loop."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := self.find(kind)) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return found

    def find(self, kind: type[B]) -> list[B]:
        bodies = [body.body if isinstance(body, Request) else body for body in self.received]
        return [body for body in [*bodies, *self.loose, *self.hellos] if isinstance(body, kind)]

    # --- connections

    def _accept(self, link: MemoryLink) -> None:
        if self.unreachable is not None:
            raise restore_error(describe_error(self.unreachable))
        self.links.append(link)
        self.loop = asyncio.get_running_loop()
        task = self.loop.create_task(self._serve(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, link: MemoryLink) -> None:
        try:
            while True:
                data = await link.receive()
                with self._news:
                    self._on_frame(link, client_frames.decode(data), len(data))
                    self._news.notify_all()
                self._arrived.set()
        except LinkBroken:
            pass

    def _on_frame(self, link: MemoryLink, frame: ClientFrame, size: int) -> None:
        match frame:
            case Hello():
                self.hellos.append(frame)
                if not self.deaf:
                    self._welcome(link, frame)
            case ClientEnvelope():
                if self._channel.receive(frame, size):
                    self.received.append(frame.body)
                    self._on_body(frame.body)
            case Ping(_, nonce):
                self.loose.append(frame)
                if not self.deaf:
                    link.send(encode(Pong(self._channel.received, nonce)))
            case _:
                self.loose.append(frame)
                self._channel.acknowledge(frame.received)

    def _welcome(self, link: MemoryLink, hello: Hello) -> None:
        resumed = bool(hello.session)
        link.send(
            encode(
                Welcome(
                    self.version,
                    "session",
                    "token",
                    "uid:0",
                    b"k" * 32,
                    self.offers,
                    resumed=resumed,
                    received=self._channel.received,
                    silence_s=self.silence_s,
                )
            )
        )
        for frame in self._channel.resume(hello.received) if resumed else ():
            link.send(frame)
        self._link = link

    # --- bodies

    def _on_body(self, body: Any) -> None:
        match body:
            case Request(id, _, content):
                handler = self._handlers.get(type(content))
                if handler is not None:
                    handler(id, content)
                else:
                    self._serve_request(id, content)
            case Data(stream, data):
                self._on_data(stream, data)
            case End(stream, error):
                if (upload := self._uploads.pop(stream, None)) is not None:
                    upload.on_end(bytes(upload.data), error)
            case Credit(stream, count):
                if (download := self._downloads.get(stream)) is not None:
                    download.credit.grant(count)
                    self._flush(stream)
            case Stop(stream):
                if (download := self._downloads.get(stream)) is not None:
                    download.stopped = True
            case Cancel():
                pass

    def _on_data(self, stream: int, data: bytes) -> None:
        upload = self._uploads.get(stream)
        if upload is None:
            return
        upload.credit.receive(len(data))
        if upload.on_data is not None:
            upload.on_data(data)
        else:
            upload.data += data
        if self.grant and (count := upload.credit.consume(len(data))):
            self.send(Credit(stream, count))

    def _flush(self, stream: int) -> None:
        download = self._downloads[stream]
        while download.waiting and download.credit.available and not download.stopped:
            part = bytes(download.waiting[: min(MAX_CHUNK, download.credit.available)])
            download.credit.spend(len(part))
            del download.waiting[: len(part)]
            self.send(Data(stream, part))
        if not download.waiting and download.finish is not None:
            finish, download.finish = download.finish, None
            finish()

    def _serve_request(self, id: int, body: RequestBody) -> None:
        match body:
            case SpawnContainer():
                self.spawn(id, body)
            case StartProcess():
                self.start_process(id, body)
            case RunProcess():
                self.start_process(id, body)
            case DestroyContainer():
                self.end_container(body.container, Exit(Cause.DESTROYED))
                self.reply(id, Done())
            case DestroyProcess():
                self.end_process(body.process, Exit(Cause.DESTROYED))
                self.reply(id, Done())
            case PutFile() | PutTree():
                self.receive_upload(
                    id, body.stream, lambda data: self.files.update({body.path: data}), Done()
                )
            case FetchFile() | FetchTree():
                self._serve_file(id, body)
            case ImportImage():
                info = ImageInfo("sha256:1", [body.name or "unnamed"], 0, 0.0, 1)
                self.receive_upload(
                    id, body.stream, lambda data: self.files.update({"image": data}), ImageList([info])
                )
            case ListImages() | InspectImage():
                self.reply(id, ImageList(self.images))
            case ListContainers():
                infos = [
                    ContainerInfo(one, "n1", "10.0.0.1", "i", None, "running", 1.0, True)
                    for one in self.containers
                ]
                self.reply(id, ContainerList(infos))
            case ListConnections():
                self.reply(id, ConnectionList(self.connections))
            case GetNodeStatus():
                self.reply(
                    id, NodeStatus("n1", "2", "6", "v2", "btrfs", 0, 0, 1, 1, 1, 1, 0.0, 1.0, {"cpu": 7.0})
                )
            case EndSession():
                for container in list(self.containers):
                    self.end_container(container, Exit(Cause.DESTROYED))
                self.reply(id, Done())
            case _:
                self.reply(id, Done())

    def spawn(self, id: int, body: SpawnContainer, *, running: bool = True) -> str:
        """Make a container as usual."""
        self._made += 1
        name = f"container{self._made}"
        self.containers[name] = body
        if body.streams.stdin:
            self._uploads[body.streams.stdin] = Upload(
                lambda data, error: self.files.update({f"{name} stdin": data})
            )
        self.reply(id, ContainerCreated(name, "10.200.0.7", "sha256:1", {"Cmd": ["x"]}))
        if running:
            self.send(ContainerRunning(name, 0.001))
        return name

    def end_container(self, container: str, exit: Exit, error: ErrorInfo | None = None) -> None:
        if self.containers.pop(container, None) is not None:
            for name in [name for name in self.runs if self.processes[name][0] == container]:
                self.end_process(name, Exit(Cause.CONTAINER_ENDED))
            self.send(ContainerEnded(container, exit, error))

    def start_process(self, id: int, body: StartProcess | RunProcess) -> None:
        """Start one of the few commands that this node knows."""
        word = body.command[0].split()[0]
        if word not in ("true", "cat", "sleep", "fail", "sh"):
            self.fail(id, CommandNotFound(f"{word}: no such command"))
            return
        self._made += 1
        name = f"process{self._made}"
        self.processes[name] = (body.container, body.streams)
        if isinstance(body, RunProcess):
            self.runs[name] = id
        else:
            self.reply(id, ProcessStarted(name))
        if body.streams.stdin:
            upload = Upload(lambda data, error: self.end_process(name, Exit(Cause.EXITED, 0)))
            upload.on_data = lambda data: self.write(body.streams.stdout, data)
            self._uploads[body.streams.stdin] = upload
        if word == "true":
            self.end_process(name, Exit(Cause.EXITED, 0))
        elif word == "fail":
            self.write(body.streams.stderr, b"bad luck\n")
            self.end_process(name, Exit(Cause.EXITED, 3))
        elif word == "cat" and not body.streams.stdin:
            self.end_process(name, Exit(Cause.EXITED, 0))

    def end_process(self, process: str, exit: Exit) -> None:
        """End it once its output has gone out."""
        found = self.processes.pop(process, None)
        if found is None:
            return
        container, streams = found

        def finish() -> None:
            for stream in (streams.stdout, streams.stderr):
                if stream:
                    self.send(End(stream))
            if (run := self.runs.pop(process, None)) is not None:
                self.reply(run, ProcessDone(exit))
            else:
                self.send(ProcessEnded(container, process, exit))

        download = self._downloads.setdefault(streams.stdout, Download())
        download.finish = finish
        self._flush(streams.stdout)

    def receive_upload(self, id: int, stream: int, keep: Callable[[bytes], object], result: Any) -> None:
        """Take in a stream, and answer the request at its end."""

        def on_end(data: bytes, error: ErrorInfo | None) -> None:
            if error is not None:
                self.send(Failure(id, error))
            else:
                keep(data)
                self.reply(id, result)

        self._uploads[stream] = Upload(on_end)

    def _serve_file(self, id: int, body: FetchFile | FetchTree) -> None:
        content = self.files.get(body.path)
        if content is None:
            error = describe_error(PathNotFound(f"{body.path}: no such file"))
            self.send(End(body.stream, error))
            self.send(Failure(id, error))
            return
        self._downloads[body.stream] = download = Download()

        def finish() -> None:
            self.send(End(body.stream))
            self.reply(id, Done())

        download.finish = finish
        self.write(body.stream, content)


@pytest.fixture
def scripted() -> ScriptedNode:
    """A node that nobody has connected to yet."""
    return ScriptedNode()


@pytest.fixture
def location(scripted: ScriptedNode) -> Any:
    """A blocking session on the scripted node."""
    with Location.over(scripted.connector) as session:
        yield session


@pytest.fixture
def core(scripted: ScriptedNode) -> aio.Location:
    """A location on the scripted node that a test can enter."""
    return aio.Location.over(scripted.connector)
