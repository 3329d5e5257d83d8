"""Bad input: each kind has its own clear error, at once, and costs nothing else."""

from __future__ import annotations

import io
import os
import queue
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.raw_client import raw_client
from tests.system.waiting import SOON_S
from tfnz import Container, Location, Node, Secret
from tfnz.protocol.errors import (
    CommandNotFound,
    DiskFull,
    FileError,
    ImageError,
    ImageInUse,
    ImageInvalid,
    ImageNotFound,
    InvalidArgument,
    PathIsDirectory,
    PathNotFound,
    PathRefused,
    TagInUse,
    TfnzError,
    UserNotFound,
    WorkdirUnusable,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    FetchFile,
    Limits,
    PreBootFile,
    PutFile,
    RequestBody,
    SpawnContainer,
    StartProcess,
    Streams,
)

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

IMAGES = Path(__file__).parents[2] / "build" / "images"


@pytest.fixture
def spawner(location: Location) -> Iterator[Node]:
    """A node on which one container runs and another is spawned after the test: neither notices anything."""
    spawner = location.node()
    bystander = spawner.spawn("busybox", ["sleep", "1000"])
    yield spawner
    assert bystander.run("echo fine").stdout == b"fine\n"
    assert spawner.spawn("busybox", ["true"]).wait(SOON_S) == Exit(Cause.EXITED, 0)
    assert spawner.all_containers() == [bystander]


