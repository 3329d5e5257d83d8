"""The messages of the wire, as tagged structs that are validated once, when they are decoded.

A connection carries frames of two families. *Loose* frames (`Hello`, `Welcome`, `Ack`, ...) manage the connection and
may be lost with it. *Channel* frames travel inside a numbered `Envelope` (see `channel.py`) and survive a reconnect:
the client's are requests and stream parts, the node's are replies, events and stream parts.

Rules for change: a field that is added has a default; unknown fields are ignored; an unknown tag is a protocol error.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct, field

from .errors import ErrorInfo
from .exits import Exit
from .streams import MAX_CREDIT

Name = Annotated[str, Meta(max_length=255)]
Id = Annotated[str, Meta(min_length=1, max_length=64)]
StreamId = Annotated[int, Meta(ge=1, le=2**53)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Text = Annotated[str, Meta(max_length=128 * 1024)]
Words = Annotated[list[Text], Meta(max_length=4096)]
Pairs = Annotated[list[tuple[Text, Text]], Meta(max_length=4096)]
Seconds = Annotated[float, Meta(gt=0, le=10**9)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
#: What a container may reach outside: only "open" for everything public, or networks, addresses and names.
Egress = Annotated[list[Name], Meta(max_length=512)]


# --- parts of requests --------------------------------------------------------------------------------------------


class Limits(Struct, frozen=True):
    """What a container may use: bytes of memory and of disk, processes and threads, and processors as a fraction."""

    memory_bytes: Annotated[int, Meta(ge=0, le=2**50)] = 512 << 20
    cpus: Annotated[float, Meta(ge=0, le=4096)] = 1.0
    pids: Annotated[int, Meta(ge=0, le=2**22)] = 256
    disk_bytes: Annotated[int, Meta(ge=0, le=2**60)] = 4 << 30


class PreBootFile(Struct, frozen=True):
    """A file that is there before the main process starts.

    `data` is its content, or with `secret` a box that is sealed to the node's key and holds the content.
    """

    path: Path
    data: bytes
    mode: Annotated[int, Meta(ge=0, le=0o7777)] = 0o644
    secret: bool = False


class Size(Struct, frozen=True, array_like=True):
    """The size of a terminal, in characters."""

    columns: Annotated[int, Meta(ge=1, le=65535)] = 80
    rows: Annotated[int, Meta(ge=1, le=65535)] = 24


class Streams(Struct, frozen=True, array_like=True):
    """The streams of a process, by the numbers that the client gave them; 0 is none."""

    stdin: Count = 0
    stdout: Count = 0
    stderr: Count = 0


# --- requests -----------------------------------------------------------------------------------------------------


class SpawnContainer(Struct, frozen=True, tag="container.spawn"):
    """Make a container; `ContainerCreated` answers once it is sure to be tried, events tell the rest."""

    image: Name
    streams: Streams
    command: Words | None = None
    shell: bool = False  # `command` is one line for `sh -c`
    env: Pairs = []
    files: Annotated[list[PreBootFile], Meta(max_length=1024)] = []
    limits: Limits = Limits()
    user: Name | None = None
    workdir: Path | None = None
    tag: Name | None = None
    sleep: bool = False
    timeout_s: Seconds | None = None
    pty: bool = True
    interactive: bool = False  # the pty echoes and translates newlines, as for a person
    size: Size = Size()
    egress: Egress = field(default_factory=lambda: ["open"])


class StartContainer(Struct, frozen=True, tag="container.start"):
    """Wake a container that was spawned asleep."""

    container: Id


class RebootContainer(Struct, frozen=True, tag="container.reboot"):
    """End every process and start the main one again; answered when it runs."""

    container: Id
    reset_filesystem: bool = False


class SignalContainer(Struct, frozen=True, tag="container.signal"):
    """Signal the main process; without a number, the image's StopSignal."""

    container: Id
    number: Annotated[int, Meta(ge=1, le=64)] | None = None


