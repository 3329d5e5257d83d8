"""A node whose daemon may be killed between any two turns of the loop, around the real gateway and in memory.

`Host` is what outlives a daemon: programs with what they have written and been given, the ends that nobody has heard
of, and the book of sessions. `Daemon` is what does not.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

from tfnz.links import LinkBroken
from tfnz.links.memory import MemoryConnector, MemoryLink
from tfnz.protocol.errors import ConnectionFailed, ContainerNotFound, ProcessNotFound
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.frames import MAX_FRAME, unpack_view
from tfnz.protocol.messages import (
    ClientView,
    ContainerCreated,
    ContainerEnded,
    ContainerInfo,
    ContainerList,
    ContainerRunning,
    ContainerView,
    DestroyContainer,
    DestroyProcess,
    Done,
    EndSession,
    KnownContainer,
    KnownProcess,
    ListContainers,
    NodeOffer,
    OpenConnection,
    Position,
    ProcessDone,
    ProcessEnded,
    ProcessStarted,
    PutFile,
    Request,
    Result,
    Resync,
    Resynced,
    RunProcess,
    SpawnContainer,
    StartProcess,
    Streams,
    StreamsView,
    WatchContainer,
)
from tfnz_node.gateway.book import Booked, MemoryBook, SessionRecord
from tfnz_node.gateway.session import Session
from tfnz_node.gateway.sessions import Peer, Sessions
from tfnz_node.gateway.streams import InStream, OutStream, StreamStopped

T = TypeVar("T")
#: How long a test in another thread waits for what must come; never reached when all is well.
PATIENCE_S = 60.0


@dataclass
class Program:
    """A process, with what a keeper has of it.

    Attributes:
        output: all that it has written.
        input: all that has come for it; `taken` bytes of that it has read.
        reads: whether it reads as soon as there is something.
    """

    id: str
    numbers: Streams
    output: bytearray = field(default_factory=bytearray)
    input: bytearray = field(default_factory=bytearray)
    taken: int = 0
    input_over: bool = False
    reads: bool = True
    exit: Exit | None = None
    changed: Callable[[], None] = lambda: None
    on_taken: Callable[[int], None] = lambda count: None

    def write(self, data: bytes) -> None:
        if self.exit is None:
            self.output += data
            self.changed()

    def take(self) -> None:
        """Read all that there is."""
        count = len(self.input) - self.taken
        self.taken += count
        if count:
            self.on_taken(count)

    def end(self, exit: Exit) -> None:
        if self.exit is None:
            self.exit = exit
            self.changed()


@dataclass
class Room:
    """A container."""

    id: str
    session: str
    main: Program
    programs: dict[str, Program] = field(default_factory=dict)
    watchers: set[str] = field(default_factory=set)


class Host:
    """Everything that a daemon leaves when it is killed; at first there is none."""

    def __init__(self) -> None:
        self.book = MemoryBook()
        self.rooms: dict[str, Room] = {}
        self.files: dict[str, bytes] = {}
        self.served: list[str] = []
        self._news = threading.Condition()
        self.refused = 0
        self.daemon: Daemon | None = None
        self.connector = MemoryConnector(self._accept)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._names = itertools.count(1)

    def name(self, kind: str) -> str:
        return f"{kind}{next(self._names)}"

    def start(self) -> Daemon:
        assert self.daemon is None
        self.daemon = Daemon(self)
        return self.daemon

    def kill(self) -> None:
        """SIGKILL."""
        if self.daemon is not None:
            daemon, self.daemon = self.daemon, None
            daemon.die()

    def note(self, request: str) -> None:
        """A request of this kind is being served."""
        with self._news:
            self.served.append(request)
            self._news.notify_all()

    def wait_for(self, request: str) -> None:
        """Return when one of a kind is being served, or was; for tests in another thread."""
        with self._news:
            assert self._news.wait_for(lambda: request in self.served, PATIENCE_S)

    def do(self, function: Callable[[], T]) -> T:
        """Do something on the loop that serves the client, from another thread."""
        assert self.loop is not None

        async def act() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(act(), self.loop).result(PATIENCE_S)

    def _accept(self, link: MemoryLink) -> None:
        self.loop = asyncio.get_running_loop()
        if self.daemon is None:
            self.refused += 1
            raise ConnectionFailed("nothing is listening")
        self.daemon.accept(link)

    def find(self, container: str) -> Room:
        if container not in self.rooms:
            raise ContainerNotFound(f"there is no {container}")
        return self.rooms[container]


class Daemon:
    """One run of the daemon."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.dead = False
        self.resyncs: list[ClientView] = []
        #: What may have to wait before it is done, if a test wants that.
        self.gate = asyncio.Event()
        self.gate.set()
        #: The same for containers that are to run.
        self.boots = asyncio.Event()
        self.boots.set()
        self._links: dict[bytes, MemoryLink] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.sessions = Sessions(
            send=self._send,
            hasten=lambda peer: None,
            hang_up=lambda peer: None,
            is_closed=lambda peer: False,
            handler=self._serve,
            offer=lambda: [NodeOffer("node", b"k" * 32)],
            release=self._release,
            authorised=lambda account: True,
            book=_MortalBook(self),
            resync=self._resync,
            find_process=lambda peer: None,
            grace_s=1.0,
            takeover_s=60.0,
            silence_s=120.0,
            max_sessions=8,
        )
        restored = self.sessions.restore()
        self.sessions.expect_clients()
        for room in list(host.rooms.values()):
            if room.session not in restored:
                del host.rooms[room.id]

    def die(self) -> None:
        """Nothing that it does has an effect any more, and its connections are gone."""
        self.dead = True
        for link in self._links.values():
            link.close()
        for task in self._tasks:
            task.cancel()
        for room in self.host.rooms.values():
            for program in (room.main, *room.programs.values()):
                program.changed, program.on_taken = _nothing, _nothing

    # --- the door

    def accept(self, link: MemoryLink) -> None:
        number = len(self._links) + 1
        peer = Peer("memory", bytes([number % 256, number // 256]), number, "uid:0", b"a" * 32)
        self._links[peer.routing_id] = link
        self._start(self._listen(link, peer))

    async def _listen(self, link: MemoryLink, peer: Peer) -> None:
        try:
            while True:
                data = await link.receive()
                self.sessions.on_frame(peer, data)
        except LinkBroken:
            self.sessions.on_disconnected(peer.socket, peer.descriptor)

    def _send(self, peer: Peer, frame: bytes) -> None:
        if not self.dead:
            self._links[peer.routing_id].send(frame)

    def break_links(self) -> None:
        for link in self._links.values():
            link.close()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- requests

    async def _serve(self, session: Session, request: Request) -> Result:
        if self.dead:
            await asyncio.Event().wait()
        self.host.note(type(request.body).__name__)
        match request.body:
            case SpawnContainer(_, streams):
                room = Room(self.host.name("container"), session.id, Program("main", streams))
                self.host.rooms[room.id] = room
                self._attach(session, room, room.main, position=0)
                await self.gate.wait()
                self._start(self._bring_up(session, room))
                return ContainerCreated(room.id, "10.0.0.1", "sha256:1")
            case StartProcess(container, _, streams):
                room = self.host.find(container)
                program = Program(self.host.name("process"), streams)
                room.programs[program.id] = program
                self._attach(session, room, program, position=0)
                await self.gate.wait()
                return ProcessStarted(program.id)
            case RunProcess():
                await self.gate.wait()
                return ProcessDone(Exit(Cause.EXITED, 0))
            case DestroyContainer(container):
                self.host.find(container).main.end(Exit(Cause.DESTROYED))
                await self.gate.wait()
                return Done()
            case DestroyProcess(container, process):
                if process not in self.host.find(container).programs:
                    raise ProcessNotFound(process)
                self.host.find(container).programs[process].end(Exit(Cause.DESTROYED))
                await self.gate.wait()
                return Done()
            case WatchContainer(container):
                self.host.find(container).watchers.add(session.id)
                await self.gate.wait()
                return Done()
            case ListContainers():
                await self.gate.wait()
                return ContainerList(
                    [
                        ContainerInfo(one, "node", "10.0.0.1", "x", one, "running", 1.0, True)
                        for one in self.host.rooms
                    ]
                )
            case PutFile(_, path, number):
                stream = session.input(number)
                assert stream is not None
                content = bytearray()
                while part := await stream.read():
                    content += part
                    stream.consumed(len(part))
                await self.gate.wait()
                self.host.files[path] = bytes(content)
                return Done()
            case OpenConnection() as body:
                inflow, outflow = session.flows(body)
                inflow.attach(lambda data: outflow.write(data), lambda error: outflow.end(error))
                await self.gate.wait()
                return Done()
            case EndSession():
                await self._release(session)
                return Done()
        return Done()

    async def _bring_up(self, session: Session, room: Room) -> None:
        await self.boots.wait()
        session.send(ContainerRunning(room.id, 0.001))

    async def _release(self, session: Session) -> None:
        if not self.dead:
            for room in list(self.host.rooms.values()):
                if room.session == session.id:
                    del self.host.rooms[room.id]

    # --- programs: what comes and goes, and ends

    def _attach(self, session: Session, room: Room, program: Program, *, position: int) -> None:
        numbers = program.numbers
        if (source := session.input(numbers.stdin)) is not None:
            program.on_taken = source.consumed
            self._start(self._feed(program, source))
        sink = session.output(numbers.stdout)
        if numbers.stderr and (errors := session.output(numbers.stderr)) is not None:
            errors.end()
        pump = _Pump(program, sink, position, lambda: self._on_over(session, room, program))
        program.changed = pump.move
        pump.move()

    async def _feed(self, program: Program, source: InStream) -> None:
        try:
            while data := await source.read():
                program.input += data
                if program.reads:
                    program.take()
            program.input_over = True
        except StreamStopped:
            pass

    def _on_over(self, session: Session, room: Room, program: Program) -> None:
        """All that a program has written has been handed over, and it has ended."""
        assert program.exit is not None
        if (source := session.input(program.numbers.stdin)) is not None:
            source.stop()
        if program is room.main:
            for other in list(room.programs.values()):
                other.end(Exit(Cause.CONTAINER_ENDED))

            def forget_room() -> None:
                if not self.dead:
                    self.host.rooms.pop(room.id, None)

            session.send(ContainerEnded(room.id, program.exit), forget_room)
        else:

            def forget_program() -> None:
                if not self.dead:
                    room.programs.pop(program.id, None)

            session.send(ProcessEnded(room.id, program.id, program.exit), forget_program)

    # --- after a restart

    async def _resync(self, session: Session, said: Resync) -> Resynced:
        view = unpack_view(said, limit=MAX_FRAME)
        self.resyncs.append(view)
        await self.gate.wait()
        mine = {room.id: room for room in self.host.rooms.values() if room.session == session.id}
        known = {one.container for one in view.containers}
        for room in mine.values():
            if room.id not in known:
                del self.host.rooms[room.id]
        watching = [one for one in view.watching if one in self.host.rooms]
        return Resynced(
            [
                self._adopt(session, mine[one.container], one)
                for one in view.containers
                if one.container in mine
            ],
            watching,
        )

    def _adopt(self, session: Session, room: Room, view: ContainerView) -> KnownContainer:
        seen = {one.process: one for one in view.processes}
        for program in list(room.programs.values()):
            if program.id not in seen:
                del room.programs[program.id]
        processes = [
            KnownProcess(
                one.process, self._adopt_program(session, room, room.programs[one.process], one.streams)
            )
            for one in view.processes
            if one.process in room.programs
        ]
        stdin = self._adopt_program(session, room, room.main, view.streams)
        if not view.ready and room.main.exit is None:
            self._start(self._bring_up(session, room))
        return KnownContainer(room.id, stdin, processes)

    def _adopt_program(
        self, session: Session, room: Room, program: Program, view: StreamsView
    ) -> Position | None:
        position = None
        if view.numbers.stdin and not program.input_over and program.exit is None:
            waiting = len(program.input) - program.taken
            source = session.adopt_input(view.numbers.stdin, waiting=waiting)
            position = Position(len(program.input), source.granted)
        if view.stdout is not None:
            session.adopt_output(view.numbers.stdout, credit=view.stdout.credit)
        if view.stderr is not None:
            session.adopt_output(view.numbers.stderr, credit=view.stderr.credit)
        self._attach(session, room, program, position=0 if view.stdout is None else view.stdout.received)
        return position


class _Pump:
    """Hands over what a program has written, as there is room."""

    def __init__(
        self, program: Program, sink: OutStream | None, position: int, on_over: Callable[[], None]
    ) -> None:
        self._program = program
        self._sink = sink
        self._position = len(program.output) if sink is None else position
        self._on_over = on_over
        self._over = False

    def move(self) -> None:
        program, sink = self._program, self._sink
        if self._over:
            return
        while sink is not None and self._position < len(program.output):
            try:
                room = sink.room()
            except StreamStopped:
                sink = self._sink = None
                break
            if not room:
                sink.call_when_changed(self.move)
                return
            part = bytes(program.output[self._position : self._position + room])
            self._position += len(part)
            sink.write(part)
        if program.exit is not None:
            self._over = True
            if sink is not None:
                sink.end()
            self._on_over()


class _MortalBook:
    """The host's book, which a dead daemon has no hold of."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._book = daemon.host.book

    def put(self, record: SessionRecord, process: int | None) -> None:
        if not self._daemon.dead:
            self._book.put(record, process)

    def delete(self, id: str) -> None:
        if not self._daemon.dead:
            self._book.delete(id)

    def entries(self) -> list[Booked]:
        return self._book.entries()


def _nothing(count: int = 0) -> None:
    pass
