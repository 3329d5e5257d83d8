"""A program that is one container: what `tfnz run --systemd` leaves on a host."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from .protocol.errors import ObjectDead, StartFailed, TfnzError

if TYPE_CHECKING:
    from .container import Container

log = logging.getLogger(__name__)

#: How long the main process has to end when it is asked to; systemd waits for the program for longer.
GRACE_S: Final = 20.0
#: The environment variable with what only the program may read.
VARIABLE: Final = "TFNZ_CONTAINER"


def conceal(env: Mapping[str, str], files: Mapping[str, bytes]) -> str:
    """The value of `VARIABLE` for a container with these environment variables and pre-boot files."""
    encoded = {path: base64.b64encode(content).decode() for path, content in files.items()}
    return json.dumps({"env": dict(env), "files": encoded})


def _reveal(value: str) -> tuple[dict[str, str], dict[str, bytes]]:
    found = json.loads(value)
    return found["env"], {path: base64.b64decode(content) for path, content in found["files"].items()}


def run_container(
    image: str,
    command: Sequence[str] | None = None,
    *,
    published: Sequence[tuple[str, int, int | str]] = (),
    **options: Any,
) -> None:
    """Run a container at the default location for as long as this program, which ends with it, and with its exit code.

    Environment variables and pre-boot files are what `VARIABLE` says, see `conceal`. For systemd the program is ready
    when the container's main process runs and its ports are published. A first SIGINT or SIGTERM has the container end
    as its image wants it, within `GRACE_S`; then the program has done its work, and its exit code is 0.

    Args:
        published: an address and a port of this machine, and where they lead: a port of the container, or the path of
            a unix socket in it.
        options: as `Node.spawn` takes them.

    Raises:
        SystemExit: always, if nothing else.
        TfnzError: the container cannot be made, or its node was lost.
    """
    from .location import Location  # late: `tfnz --help` has no use for it

    env, files = _reveal(os.environ.pop(VARIABLE, conceal({}, {})))
    codes: list[int] = []
    with Location() as location:

        def end(_: object, code: int) -> None:
            codes.append(code)
            location.complete()

        container = location.node().spawn(
            image,
            command,
            env=env,
            pre_boot_files=files,
            pty=False,
            stdin=False,
            stdout_callback=lambda _, data: _write(sys.stdout.fileno(), data),
            stderr_callback=lambda _, data: _write(sys.stderr.fileno(), data),
            termination_callback=end,
            **options,
        )
        with _ending(container) as asked:
            try:
                container.wait_until_ready()
                for bind, local, target in published:
                    container.attach_tunnel(target, localport=local, bind=bind)
            except (ObjectDead, StartFailed) as exc:  # it is over already
                said = container.exit
                log.error("it does not run: %s", exc)
                sys.exit(said.returncode if said is not None else 1)
            location.run()
    sys.exit(0 if asked or not codes else codes[0])


@contextlib.contextmanager
def _ending(container: Container) -> Iterator[list[int]]:
    """Inside, the first signal that asks us to end has the container end; what came is in the list."""
    asked: list[int] = []

    def end() -> None:
        with contextlib.suppress(TfnzError):  # its own end is told in any case
            container.destroy(grace_s=GRACE_S)

    def on_signal(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        threading.Thread(target=end, name="end", daemon=True).start()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