class ResizeContainer(Struct, frozen=True, tag="container.resize"):
    """The size of the main process's terminal has changed."""

    container: Id
    size: Size


class DestroyContainer(Struct, frozen=True, tag="container.destroy"):
    """End a container and remove all of it; answered when nothing is left.

    With `grace_s` the main process is sent the image's StopSignal first, and has so long to end by itself.
    """

    container: Id
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0


class ListContainers(Struct, frozen=True, tag="container.list"):
    """The containers of the account, those of its other sessions too."""


class WatchContainer(Struct, frozen=True, tag="container.watch"):
    """Tell this session of the end of a container that it may connect to; answered before there is anything to tell."""

    container: Id


class AllowConnection(Struct, frozen=True, tag="connection.allow"):
    """Let `client` open connections to `container`, on one port or on all; answered when it may.

    It finds the container by its tag, and by `alias` if there is one.
    """

    container: Id
    client: Id
    port: Port | None = None
    alias: Name | None = None


class DisallowConnection(Struct, frozen=True, tag="connection.disallow"):
    """Take that back, for one port or for all; answered when no packet passes any more."""

    container: Id
    client: Id
    port: Port | None = None


class ListConnections(Struct, frozen=True, tag="connection.list"):
    """Who may connect to whom, of the containers of the account."""


class SetEgress(Struct, frozen=True, tag="container.egress"):
    """Change what a container may reach outside; answered when it is in effect."""

    container: Id
    egress: Egress


class StartProcess(Struct, frozen=True, tag="process.start"):
    """Start a further process in a container; `ProcessStarted` answers when it runs."""

    container: Id
    command: Annotated[Words, Meta(min_length=1)]
    streams: Streams
    shell: bool = False
    login_shell: bool = False  # `command` is ignored: the first shell the container has, on a pty
    env: Pairs = []
    cwd: Path = "/"
    user: Name = "root"
    pty: bool = False
    interactive: bool = True
    size: Size = Size()
    timeout_s: Seconds | None = None


class RunProcess(Struct, frozen=True, tag="process.run"):
    """Run a further process to its end; `ProcessDone` answers then, after all of its output. Cancelling ends it."""

    container: Id
    command: Annotated[Words, Meta(min_length=1)]
    streams: Streams
    shell: bool = False
    env: Pairs = []
    cwd: Path = "/"
    user: Name = "root"
    timeout_s: Seconds | None = None


class SignalProcess(Struct, frozen=True, tag="process.signal"):
    container: Id
    process: Id
    number: Annotated[int, Meta(ge=1, le=64)]


class ResizeProcess(Struct, frozen=True, tag="process.resize"):
    container: Id
    process: Id
    size: Size


class DestroyProcess(Struct, frozen=True, tag="process.destroy"):
    """End a process and those it started in its session; answered when it is gone."""

    container: Id
    process: Id


class PutFile(Struct, frozen=True, tag="file.put"):
    """Write a file; its bytes follow in `stream`. Answered when it is in place."""

    container: Id
    path: Path
    stream: StreamId
    mode: Annotated[int, Meta(ge=0, le=0o7777)] = 0o644


class FetchFile(Struct, frozen=True, tag="file.fetch"):
    """Read a file into `stream`. Answered when all has been sent."""

    container: Id
    path: Path
    stream: StreamId


class PutTree(Struct, frozen=True, tag="tree.put"):
    """Write a directory and all in it; records as in `trees.py` follow in `stream`."""

    container: Id
    path: Path
    stream: StreamId


class FetchTree(Struct, frozen=True, tag="tree.fetch"):
    container: Id
    path: Path
    stream: StreamId


class OpenConnection(Struct, frozen=True, tag="connection.open"):
    """Connect to a port inside a container, or to the path of a unix socket; answered when that is done.

    From then on the bytes of the connection are those of the two streams, and so are their ends: the end of a stream
    is the end of that direction, and with an error, or when one of them is stopped, the connection is cut off. Credit
    of these streams begins at `CONNECTION_CREDIT`.
    """

    container: Id
    target: Port | Path
    to_container: StreamId
    from_container: StreamId
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0


