"""A program that is one container: what `tfnz run --systemd` leaves on a host."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .protocol.errors import ObjectDead

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
    when the container's main process runs and its ports are published.

    Args:
        published: an address and a port of this machine, and where they lead: a port of the container, or the path of
            a unix socket in it.
        options: as `Node.spawn` takes them.

    Raises:
        SystemExit: always, if nothing else.
        TfnzError: the container cannot be started, or its node was lost.
    """
    from .location import Location  # late: `tfnz --help` has no use for it

    env, files = _reveal(os.environ.pop(VARIABLE, '{"env": {}, "files": {}}'))
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
        with contextlib.suppress(ObjectDead):  # it is over already, which `end` is told
            for bind, local, target in published:
                container.attach_tunnel(target, localport=local, bind=bind)
        location.run()
    sys.exit(codes[0] if codes else 0)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
