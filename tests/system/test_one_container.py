"""What `tfnz run --systemd` deploys, run as systemd would: ready when its container is, and as long as that one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.system.waiting import SOON_S
from tfnz.accounts import set_default_location
from tfnz.cli.arguments import Publication
from tfnz.cli.service import plan_service

if TYPE_CHECKING:
    from tests.system.people import Person

OPTIONS: dict[str, Any] = {"env": {}, "pre_boot_files": {}}
#: Of no other test, and not of those that the kernel chooses.
PORT = 2091
#: Says what it has been given, and then whatever anybody who connects says.
SERVICE = 'echo "$GREETING"; cat /etc/secret >&2; exec nc -l -p 8080'


class Service:
    """The program, with what a unit gives it."""

    def __init__(self, ada: Person, scratch: Path, app: dict[str, Any]) -> None:
        with ada.at_home():
            set_default_location(ada.account.name)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener.bind(str(scratch / "notify"))
        self.process = subprocess.Popen(
            [sys.executable, app["source"]],
            env={
                **os.environ,
                **app["secret_environment"],
                "TFNZ_HOME": str(ada.home),
                "NOTIFY_SOCKET": str(scratch / "notify"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def await_ready(self) -> None:
        assert select.select([self._listener], [], [], SOON_S)[0], "it does not become ready"
        assert self._listener.recv(100).startswith(b"READY=1")

    @property
    def was_ready(self) -> bool:
        return bool(select.select([self._listener], [], [], 0)[0])

    def finish(self) -> tuple[int, bytes, bytes]:
        out, err = self.process.communicate(timeout=SOON_S)
        return self.process.returncode, out, err

    def close(self) -> None:
        self._listener.close()
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def service(ada: Person, scratch: Path, *command: str, **options: Any) -> Iterator[Service]:
    publications = options.pop("publications", ())
    app = plan_service(scratch, "busybox", command, publications=publications, options={**OPTIONS, **options})
    one = Service(ada, scratch, app)
    try:
        yield one
    finally:
        one.close()


def test_it_is_ready_when_its_ports_lead_to_it_and_ends_as_it_does(ada: Person, tmp_path: Path) -> None:
    with service(
        ada,
        tmp_path,
        "sh",
        "-c",
        SERVICE,
        publications=(Publication(PORT, 8080),),
        env={"GREETING": "hello"},
        pre_boot_files={"/etc/secret": b"hush\n"},
    ) as one:
        one.await_ready()
        with socket.create_connection(("127.0.0.1", PORT), timeout=SOON_S) as client:
            client.sendall(b"by the tunnel\n")
            client.shutdown(socket.SHUT_WR)
            code, out, err = one.finish()
        assert (code, out) == (0, b"hello\nby the tunnel\n") and b"hush\n" in err


def test_its_exit_code_is_the_container_s(ada: Person, tmp_path: Path) -> None:
    with service(ada, tmp_path, "sh", "-c", "echo oh dear >&2; exit 7") as one:
        code, out, err = one.finish()
        assert (code, out) == (7, b"") and b"oh dear\n" in err


def test_the_main_process_is_asked_to_end_first(ada: Person, tmp_path: Path) -> None:
    words = "trap 'echo goodbye; exit 3' TERM; echo hello; while :; do sleep 0.01; done"
    with service(ada, tmp_path, "sh", "-c", words) as one:
        assert one.process.stdout is not None and one.process.stdout.read(6) == b"hello\n"
        one.await_ready()
        one.process.send_signal(signal.SIGINT)
        code, out, _ = one.finish()
        assert (code, out) == (0, b"goodbye\n")


def test_it_ends_as_units_are_stopped_and_leaves_nothing(ada: Person, tmp_path: Path) -> None:
    with service(
        ada, tmp_path, "sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait", tag="one-service"
    ) as one:
        one.await_ready()
        with ada.location() as location:
            assert [info.tag for info in location.containers()] == ["one-service"]
            one.process.send_signal(signal.SIGINT)
            assert one.finish()[0] == 0
            assert location.containers() == []


def test_what_cannot_start_never_becomes_ready(ada: Person, tmp_path: Path) -> None:
    with service(ada, tmp_path, "absent-command") as one:
        code, out, err = one.finish()
        assert (code, out) == (127, b"") and b"absent-command" in err
        assert not one.was_ready