# --- what spawn refuses before it has begun


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"image": "no-such-image"}, ImageNotFound, "no image 'no-such-image': import it"),
        ({"image": "../../etc"}, InvalidArgument, "'../../etc' is not an image name"),
        ({"image": "busy\0box"}, InvalidArgument, "is not an image name"),
        ({"image": ""}, InvalidArgument, "image is ''"),
        ({"image": "i" * 300}, InvalidArgument, "image is 'iii"),
        ({"command": ""}, InvalidArgument, "command is empty"),
        ({"command": []}, InvalidArgument, "command is empty"),
        ({"command": ["echo", "a\0b"]}, InvalidArgument, "contains a NUL"),
        ({"command": ["echo", 5]}, InvalidArgument, "5 of a command is no string"),
        ({"command": "echo \ud800"}, InvalidArgument, "cannot be sent: .*surrogates"),
        ({"command": "#" * 121 * 1024}, InvalidArgument, "command and environment are .* bytes.*into a file"),
        ({"command": "#" * (1 << 20)}, InvalidArgument, r"command\[.*\] cannot be used: .* length <= 131072"),
        ({"env": {"A=B": "x"}}, InvalidArgument, "variable called 'A=B': .* no '='"),
        ({"env": {"": "x"}}, InvalidArgument, "variable called '': a name is not empty"),
        ({"env": {"A\0": "x"}}, InvalidArgument, "no '=' or NUL"),
        ({"env": {"A": "x\0"}}, InvalidArgument, "gives A a value with a NUL"),
        ({"env": ["A"]}, InvalidArgument, "env is of type list: it must look like"),
        ({"env": {"A": "x" * 130_000}}, InvalidArgument, "command and environment are 130.* bytes"),
        (
            {"env": {f"V{n}": "" for n in range(5000)}},
            InvalidArgument,
            "env cannot be used: .* length <= 4096",
        ),
        ({"memory": "1K"}, InvalidArgument, r"memory=1024 is below the minimum of 4194304 bytes \(4M\)"),
        ({"memory": -1}, InvalidArgument, "memory is negative"),
        ({"memory": "much"}, InvalidArgument, "memory is 'much', which is no size"),
        ({"memory": float("nan")}, InvalidArgument, "memory is nan, which is no size"),
        ({"memory": 1 << 80}, InvalidArgument, "memory is more than 1024P"),
        ({"memory": 1 << 55}, InvalidArgument, "memory_bytes cannot be used"),
        ({"disk": "1K"}, InvalidArgument, "disk=1024 is below the minimum of 1048576"),
        ({"disk": -1}, InvalidArgument, "disk is negative"),
        ({"cpus": float("nan")}, InvalidArgument, "cpus is nan"),
        ({"cpus": float("inf")}, InvalidArgument, "cpus is inf"),
        ({"cpus": -1}, InvalidArgument, "cpus is -1"),
        ({"cpus": 0.001}, InvalidArgument, "cpus=0.001 is below the minimum of 0.01"),
        ({"pids": 0}, InvalidArgument, "pids is 0"),
        ({"pids": 1}, InvalidArgument, "pids=1 is below the minimum of 2"),
        ({"pids": 1 << 40}, InvalidArgument, "pids is 1099511627776"),
        ({"timeout_s": float("nan")}, InvalidArgument, "timeout_s is nan"),
        ({"timeout_s": 0}, InvalidArgument, "timeout_s is 0"),
        ({"timeout_s": 1e300}, InvalidArgument, "timeout_s is 1e"),
        ({"tag": "bad tag!"}, InvalidArgument, "tag 'bad tag!' is not valid: use"),
        ({"tag": ""}, InvalidArgument, "tag '' is not valid"),
        ({"size": (0, 24)}, InvalidArgument, "0 columns"),
        ({"user": "a\0b"}, InvalidArgument, "NUL"),
        ({"user": "u" * 300}, InvalidArgument, "user cannot be used: .* length <= 255"),
        ({"workdir": "/a\0b"}, InvalidArgument, "no path in a container"),
        ({"workdir": "../.."}, PathRefused, "'../..' leaves the container"),
        ({"volumes": [("data", "/data")]}, InvalidArgument, "volumes come with a later release"),
        (
            {"pre_boot_files": {"/../etc/passwd": b""}},
            InvalidArgument,
            r"'/\.\./etc/passwd': it may not have '\.\.'",
        ),
        ({"pre_boot_files": {"/a/../../b": b""}}, InvalidArgument, r"may not have '\.\.'"),
        ({"pre_boot_files": {"relative": b""}}, InvalidArgument, "'relative': it must be absolute"),
        ({"pre_boot_files": {"/directory/": b""}}, InvalidArgument, "'/directory/': it must .* name a file"),
        ({"pre_boot_files": {"/a\0b": b""}}, InvalidArgument, "NUL"),
        ({"pre_boot_files": {"/a": 5}}, InvalidArgument, "gives /a int: use bytes, str or Secret"),
        (
            {"pre_boot_files": ("/a", b"x")},
            InvalidArgument,
            "pre_boot_files is of type tuple: it must look like",
        ),
        (
            {"pre_boot_files": {"/a": bytes(33 << 20)}},
            InvalidArgument,
            "hold 34603008 bytes, more than 33554432",
        ),
        ({"pre_boot_files": {f"/{n}": b"" for n in range(2000)}}, InvalidArgument, "files cannot be used"),
    ],
)
def test_spawn_refuses_and_says_why(
    spawner: Node, options: dict[str, Any], error: type[TfnzError], words: str
) -> None:
    with pytest.raises(error, match=words):
        spawner.spawn(**{"image": "busybox", "command": ["true"]} | options)


def test_a_tag_that_is_used(spawner: Node) -> None:
    first = spawner.spawn("busybox", ["sleep", "1000"], tag="only-one")
    for tag in ("only-one", "Only-One"):
        with pytest.raises(TagInUse, match="only-one"):
            spawner.spawn("busybox", ["true"], tag=tag)
    first.destroy()