class ImportImage(Struct, frozen=True, tag="image.import"):
    """Import an archive; its bytes follow in `stream`."""

    stream: StreamId
    name: Name | None = None


class ListImages(Struct, frozen=True, tag="image.list"):
    pass


class InspectImage(Struct, frozen=True, tag="image.inspect"):
    image: Name


class RemoveImage(Struct, frozen=True, tag="image.remove"):
    image: Name


class GetNodeStatus(Struct, frozen=True, tag="node.status"):
    pass


class EndSession(Struct, frozen=True, tag="session.end"):
    """End the session; answered when nothing of it is left."""


RequestBody: TypeAlias = (
    SpawnContainer
    | StartContainer
    | RebootContainer
    | SignalContainer
    | ResizeContainer
    | DestroyContainer
    | ListContainers
    | WatchContainer
    | AllowConnection
    | DisallowConnection
    | ListConnections
    | SetEgress
    | StartProcess
    | RunProcess
    | SignalProcess
    | ResizeProcess
    | DestroyProcess
    | PutFile
    | FetchFile
    | PutTree
    | FetchTree
    | OpenConnection
    | ImportImage
    | ListImages
    | InspectImage
    | RemoveImage
    | GetNodeStatus
    | EndSession
)


# --- results ------------------------------------------------------------------------------------------------------


class Done(Struct, frozen=True, tag="done"):
    """It was done, and there is nothing to tell."""


class ContainerCreated(Struct, frozen=True, tag="container.created"):
    container: Id
    ip: str
    image: str  # the digest that the name meant
    config: dict[str, Any] = {}  # the image's configuration, as `docker inspect` names its parts


class ContainerInfo(Struct, frozen=True):
    container: Id
    node: str
    ip: str
    image: str
    tag: str | None
    state: str
    started_s: float | None  # seconds since the epoch
    mine: bool  # it belongs to the session that asks
    memory_bytes: int = 0
    egress: list[str] = []  # as it is asked for; of a node without a network nothing


class ContainerList(Struct, frozen=True, tag="containers"):
    containers: list[ContainerInfo]


class ConnectionInfo(Struct, frozen=True):
    """`client` may open connections to `container`, on this port or on all, and finds it by these names."""

    container: str
    client: str
    container_ip: str
    client_ip: str
    port: int | None = None
    names: list[str] = []


class ConnectionList(Struct, frozen=True, tag="connections"):
    connections: list[ConnectionInfo]


class ProcessStarted(Struct, frozen=True, tag="process.started"):
    process: Id


class ProcessDone(Struct, frozen=True, tag="process.done"):
    exit: Exit


class ImageInfo(Struct, frozen=True):
    """An image; `config` is empty in lists of all."""

    digest: str
    names: list[str]
    size_bytes: int
    created_s: float
    layers: int
    config: dict[str, Any] = {}


class ImageList(Struct, frozen=True, tag="images"):
    images: list[ImageInfo]


class NodeStatus(Struct, frozen=True, tag="node.status"):
    """What a node is and how it does; units are in the names, `stats` has the four numbers of old."""

    node: str
    version: str
    kernel: str
    cgroups: str
    storage: str
    containers: int
    sandboxes_ready: int
    memory_total_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int
    cpus: int
    load: float
    uptime_s: float
    stats: dict[str, float] = {}


Result: TypeAlias = (
    Done
    | ContainerCreated
    | ContainerList
    | ConnectionList
    | ProcessStarted
    | ProcessDone
    | ImageList
    | NodeStatus
)


# --- what travels in the channel ----------------------------------------------------------------------------------


class Request(Struct, frozen=True, tag="request"):
    """`id` is unique in the session; `node` is the node meant, empty for the entry itself."""

    id: Annotated[int, Meta(ge=1, le=2**53)]
    node: Name
    body: RequestBody


