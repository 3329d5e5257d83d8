"""Keeps a node busy until its power goes, and looks afterwards at what has come back.

busy.py keep RECORD    spawn, write, end and import for ever; write down each image that the node has confirmed
busy.py check RECORD   see that nothing runs but two applications' containers, that every image that was confirmed is
                       there, and that all there are whole
"""

from __future__ import annotations

import io
import itertools
import os
import sys
import tarfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from tfnz import Location, Node

#: What stays, of the images that it makes; the others are removed again.
KEPT = 2
#: Containers that the scenario's applications have, one each, and how long it may take until there is nothing else.
APPLICATIONS, REST_S = 2, 120
FILES, FILE_BYTES = 8, 128 * 1024
PRINT = "i=0; while true; do echo $i; i=$((i+1)); usleep 100000; done"
#: Between one thing and the next: without hardware virtualisation nobody could log in any more.
PAUSE_S = 2.0


def keep(location: Location, record: Path) -> None:
    """Several things at a time, none of which ends by itself."""
    node = location.node()
    for _ in range(3):
        node.spawn("busybox", PRINT, stdout_callback=lambda _, data: None)
    for work in (lambda: import_for_ever(location, record), lambda: churn(node), lambda: churn(node)):
        threading.Thread(target=die_with(work), daemon=True).start()
    location.run()


def die_with(work: Callable[[], None]) -> Callable[[], None]:
    """`work`, whose failure is that of the program."""

    def wrapped() -> None:
        try:
            work()
        finally:
            traceback.print_exc()
            os._exit(1)

    return wrapped


def churn(node: Node) -> None:
    """Containers that come, write and go."""
    while True:
        container = node.spawn("busybox", "exec sleep 3600", pre_boot_files={"/early": os.urandom(4096)})
        container.put("/late", os.urandom(FILE_BYTES))
        container.run("cat /early /late >/both")
        container.destroy()
        time.sleep(PAUSE_S)


def import_for_ever(location: Location, record: Path) -> None:
    """Images that were never there before, and the removal of the oldest. A line of the record says `+` when an image
    has been confirmed, and `-` before its removal is asked for."""
    with TemporaryDirectory() as folder, record.open("a") as confirmed:
        tools = location.node().spawn("busybox", "exec sleep 3600")
        tools.fetch_tree("/bin", folder)

        def note(line: str) -> None:
            confirmed.write(f"{line}\n")
            confirmed.flush()
            os.fsync(confirmed.fileno())

        for number in itertools.count():
            location.import_image(make_image(Path(folder)), f"busy-{number}")
            note(f"+busy-{number}")
            if number >= KEPT:
                note(f"-busy-{number - KEPT}")
                location.remove_image(f"busy-{number - KEPT}")
            time.sleep(PAUSE_S)


def make_image(tools: Path) -> io.BytesIO:
    """A root file system with files that nobody has seen before, and their digests."""
    made, sums = io.BytesIO(), []
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add(tools, "bin")
        for index in range(FILES):
            content = os.urandom(FILE_BYTES)
            sums.append(f"{sha256(content).hexdigest()}  /data/{index}\n")
            add(archive, f"data/{index}", content)
        add(archive, "sums", "".join(sums).encode())
    made.seek(0)
    return made


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def check(location: Location, record: Path) -> None:
    """Ends the program with what is wrong."""
    wait_for_rest(location.node())
    lines = record.read_text().split()
    expected = {line[1:] for line in lines if line[0] == "+"} - {line[1:] for line in lines if line[0] == "-"}
    there = {name.removesuffix(":latest") for image in location.images() for name in image.names}
    if missing := expected - there:
        sys.exit(f"confirmed and not there: {', '.join(sorted(missing))}")
    for name in sorted(name for name in there if name.startswith("busy-")):
        verify(location.node(), name)
    print(f"{len(expected)} confirmed, all there are whole: {', '.join(sorted(there))}")


def wait_for_rest(node: Node) -> None:
    """Until each init of the machine is that of a container which somebody has, or is kept ready."""
    deadline = time.monotonic() + REST_S
    while True:
        status = node.status()
        inits = sum(name == "tfnz-init" for name in find_commands())
        if (status.containers, inits) == (APPLICATIONS, APPLICATIONS + status.sandboxes_ready):
            return
        if time.monotonic() > deadline:
            sys.exit(
                f"{status.containers} containers, {status.sandboxes_ready} kept ready, but {inits} inits"
            )
        time.sleep(1)


def find_commands() -> Iterator[str]:
    """What each process calls itself."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # it has ended since
            yield path.read_text().strip()


def verify(node: Node, name: str) -> None:
    """Has an image compare its own files with the digests that came with them."""
    said = bytearray()
    container = node.spawn(
        name, ["/bin/sha256sum", "-c", "/sums"], stdout_callback=lambda _, data: said.extend(data)
    )
    if container.wait().code != 0:
        sys.exit(f"{name} is damaged:\n{said.decode()}")


with Location() as at:
    {"keep": keep, "check": check}[sys.argv[1]](at, Path(sys.argv[2]))