# --- what only starting reveals


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"command": ["no-such-command"]},
            CommandNotFound,
            "no command no-such-command in the container .PATH is",
        ),
        ({"command": ["/no/such/file"]}, CommandNotFound, "/no/such/file"),
        ({"user": "stranger"}, UserNotFound, "no user stranger in the container's /etc/passwd"),
        ({"user": "70000"}, UserNotFound, "70000 is not within"),
        ({"workdir": "/etc/passwd"}, WorkdirUnusable, "/etc/passwd: Not a directory"),
        ({"pre_boot_files": {"/etc": b""}}, PathIsDirectory, "pre-boot file /etc: /etc is a directory"),
        (
            {"pre_boot_files": {"/etc/passwd/x": b""}},
            FileError,
            "pre-boot file /etc/passwd/x: .*Not a directory",
        ),
        (
            {"pre_boot_files": {"/proc/self/root/x": b""}},
            PathRefused,
            "pre-boot file /proc/self/root/x: .*magic link",
        ),
        (
            {"pre_boot_files": {"/proc/sys/kernel/core_pattern": b"|/x"}},
            FileError,
            "core_pattern is in /proc",
        ),
        ({"pre_boot_files": {"/" + "n" * 300: b""}}, FileError, "longer than 255"),
        (
            {"pre_boot_files": {"/big": os.urandom(4 << 20)}, "disk": "1M"},
            DiskFull,
            "/big: .* used up its disk",
        ),
    ],
)
def test_a_container_that_cannot_start_says_why(
    spawner: Node, options: dict[str, Any], error: type[TfnzError], words: str
) -> None:
    ends: queue.SimpleQueue[int] = queue.SimpleQueue()
    container = spawner.spawn(
        **{"image": "busybox", "command": ["true"]} | options,
        termination_callback=lambda _, code: ends.put(code),
    )
    with pytest.raises(error, match=words):
        container.wait_until_ready()
    assert container.wait(SOON_S).cause is Cause.FAILED_TO_START
    with pytest.raises(error, match=words):
        container.run("true")
    assert ends.get(timeout=SOON_S) == 127


# --- files of a container


@pytest.fixture
def container(spawner: Node) -> Iterator[Container]:
    one = spawner.spawn("busybox", ["sleep", "1000"])
    yield one
    one.destroy()


def test_put_through_a_link_at_the_host(container: Container, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_bytes(b"the host's own")
    container.run(["ln", "-s", str(canary), "/link"])
    with pytest.raises(
        PathRefused, match=f"/link is a symbolic link to {canary}, which does not exist in the container"
    ):
        container.put("/link", b"hostile")
    assert canary.read_bytes() == b"the host's own"


def test_fetch_of_a_directory(container: Container) -> None:
    with pytest.raises(PathIsDirectory, match="/etc is a directory") as caught:
        container.fetch("/etc")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("path", "data", "options", "error", "words"),
    [
        ("", b"", {}, InvalidArgument, "'' is no path"),
        ("/a\0b", b"", {}, InvalidArgument, "is no path"),
        ("/" + "p/" * 2100, b"", {}, InvalidArgument, "is no path"),
        ("/" + "n" * 256, b"", {}, FileError, "longer than 255 bytes"),
        ("/\ud800", b"", {}, InvalidArgument, "cannot be sent: .*surrogates"),
        ("/f", b"", {"mode": 0o10000}, InvalidArgument, "mode cannot be used: expected `int` <= 4095"),
        ("/f", b"", {"mode": -1}, InvalidArgument, "mode cannot be used"),
        ("/f", 5, {}, InvalidArgument, "input is bytes, not int"),
        ("/f", io.StringIO("text"), {}, InvalidArgument, "open it in binary mode"),
    ],
)
def test_put_refuses_and_says_why(
    container: Container, path: str, data: Any, options: dict[str, int], error: type[TfnzError], words: str
) -> None:
    with pytest.raises(error, match=words):
        container.put(path, data, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"command": ""}, "command is empty"),
        ({"command": "true", "user": "a\0b"}, "NUL"),
        ({"command": "true", "user": "u" * 256}, "user cannot be used"),
        ({"command": "true", "env": {"A=": "x"}}, "variable called 'A='"),
        ({"command": "true", "env": {"A": "x" * 130_000}}, "command and environment are 130.* bytes"),
        ({"command": "true", "timeout_s": float("nan")}, "timeout_s is nan"),
        ({"command": "true", "timeout_s": -1}, "timeout_s is -1"),
    ],
)
def test_run_refuses_and_says_why(container: Container, options: dict[str, Any], words: str) -> None:
    for act in (container.run, container.spawn):
        with pytest.raises(InvalidArgument, match=words):
            act(**options)