class Cancel(Struct, frozen=True, tag="cancel"):
    """Nobody waits for this request any more: stop it if it can be stopped."""

    id: Annotated[int, Meta(ge=1, le=2**53)]


class Data(Struct, frozen=True, tag="data"):
    """A part of a stream."""

    stream: StreamId
    data: Annotated[bytes, Meta(min_length=1, max_length=256 * 1024)]


class Credit(Struct, frozen=True, tag="credit"):
    """The receiver of a stream has room for `count` more bytes."""

    stream: StreamId
    count: Annotated[int, Meta(ge=1, le=2**40)]


class End(Struct, frozen=True, tag="end"):
    """The sender of a stream has no more; with `error`, it could not send all."""

    stream: StreamId
    error: ErrorInfo | None = None


class Stop(Struct, frozen=True, tag="stop"):
    """The receiver of a stream wants no more of it."""

    stream: StreamId


class Reply(Struct, frozen=True, tag="reply"):
    request: int
    result: Result


class Failure(Struct, frozen=True, tag="failure"):
    request: int
    error: ErrorInfo


class ContainerRunning(Struct, frozen=True, tag="container.running"):
    """The main process runs, or the container sleeps and is ready for use."""

    container: Id
    startup_s: float


class ContainerEnded(Struct, frozen=True, tag="container.ended"):
    """Its last event. `error` is there when it never ran."""

    container: Id
    exit: Exit
    error: ErrorInfo | None = None


class ProcessEnded(Struct, frozen=True, tag="process.ended"):
    container: Id
    process: Id
    exit: Exit


Event: TypeAlias = ContainerRunning | ContainerEnded | ProcessEnded


# --- after a restart of the node ----------------------------------------------------------------------------------


class Position(Struct, frozen=True, array_like=True):
    """Where the receiver of a stream stands: how many bytes it has, and how many more it has room for.

    That is `INITIAL_CREDIT` but for what it has and has not passed on.
    """

    received: Count
    credit: Annotated[int, Meta(ge=0, le=MAX_CREDIT)]


class StreamsView(Struct, frozen=True, array_like=True):
    """The streams of a process, as its client sees them.

    Attributes:
        numbers: as the request has named them that made the process.
        sent: how many bytes of input there have been.
        input_ended: there will be no more.
        stdout: how much of the output has come; None when no more of it is wanted, or it has ended.
        stderr: the same.
    """

    numbers: Streams
    sent: Count = 0
    input_ended: bool = False
    stdout: Position | None = None
    stderr: Position | None = None


class ProcessView(Struct, frozen=True, array_like=True):
    """A process that its client knows, and has not heard the end of."""

    process: Id
    streams: StreamsView


class ContainerView(Struct, frozen=True, array_like=True):
    """A container that its client knows, and has not heard the end of; `ready` when it has heard `ContainerRunning`."""

    container: Id
    ready: bool
    streams: StreamsView
    processes: Annotated[list[ProcessView], Meta(max_length=65536)] = []


class ClientView(Struct, frozen=True):
    """All that a client knows of its session, when it comes back to a node that was restarted.

    Whatever else the session has at the node is not the client's any more: what it was to hear of that was lost, or it
    has heard of its end.

    Attributes:
        containers: its own.
        watching: those of other sessions whose end it asked to be told of.
    """

    containers: Annotated[list[ContainerView], Meta(max_length=65536)] = []
    watching: Annotated[list[Id], Meta(max_length=65536)] = []


class Resync(Struct, frozen=True, tag="resync"):
    """The first that a client says to a node that was restarted.

    Attributes:
        view: its `ClientView`, packed: it may be large, and is unpacked only where it is waited for; see `frames`.
    """

    view: bytes


class KnownProcess(Struct, frozen=True, array_like=True):
    """A process that is there, or whose end is told next; `stdin` as in `KnownContainer`."""

    process: Id
    stdin: Position | None = None


class KnownContainer(Struct, frozen=True, array_like=True):
    """A container that is there, or whose end is told next.

    Attributes:
        stdin: how much of the main process's input the node has; None when it takes no more.
        processes: those of its processes that the client has named.
    """

    container: Id
    stdin: Position | None = None
    processes: list[KnownProcess] = []


