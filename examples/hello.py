"""Containers as function calls: a first program, on a private node of its own. Needs root, and no daemon.

python examples/hello.py [IMAGE_ARCHIVE] [--data-dir DIR]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from tfnz import Cause, CommandNotFound, Container, Exit, Location, Node, Secret

BUILD = Path(__file__).resolve().parent.parent / "build"


@contextmanager
def step(title: str) -> Iterator[list[str]]:
    """Tells how long a step took, and then what it has found out."""
    started, found = time.perf_counter(), list[str]()
    yield found
    print(f"{(time.perf_counter() - started) * 1000:8.1f} ms  {title}")
    for line in found:
        print(f"{'':13}{line}")


def say_hello(node: Node) -> None:
    said: dict[str, bytes] = {}

    def hear(container: Container, data: bytes) -> None:
        said[container.uuid] = said.get(container.uuid, b"") + data

    with step("five containers at once, each from spawn to its last word") as found:
        containers = [
            node.spawn("busybox", f"echo hello, $NAME; exit {code}", env={"NAME": name}, stdout_callback=hear)
            for code, name in enumerate(("Ada", "Grace", "Edsger", "Tony", "Barbara"))
        ]
        for code, container in enumerate(containers):
            end = container.wait(timeout_s=30)
            assert end.code == code
            found.append(f"{said[container.uuid].decode().strip()}, and {end}")


def work_in(box: Container, words: SimpleQueue[bytes]) -> None:
    with step("the file and the secret were there before it started; the secret is in memory only") as found:
        assert box.fetch("/etc/motd") == b"be kind\n"
        assert box.run("cat /run/password", check=True).stdout == b"correct horse"
        kind = box.run("stat -f -c %T /run/password", check=True).stdout.decode().strip()
        assert kind == "tmpfs"
        found.append(f"/run/password is on {kind}")
    with step("run: a command to its end, with input, output, errors and its exit code"):
        assert box.run("wc -c; echo oops >&2; exit 3", input=b"x" * 1000) == (b"1000\n", b"oops\n", 3)
    with step("spawn: a process to talk with") as found:
        process = box.spawn("while read n; do echo $((n * n)); done")
        process.stdin(b"7\n12\n")
        process.close_stdin()
        squares = b"".join(process).split()
        assert squares == [b"49", b"144"] and process.wait(timeout_s=30).ok
        found.append(f"7 and 12 squared are {b' and '.join(squares).decode()}")
    with step("put and fetch: a megabyte there and back"):
        box.put("/srv/data", megabyte := bytes(range(256)) * 4096)
        assert box.fetch("/srv/data") == megabyte
    with step("reboot: new processes, the same address, the same files") as found:
        address = box.ip
        box.reboot()
        assert box.ip == address and box.fetch("/srv/data") == megabyte
        assert words.get(timeout=30) == b"up\n"
        found.append(f"still at {address}")


def fail_well(node: Node) -> None:
    ends: list[Exit | None] = []

    def hear(container: Container, returncode: int) -> None:
        ends.append(container.exit)

    with step("a container that takes too much memory, and a callback that hears why it ended") as found:
        hog = node.spawn("busybox", "exec tail /dev/zero", memory="32M", termination_callback=hear)
        hog.wait(timeout_s=30)
        assert [end.cause for end in ends if end] == [Cause.OUT_OF_MEMORY]
        found.append(f"the callback heard: {ends[0]}")
    with step("a command that the image does not have; nobody else notices") as found:
        try:
            node.spawn("busybox", ["frobnicate"]).wait_until_ready()
            raise AssertionError("frobnicate has started")
        except CommandNotFound as error:
            found.append(f"CommandNotFound: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Containers as function calls.")
    parser.add_argument("image", nargs="?", type=Path, default=BUILD / "images" / "busybox.tar")
    parser.add_argument("--data-dir", type=Path, default=BUILD / "demo", help="of the private node")
    options = parser.parse_args()
    began = time.perf_counter()
    with step("a private node"):
        location = Location.embedded(options.data_dir)
    with location:
        node = location.node()
        with step(f"the image in {options.image.name}"):
            location.import_image(options.image, "busybox")
        say_hello(node)
        with step("a container that stays, from spawn to its first word"):
            password = Secret("correct horse")
            files: dict[str, str | Secret] = {"/etc/motd": "be kind\n", "/run/password": password}
            words = SimpleQueue[bytes]()
            box = node.spawn(
                "busybox",
                "echo up; exec sleep 1000",
                pre_boot_files=files,
                stdout_callback=lambda _, data: words.put(data),
            )
            box.wait_until_ready()
            assert words.get(timeout=30) == b"up\n"
        work_in(box, words)
        fail_well(node)
        with step("the end of the session, of the node, and of all they made"):
            location.disconnect()
    assert box.exit is not None and box.exit.cause is Cause.DESTROYED
    print(f"{(time.perf_counter() - began) * 1000:8.1f} ms  in all")


if __name__ == "__main__":
    main()
