"""A program that has some of everything on a node, goes away, and says what it finds when it is back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tests.system.cable import Cable
from tests.system.people import Person
from tests.system.programs import Program, program
from tests.system.waiting import PATIENCE
from tfnz.protocol.exits import Cause

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

#: The SDK may take a minute to notice that it hears nothing.
PATIENCE_S: Final = 120.0 * PATIENCE
#: Says a line for each thing that it hears, and answers a line for each word that it is told.
SOURCE: Final = r"""
import contextlib, logging, os, socket, sys, threading, time
from tfnz import ConnectionFailed, Location, ObjectDead, TfnzError

LINES = 'i=0; while [ ! -e /stop ]; do echo "$i"; i=$((i+1)); usleep 100000; done; exit 3'
SERVE = "while true; do nc -l -p 80 -e cat; done"
ASK = "until echo hello | nc -w 5 server 80; do usleep 50000; done"
PATIENCE_S = float(sys.argv[2])

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())

class Notices(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("nothing was heard"):
            say("silence")

logging.getLogger("tfnz.connection").addHandler(Notices(logging.WARNING))

def arrive(where):
    "Many come at once, and on a slow machine the node may be too busy to say in time who it is."
    last = time.monotonic() + PATIENCE_S
    while True:
        try:
            return Location(socket=where, quiet=True) if where.startswith("/") else Location(where, quiet=True)
        except ConnectionFailed:
            if time.monotonic() > last:
                raise

location = arrive(sys.argv[1])

class Output:
    def __init__(self):
        self.data, self.more = b"", threading.Condition()

    def __call__(self, container, data):
        with self.more:
            self.data += data
            self.more.notify_all()

    def count(self):
        "How many lines there were; they are in order, and none is missing."
        lines = self.data.split(b"\n")[:-1]
        assert lines == [b"%d" % number for number in range(len(lines))], lines[-20:]
        return len(lines)

    def go_on(self):
        with self.more:
            before = self.count()
            assert self.more.wait_for(lambda: self.count() > before, PATIENCE_S), "nothing is written any more"

def ended(name):
    return lambda one, code: say("ended", name, one.exit.cause.value, code)

output = Output()
node = location.node()
printer = node.spawn("busybox", LINES, pty=False, tag="printer", stdout_callback=output,
                     termination_callback=ended("printer"))
server = node.spawn("busybox", SERVE, tag="server", termination_callback=ended("server"))
process = printer.spawn("sleep 1000", termination_callback=ended("process"))
server.allow_connection_from(printer, 80)
tunnel = server.attach_tunnel(80)
connection = None

def echo(one):
    one.sendall(b"echo")
    return one.recv(4, socket.MSG_WAITALL) == b"echo"

def connect():
    return socket.create_connection(("127.0.0.1", tunnel.localport()), PATIENCE_S)

def check():
    "All is there, and works."
    output.go_on()
    if connection is not None:
        assert echo(connection), "the connection through the tunnel does not go on"
        connection.close()
    with connect() as one:
        assert echo(one), "the tunnel does not lead there any more"
    heard = printer.run(ASK, timeout_s=PATIENCE_S)
    assert heard.stdout == b"hello\n", f"the server cannot be reached: {heard}"
    assert not process.dead and not printer.dead and not server.dead
    assert {one.tag for one in location.containers()} >= {"printer", "server"}, "a tag is gone"

def keep(function):
    def call():
        try:
            say(function())
        except (TfnzError, AssertionError, OSError) as error:
            say("failed", getattr(error, "code", repr(error)))
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread

def obey():
    global connection
    for line in sys.stdin:
        word = line.strip()
        if word == "connect":
            connection = connect()
            assert echo(connection)
            say("connected")
        elif word == "call":
            keep(lambda: "called " + printer.run("echo well").stdout.decode().strip())
        elif word == "wait":
            keep(lambda: "waited " + server.wait().cause.value)
        elif word == "check":
            keep(lambda: check() or "all is well")
        elif word == "stop":
            # It may have ended before that is answered: this is what it waits for.
            with contextlib.suppress(ObjectDead):
                printer.put("/stop", b"")
            assert printer.wait(PATIENCE_S).code == 3
            say("complete" if output.count() else "empty")

keep(lambda: check() or "ready").join()
obeying = threading.Thread(target=obey)
obeying.start()
try:
    location.run()
except TfnzError as error:
    say("lost", error.code)
try:
    location.containers()
except TfnzError as error:
    say("refused", error.code)
obeying.join()
"""


class Traveller:
    """The program, and what it may be told and has to say."""

    def __init__(self, one: Program) -> None:
        one.patience_s = PATIENCE_S
        self.program = one
        self.process = one.process
        one.expect("ready")

    def begin(self, word: str) -> None:
        """Tell it a word. A `call` and a `wait` are answered later, by `called ...` and `waited ...`."""
        self.program.write(word.encode() + b"\n")

    def expect(self, *lines: str, but: str = "silence") -> None:
        """It says these lines, in any order, and besides none but `but`."""
        waiting = sorted(lines)
        while waiting:
            said = self.program.read_line()
            if said != but:
                assert said in waiting, f"{said!r}, where {waiting} were expected"
                waiting.remove(said)

    def expect_silence(self) -> None:
        """It notices that it hears nothing any more."""
        self.program.expect("silence")

    def check(self) -> None:
        """All that it had is there and works: output without a gap, tunnels, permissions, tags, processes."""
        self.begin("check")
        self.expect("all is well")

    def finish(self) -> None:
        """Its output was complete to the end."""
        self.begin("stop")
        self.expect("ended printer exited 3", "ended process container_ended 0", "complete")

    def expect_loss(self, cause: Cause, *lines: str) -> None:
        """It is told once that all is over, and nothing after that."""
        ends = (f"ended {name} {cause.value} 1" for name in ("printer", "server", "process"))
        self.expect(*ends, "lost session_lost", "refused disconnected", *lines)
        _, rest, errors = self.program.finish()
        assert (rest, errors) == ("", "")


@contextlib.contextmanager
def near(node: RunningNode) -> Iterator[Traveller]:
    """A traveller on the node's machine, by its unix socket."""
    with program(SOURCE, str(node.socket), str(PATIENCE_S)) as one:
        yield Traveller(one)


@contextlib.contextmanager
def far(person: Person, cable: Cable) -> Iterator[Traveller]:
    """A traveller at the end of a cable, by TCP."""
    env = os.environ | {"TFNZ_HOME": str(person.home)}
    with program(SOURCE, person.account.name, str(PATIENCE_S), env=env, entrance=cable.entrance) as one:
        yield Traveller(one)