class Resynced(Struct, frozen=True, tag="resynced"):
    """What the node has of what the client has named. The rest is lost without a trace, and will not be told of.

    What has ended in the meantime, and is no more, has been told of before.

    From here on the session goes on: each stream from its receiver's position, with the credit of that.
    """

    containers: list[KnownContainer] = []
    watching: list[Id] = []


ClientBody: TypeAlias = Request | Cancel | Data | Credit | End | Stop | Resync
NodeBody: TypeAlias = (
    Reply | Failure | Data | Credit | End | Stop | ContainerRunning | ContainerEnded | ProcessEnded | Resynced
)


# --- frames -------------------------------------------------------------------------------------------------------


class ClientEnvelope(Struct, frozen=True, tag="c"):
    """A numbered frame of the client; `ack` is the last number of the node's that it has."""

    seq: Annotated[int, Meta(ge=1, le=2**53)]
    ack: Count
    body: ClientBody


class NodeEnvelope(Struct, frozen=True, tag="n"):
    seq: Annotated[int, Meta(ge=1, le=2**53)]
    ack: Count
    body: NodeBody


class Hello(Struct, frozen=True, tag="hello"):
    """The first frame on every connection, a new one or one after a break.

    Attributes:
        versions: the protocol versions the client speaks.
        token: proof of the session to resume; empty for a new one.
        received: the last number of the node's that arrived.
        client: what the client is, for the node's log.
        incarnation: of the node, as the last `Welcome` had it: what both sides have numbered belongs to that one.
        number: counts the hellos of a client, so that one that was long on its way is not taken for the latest.
    """

    versions: Annotated[list[int], Meta(min_length=1, max_length=64)]
    token: Annotated[str, Meta(max_length=64)] = ""
    session: Annotated[str, Meta(max_length=64)] = ""
    received: Count = 0
    client: Name = ""
    incarnation: Annotated[str, Meta(max_length=64)] = ""
    number: Count = 0


class NodeOffer(Struct, frozen=True):
    """A node that requests may name, and the key that secrets for it are sealed to (32 bytes)."""

    name: str
    seal_key: bytes
    stats: dict[str, float] = {}


class Welcome(Struct, frozen=True, tag="welcome"):
    """The session is open.

    Attributes:
        resumed: it is the one that the client has asked for.
        received: the last number of the client's that the node has.
        silence_s: a session of which nothing is heard for so long is over.
        incarnation: the run of the daemon that says so.
        restarted: the session was another incarnation's. Both sides number from 1 again, what was under way is lost,
            and the client's first word is `Resync`.
    """

    version: int
    session: str
    token: str
    account: str
    account_key: bytes
    nodes: list[NodeOffer]
    resumed: bool = False
    received: int = 0
    silence_s: float = 120.0
    incarnation: str = ""
    restarted: bool = False


class Refused(Struct, frozen=True, tag="refused"):
    """The node will not talk; the connection is of no more use."""

    error: ErrorInfo


class Ack(Struct, frozen=True, tag="ack"):
    """All up to `received` has arrived."""

    received: Count


class Ping(Struct, frozen=True, tag="ping"):
    """Are you there? Only a peer that lives can answer with a `Pong` of the same `nonce`."""

    received: Count = 0
    nonce: Count = 0


class Pong(Struct, frozen=True, tag="pong"):
    """Yes, and this is the `Ping` that asked."""

    received: Count = 0
    nonce: Count = 0


ClientFrame: TypeAlias = ClientEnvelope | Hello | Ack | Ping | Pong
NodeFrame: TypeAlias = NodeEnvelope | Welcome | Refused | Ack | Ping | Pong

#: What this release speaks, best last.
VERSIONS = (1,)


def choose_version(offered: list[int]) -> int | None:
    """The newest protocol version both sides speak, or None."""
    return max(set(offered) & set(VERSIONS), default=None)