# --- images


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (b"", "archive is empty"),
        (b"no tar at all\n" * 100, "not an image archive; send a tar"),
        (bytes(range(256)) * 400, "not an image archive"),
        ((IMAGES / "busybox.tar").read_bytes()[:1_000_000], "truncated"),
    ],
)
def test_a_malformed_archive(location: Location, archive: bytes, words: str) -> None:
    before = location.images()
    with pytest.raises(ImageInvalid, match=words):
        location.import_image(io.BytesIO(archive), "malformed")
    assert location.images() == before


@pytest.mark.parametrize(
    ("image", "spot"),
    [
        ("python.tar", 1 << 20),  # a byte of some file
        ("nginx-oci.tar", 4),  # the time in the header of gzip: unpacked, it would be the same
    ],
)
def test_an_archive_whose_digest_lies(location: Location, tmp_path: Path, image: str, spot: int) -> None:
    """Somebody has changed one byte of the largest layer on its way: it is not what its digest says."""
    archive = tmp_path / image
    shutil.copyfile(IMAGES / image, archive)
    with tarfile.open(archive) as tar:
        layer = max(tar.getmembers(), key=lambda member: member.size)
    with archive.open("r+b") as file:
        file.seek(layer.offset_data + spot)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    before = location.images()
    with pytest.raises(ImageInvalid, match=r"does not have the digest that names it: .* says sha256:\w{64}"):
        location.import_image(archive, "liar")
    assert location.images() == before


def test_images_that_are_not_there_or_in_use(
    location: Location, container: Container, tmp_path: Path
) -> None:
    with pytest.raises(PathNotFound, match="no image archive at '/no/such.tar'"):
        location.import_image("/no/such.tar", "x")
    with pytest.raises(ImageInvalid, match="is no OCI layout"):
        location.import_image(tmp_path, "x")
    with pytest.raises(InvalidArgument, match="'Bad Name' is not an image name"):
        location.import_image(IMAGES / "busybox.tar", "Bad Name")
    refused: list[tuple[str, type[ImageError]]] = [("no-such", ImageNotFound), ("busybox", ImageInUse)]
    for name, error in refused:
        with pytest.raises(error, match=name):
            location.remove_image(name)
    assert container.run("echo fine").stdout == b"fine\n"


# --- past the SDK


def spawn(image: str = "busybox", *, command: Sequence[str] = ("true",), **fields: Any) -> SpawnContainer:
    return SpawnContainer(image, Streams(0, 1), command=list(command), **fields)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (spawn("no-such"), "image_not_found", "no-such"),
        (spawn(env=[("A=B", "")]), "invalid_argument", "'A=B'"),
        (spawn(env=[("A", "\0")]), "invalid_argument", "NUL"),
        (spawn(command=["a\0"]), "invalid_argument", "NUL"),
        (spawn(tag="a/b"), "invalid_argument", "tag 'a/b'"),
        (
            spawn(limits=Limits(memory_bytes=0)),
            "invalid_argument",
            "memory=0",
        ),
        (
            spawn(files=[PreBootFile("/../x", b"")]),
            "path_refused",
            "leaves",
        ),
        (
            spawn(files=[PreBootFile("x", b"")]),
            "path_refused",
            "not absolute",
        ),
        (StartProcess("no-such", ["true"], Streams(0, 1, 2)), "container_not_found", "no-such"),
        (PutFile("no-such", "/x", 1), "container_not_found", "no-such"),
        (FetchFile("no-such", "/x", 1), "container_not_found", "no-such"),
    ],
)
def test_the_node_does_not_rely_on_the_client(
    node: RunningNode, body: RequestBody, code: str, words: str
) -> None:
    with raw_client(f"unix:{node.socket}") as client:
        client.greet()
        answer = client.ask(body)
        assert isinstance(answer, TfnzError), answer
        assert answer.code == code
        assert words in answer.message


def test_a_secret_that_was_not_sealed_to_this_node(spawner: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Secret, "seal", lambda self, key: bytes(100))
    container = spawner.spawn("busybox", ["true"], pre_boot_files={"/key": Secret(b"x")})
    with pytest.raises(InvalidArgument, match="sealed"):
        container.wait_until_ready()
