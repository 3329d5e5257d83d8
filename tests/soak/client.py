"""The program that a client of the soak is: it does what it is told, a JSON object a line, and says what it hears.

    python -m tests.soak.client

Calls come on standard input, each with a number; answers go to standard output, as they are had, and so do the events:
output and ends, when callbacks hear of them. It ends when its input does.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from tfnz import Container, Location, Process, TfnzError

#: Calls under way at the same time.
THREADS: Final = 32
#: How long an echo is waited for; a tunnel tries for 30 seconds to find somebody who listens.
ECHO_S: Final = 60.0


class CutError(Exception):
    """A connection through a tunnel was cut off."""


def make_content(seed: int, size: int) -> bytes:
    """Bytes that both sides can make."""
    return random.Random(seed).randbytes(size)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def list_tree(seed: int, count: int) -> dict[str, bytes]:
    """The files of a tree, by their paths in it."""
    numbers = random.Random(seed)
    return {
        f"{'deep/' * (number % 3)}{number}": numbers.randbytes(numbers.randrange(20_000))
        for number in range(count)
    }


class Client:
    """One session at a time, and what it has by the names that it was given."""

    def __init__(self) -> None:
        self._location: Location | None = None
        self._containers: dict[str, Container] = {}
        self._processes: dict[str, Process] = {}
        self._saying = threading.Lock()

    def say(self, **what: Any) -> None:
        line = json.dumps(what).encode() + b"\n"
        with self._saying:
            view = memoryview(line)
            while view:
                view = view[os.write(1, view) :]

    def serve(self, call: dict[str, Any]) -> None:
        """Do what a call says, and answer it."""
        number = call.pop("id")
        operation: Callable[..., Any] = getattr(self, f"do_{call.pop('do')}")
        try:
            self.say(id=number, value=operation(**call))
        except CutError as exc:
            self.say(id=number, error="Cut", message=str(exc))
        except (TfnzError, OSError) as exc:
            self.say(id=number, error=type(exc).__name__, message=str(exc))
        except (
            Exception
        ) as exc:  # a fault of ours, or of the SDK: it is told like the others, and nobody permits it
            self.say(id=number, error=f"fault {type(exc).__name__}", message=str(exc))

    # --- sessions

    def do_connect(self, socket: str | None = None, account: str | None = None) -> None:
        self.do_disconnect()
        self._location = Location(account, socket=socket, quiet=True)

    def do_disconnect(self) -> None:
        location, self._location = self._location, None
        if location is not None:
            location.disconnect()

    def do_list(self, name: str = "") -> dict[str, str | None]:
        """The containers of this session, by their uuids, with their tags."""
        assert self._location is not None
        return {one.container: one.tag for one in self._location.containers() if one.mine}

    def do_forget(self, names: list[str]) -> None:
        """Nothing more is asked for these."""
        for name in names:
            self._containers.pop(name, None)
            self._processes.pop(name, None)

    # --- containers

    def do_spawn(
        self, name: str, command: list[str], files: dict[str, list[int]], **options: Any
    ) -> dict[str, str]:
        assert self._location is not None
        container = self._location.node().spawn(
            "busybox",
            command,
            pre_boot_files={path: make_content(seed, size) for path, (seed, size) in files.items()},
            stdout_callback=lambda _, data: self._on_output(name, data),
            termination_callback=lambda one, code: self._on_end(name, one, code),
            **options,
        )
        self._containers[name] = container
        return {"uuid": container.uuid, "ip": container.ip}

    def do_ready(self, name: str) -> None:
        self._containers[name].wait_until_ready()

    def do_start(self, name: str) -> None:
        self._containers[name].start()

    def do_reboot(self, name: str, reset: bool) -> None:
        self._containers[name].reboot(reset_filesystem=reset)

    def do_destroy(self, name: str, grace_s: float = 0.0) -> None:
        self._containers[name].destroy(grace_s=grace_s)

    def do_run(self, name: str, command: list[str], input: str = "") -> dict[str, Any]:
        result = self._containers[name].run(command, input=input)
        return {"code": result.exit_code, "stdout": result.stdout.decode(), "stderr": result.stderr.decode()}

    # --- processes

    def do_process(self, name: str, container: str, command: list[str], pty: bool = False) -> None:
        self._processes[name] = self._containers[container].spawn(
            command,
            pty=pty,
            interactive=False,
            data_callback=lambda _, data: self._on_output(name, data),
            termination_callback=lambda one, code: self._on_end(name, one, code),
        )

    def do_stdin(self, name: str, data: str) -> None:
        self._processes[name].stdin(data)

    def do_close_stdin(self, name: str) -> None:
        self._processes[name].close_stdin()

    def do_signal(self, name: str, number: int) -> None:
        self._processes[name].signal(number)

    # --- files

    def do_put(self, name: str, path: str, seed: int, size: int) -> None:
        self._containers[name].put(path, make_content(seed, size))

    def do_fetch(self, name: str, path: str) -> str | None:
        """The digest of a file, or None when there is none."""
        into = io.BytesIO()
        try:
            self._containers[name].fetch(path, into)
        except FileNotFoundError:
            return None
        return digest(into.getvalue())

    def do_put_tree(self, name: str, path: str, seed: int, count: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            for file, content in list_tree(seed, count).items():
                place = Path(directory, file)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            self._containers[name].put_tree(path, directory)

    def do_fetch_tree(self, name: str, path: str) -> dict[str, str]:
        """The digests of all files in a directory, by their paths in it; none when there is none."""
        with tempfile.TemporaryDirectory() as directory:
            try:
                self._containers[name].fetch_tree(path, directory)
            except FileNotFoundError:
                return {}
            files = [place for place in Path(directory).rglob("*") if place.is_file()]
            return {str(place.relative_to(directory)): digest(place.read_bytes()) for place in files}

    # --- the network

    def do_allow(self, name: str, peer: str) -> None:
        self._containers[name].allow_connection_from(self._containers[peer], 80)

    def do_disallow(self, name: str, peer: str) -> None:
        self._containers[name].disallow_connection_from(self._containers[peer])

    def do_echo(self, name: str, port: int, seed: int, size: int) -> str:
        """The digest of what comes back through a tunnel."""
        content, heard = make_content(seed, size), bytearray()
        tunnel = self._containers[name].attach_tunnel(port)
        try:
            with socket.create_connection(("127.0.0.1", tunnel.localport()), ECHO_S) as connection:
                sending = threading.Thread(target=_send, args=(connection, content))
                sending.start()
                try:
                    while len(heard) < size and (data := connection.recv(1 << 16)):
                        heard += data
                finally:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                    sending.join()
        except ConnectionError as exc:
            raise CutError(str(exc)) from exc
        finally:
            tunnel.close()
        if len(heard) < size and content.startswith(bytes(heard)):
            raise CutError(f"after {len(heard)} bytes")
        return digest(bytes(heard))

    # --- what callbacks hear

    def _on_output(self, name: str, data: bytes) -> None:
        self.say(event="output", name=name, data=data.decode())

    def _on_end(self, name: str, one: Container | Process, code: int) -> None:
        assert one.exit is not None
        end = one.exit
        self.say(
            event="end", name=name, cause=end.cause.value, code=end.code, signal=end.signal, returncode=code
        )


def _send(connection: socket.socket, content: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(content)


def main() -> None:
    client = Client()
    with ThreadPoolExecutor(THREADS) as threads:
        client.say(event="ready")
        for line in sys.stdin:
            threads.submit(client.serve, json.loads(line))  # whatever is raised is told
        client.do_disconnect()


if __name__ == "__main__":
    main()
