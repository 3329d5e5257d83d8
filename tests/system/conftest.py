"""A real node with real images for the tests of this directory, and a look at what is on the host."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.host_state import adopt_orphans, look, look_at_rest, wait_until
from tests.system.people import Introduce, Person, introduce_to
from tests.system.waiting import PATIENCE
from tfnz import Location
from tfnz_node.crash_points import VARIABLE

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "build" / "images"
#: What a loaded machine may take to start a node; the tests wait for its notification, never for this long.
START_TIMEOUT_S = 50 * PATIENCE
#: The socket of a node that was installed on this host with the images of the shared one: tests of containers may have
#: that instead. Tests that use more of a node than a session make their own.
INSTALLED = "TFNZ_TESTS_SOCKET"
#: Settings of nodes that have a few containers.
SMALL = 'disk = "2G"\npool_size = 2\npool_max = 2\n'
#: What it may take then to import one image.
IMPORT_TIMEOUT_S = 180 * PATIENCE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The limit of a test is for the test.

    The first that uses a shared node, of all or of a module, would have to have it made within that limit, and a node
    that is not there in time fails all of its tests. Fixtures have limits of their own, one for each wait.
    """
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(func_only=True))


@dataclass
class RunningNode:
    """A daemon of the tests' own, with its socket and data directory."""

    directory: Path
    config: Path
    socket: Path
    tcp: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def faults(self) -> list[str]:
        """Each traceback in its log, with what was said around it."""
        lines = self.log.splitlines()
        return [
            "\n".join(lines[max(0, number - 3) : number + 40])
            for number, line in enumerate(lines)
            if line.startswith("Traceback")
        ]

    def command(self, *words: str) -> list[str]:
        """A command of tfnz-node for this node."""
        return [sys.executable, "-m", "tfnz_node", "--config", str(self.config), *words]

    def start(self, *, crash_at: str = "") -> None:
        """Start the daemon and wait until it says, as it would to systemd, that it is ready.

        Args:
            crash_at: the point at which it is to kill itself; see `tfnz_node.crash_points`.
        """
        notify = self.directory / "notify"
        notify.unlink(missing_ok=True)
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
            listener.bind(str(notify))
            with (self.directory / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    self.command("serve"),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=os.environ | {"NOTIFY_SOCKET": str(notify), VARIABLE: crash_at},
                )
            ended = os.pidfd_open(self.process.pid)
            try:
                heard, _, _ = select.select([listener.fileno(), ended], [], [], START_TIMEOUT_S)
            finally:
                os.close(ended)
            assert heard == [listener.fileno()], f"the node did not start: {self.log}"
            assert listener.recv(100) == b"READY=1"

    def stop(self) -> None:
        """Stop it as systemd would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(START_TIMEOUT_S) == 0, self.log

    def finish(self) -> None:
        """Stop it, if it runs; it has no complaint."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
            assert not self.faults, self.log
            assert not self.socket.exists()

    def kill(self) -> None:
        """Kill it as a power cut would, if power cuts were kind to the rest of the host."""
        self.crash()
        if (keeper := self.find_keeper()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper, signal.SIGKILL)

    def crash(self) -> None:
        """Kill the daemon alone: what it has will be the next one's."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def find_keeper(self) -> int | None:
        """The process id of the keeper that serves the node, if one does."""
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as caller:
            try:
                caller.connect(str(self.data_dir / "keeper"))
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            pid, _, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)

    def location(self) -> Location:
        """A session of this machine's root."""
        return Location(socket=str(self.socket), quiet=True)


def make_node(directory: Path, *, port: int, host: str = "127.0.0.1", settings: str = "") -> RunningNode:
    """A node that has not been started."""
    node = RunningNode(directory, directory / "node.toml", directory / "node.sock", f"tcp://{host}:{port}")
    node.config.write_text(
        f'data_dir = "{node.data_dir}"\nsocket = "{node.socket}"\nlisten = "{node.tcp}"\n'
        # The tests count processes: as many sandboxes wait as did before.
        + (settings or 'disk = "8G"\npool_size = 8\npool_max = 8\n')
    )
    return node


def import_images(node: RunningNode, *names: str) -> None:
    """Import images that `make setup` has built."""
    archives = {"busybox": "busybox.tar", "python": "python.tar", "nginx": "nginx-oci.tar"}
    with node.location() as location:
        for name in names:
            location.import_image(IMAGES / archives[name], name, timeout_s=IMPORT_TIMEOUT_S)


@contextlib.contextmanager
def measured_node(*, port: int, host: str = "127.0.0.1") -> Iterator[RunningNode]:
    """A node with the image busybox, configured as it comes, for a program that measures, and stops it. What it had to
    say last is told when the program fails, or the node has met a fault of its own."""
    adopt_orphans()
    with tempfile.TemporaryDirectory() as directory:
        node = make_node(Path(directory), port=port, host=host)
        failed = True
        try:
            node.start()
            import_images(node, "busybox")
            yield node
            failed = bool(node.faults)
        finally:
            node.kill()
            if failed:
                sys.stderr.write(node.log[-20000:])


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One node for all tests that do it no harm, with the images busybox, python and nginx."""
    adopt_orphans()
    running = make_node(tmp_path_factory.mktemp("node"), port=2020)
    try:
        running.start()
        import_images(running, "busybox", "python", "nginx")
        yield running
        running.stop()
    finally:
        running.kill()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningNode]:
    """A node of the test's own, running, with the image busybox. When it has ended, nothing is left."""
    adopt_orphans()
    node = make_node(tmp_path, port=2030, settings=SMALL)
    before = look_at_rest(None, node.data_dir)
    try:
        node.start()
        import_images(node, "busybox")
        yield node
        node.finish()
        wait_until(before, lambda: look(None, node.data_dir))
    finally:
        node.kill()


@pytest.fixture
def location(request: pytest.FixtureRequest) -> Iterator[Location]:
    """A session on the shared node, or on one that serves this host already."""
    where = os.environ.get(INSTALLED) or str(request.getfixturevalue("node").socket)
    with Location(socket=where, quiet=True) as session:
        yield session


@pytest.fixture(scope="module")
def introduce(node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Introduce:
    """Makes accounts, which the shared node does not know yet."""
    return introduce_to(node, tmp_path_factory.mktemp("homes"))


@pytest.fixture(scope="module")
def ada(introduce: Introduce) -> Iterator[Person]:
    """Somebody whom the shared node knows."""
    person = introduce("ada")
    person.administer("authorise", person.public_key, "--name", "ada")
    yield person
    person.administer("revoke", person.public_key)


@pytest.fixture(scope="module")
def grace(introduce: Introduce) -> Iterator[Person]:
    """Somebody else."""
    person = introduce("grace")
    person.administer("authorise", person.public_key)
    yield person
    person.administer("revoke", person.public_key)
