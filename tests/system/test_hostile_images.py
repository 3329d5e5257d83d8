"""Images that are made to harm: refused with a reason, or harmless; nobody else notices, and nothing of them stays.

What the importer makes of each kind in detail is in tests/node/images; here it is what a node does, and a container.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.node.images.archives import Tar, as_json, configuration, docker_files, new_layout, pack, sha256
from tests.system.bystanders import undisturbed
from tests.system.conftest import IMAGES, RunningNode, import_images, make_node
from tests.system.memory import forget_peak, peak_bytes, resident_bytes
from tests.system.waiting import SOON_S, wait_for
from tfnz import Container, Location
from tfnz.protocol.errors import CommandNotFound, FileError, ImageInUse, ImageInvalid, TfnzError
from tfnz.protocol.exits import Cause

MIB = 1 << 20
STRICT = """
disk = "1G"
pool_size = 2
pool_max = 2
[images]
archive = "16M"
unpacked = "24M"
files = 2000
layers = 8
"""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node that takes small images only, so that large ones need not be made."""
    node = make_node(tmp_path_factory.mktemp("strict"), port=2027, settings=STRICT)
    try:
        node.start()
        import_images(node, "busybox")
        yield node
        node.stop()
    finally:
        node.kill()


# --- refused


def bomb() -> bytes:
    """A layer of zeros, more than the node takes."""
    return Tar().file("zeros", bytes(32 * MIB)).bytes()


def many_entries(count: int) -> bytes:
    """A compressed tar of so many members, made a part at a time."""
    header = tarfile.TarInfo("entry").tobuf()
    packer = zlib.compressobj(1, wbits=31)
    parts = [packer.compress(header * 10_000) for _ in range(count // 10_000)]
    return b"".join([*parts, packer.compress(bytes(1024)), packer.flush()])


def wide_window() -> bytes:
    """A small file of which its head says that a gibibyte of memory is needed to read it."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=30)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(Tar().file("a", b"x").bytes()) + packer.flush()


def lying_size() -> bytes:
    entry = tarfile.TarInfo("file")
    entry.size = 1 << 40
    return entry.tobuf() + bytes(100_000)


def layout(change: Callable[[dict[str, bytes], list[Any]], None]) -> bytes:
    """An image that was honest before the change."""
    made = new_layout()
    made.image([Tar().file("a", b"x" * 1000).bytes()], name="hostile")
    change(made.files, made.index)
    return made.bytes()


def lie_about_blob(files: dict[str, bytes], index: list[Any]) -> None:
    """The largest blob has another content than the digest says that it is called by."""
    name = max(files, key=lambda name: len(files[name]))
    files[name] = files[name].replace(b"xxx", b"yyy")


def lie_about_size(files: dict[str, bytes], index: list[Any]) -> None:
    index[0]["size"] += 1


def lie_about_reference(files: dict[str, bytes], index: list[Any]) -> None:
    index[0]["digest"] = "sha256:../../../../etc/passwd"


def image(config: Any, **fields: Any) -> bytes:
    layer = Tar().file("a", b"x").bytes()
    document = configuration([sha256(layer)], config, **fields)
    name = f"{sha256(document).removeprefix('sha256:')}.json"
    manifest = as_json([{"Config": name, "RepoTags": ["hostile:latest"], "Layers": ["layer.tar"]}])
    return pack({name: document, "layer.tar": layer, "manifest.json": manifest})


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a path that escapes": (
        lambda: Tar().file("../../../etc/cron.d/x", b"x").bytes(),
        r"'\.\./.* at offset 0",
    ),
    "a path that escapes in an extended header": (
        lambda: Tar().file("x", b"x", pax_headers={"path": "a/../../../etc/x"}).bytes(),
        "which leads out of the image, at offset",
    ),
    "a link to what is not in the tree": (
        lambda: Tar().hard_link("passwd", "/etc/passwd").bytes(),
        "not in the layer",
    ),
    "a link that leads out": (lambda: Tar().hard_link("x", "../../../../etc/passwd").bytes(), "at offset 0"),
    "ids that no container has": (lambda: Tar().file("x", uid=100_000).bytes(), "ids go from 0 to 65535"),
    "a depth without end": (lambda: Tar().file("/".join(["d"] * 1000)).bytes(), "at offset"),
    "an extended header without end": (
        lambda: Tar().file("x", pax_headers={"comment": "c" * (2 * MIB)}).bytes(),
        "extended header of .* bytes is over",
    ),
    "a bomb": (lambda: gzip.compress(bomb()), "the limit unpacked_bytes"),
    "a bomb of another kind": (lambda: lzma.compress(bomb(), preset=0), "the limit unpacked_bytes"),
    "a bomb of a third kind": (
        lambda: zstandard.ZstdCompressor().compress(bomb()),
        "the limit unpacked_bytes",
    ),
    "a bomb in a layer": (
        lambda: pack(docker_files([gzip.compress(bomb())])),
        "the limit unpacked_bytes",
    ),
    "a window that takes all memory": (wide_window, "is damaged: .*memory"),
    "five thousand entries": (
        lambda: b"".join(tarfile.TarInfo(f"{n}").tobuf() for n in range(5000)) + bytes(1024),
        "the limit entries is 2000",
    ),
    "a million entries": (lambda: many_entries(1_000_000), "the limit (entries|unpacked_bytes)"),
    "more bytes than an archive has": (
        lambda: Tar().file("x", os.urandom(17 * MIB)).bytes(),
        "the limit archive_bytes",
    ),
    "more layers than an image has": (
        lambda: pack(docker_files([Tar().file(f"{n}").bytes() for n in range(9)])),
        "the limit layers is 8",
    ),
    "a size that lies": (lying_size, "truncated"),
    "a blob that is not what its digest says": (lambda: layout(lie_about_blob), "does not have the digest"),
    "a size in the index that lies": (lambda: layout(lie_about_size), "size|bytes"),
    "a digest that is a path": (lambda: layout(lie_about_reference), r"sha256:\.\./"),
    "documents within documents": (lambda: pack({"manifest.json": b"[" * 100_000}), "cannot be read"),
    "a document without end": (
        lambda: pack({"manifest.json": b"[" + b" " * (5 * MIB)}),
        "the limit document_bytes",
    ),
    "a command without end": (lambda: image({"Cmd": ["a"] * 100_000}), "Entrypoint and Cmd has 100000 words"),
    "an environment without end": (lambda: image({"Env": ["A=" + "x" * MIB]}), "Env is longer"),
    "a user that is none": (lambda: image({"User": "root\nroot"}), "User "),
    "a directory that is none": (lambda: image({"WorkingDir": "/" + "x" * 5000}), "WorkingDir"),
    "a signal that is none": (lambda: image({"StopSignal": "9" * 100_000}), "StopSignal"),
    "a number where a text belongs": (lambda: image({"Entrypoint": 7}), "Entrypoint"),
    "another kind of machine": (lambda: image({}, architecture="z80"), "is for linux/z80"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_image_that_is_refused(strict: RunningNode, kind: str) -> None:
    """With its reason; the daemon keeps little of it in memory, and nothing on the disk."""
    make, words = REFUSED[kind]
    archive = make()
    assert strict.process is not None
    before = resident_bytes(strict.process.pid)
    forget_peak(strict.process.pid)
    with undisturbed(strict) as location:
        images = location.images()
        with pytest.raises(ImageInvalid, match=words) as caught:
            location.import_image(io.BytesIO(archive), "hostile")
        assert len(caught.value.message) < 2000
        assert location.images() == images
    assert peak_bytes(strict.process.pid) - before < 32 * MIB


# --- harmless


def import_hostile(location: Location, layer: Tar, config: Any = None) -> None:
    """An image of busybox with another layer above it."""
    archive = pack(docker_files([(IMAGES / "busybox.tar").read_bytes(), layer.bytes()], config=config))
    location.import_image(io.BytesIO(archive), "hostile")


def spawn_hostile(location: Location, **options: Any) -> Container:
    return location.node().spawn("hostile", ["sleep", "1000"], **options).wait_until_ready()


@pytest.fixture
def hostile(strict: RunningNode) -> Iterator[Location]:
    """A session whose image goes with it."""
    with undisturbed(strict) as location:
        yield location
        for container in location.node().all_containers():
            container.destroy()
        # The end of one that could not start is told before its disk is gone.
        wait_for(lambda: remove_image(location), SOON_S, "the image stays in use")


def remove_image(location: Location) -> bool:
    try:
        location.remove_image("hostile")
    except ImageInUse:
        return False
    return True


def read_busybox() -> bytes:
    with tarfile.open(IMAGES / "busybox.tar") as tar:
        member = next(one for one in tar.getmembers() if one.isfile() and one.name.endswith("/busybox"))
        file = tar.extractfile(member)
        assert file is not None
        return file.read()


def test_device_nodes_are_not_there(hostile: Location) -> None:
    layer = Tar().directory("srv")
    for number, (kind, major, minor) in enumerate(
        ((tarfile.BLKTYPE, 8, 0), (tarfile.BLKTYPE, 7, 0), (tarfile.CHRTYPE, 1, 1))
    ):
        layer.add(f"srv/device{number}", kind, devmajor=major, devminor=minor, mode=0o666)
        layer.add(f"dev/device{number}", kind, devmajor=major, devminor=minor, mode=0o666)
    import_hostile(hostile, layer)
    container = spawn_hostile(hostile)
    assert container.run("ls -A /srv; ls /dev | grep device").stdout == b""


def test_set_id_bits_and_capabilities_of_files_give_nobody_anything(hostile: Location) -> None:
    every = (0x2000001).to_bytes(4, "little") + b"\xff\xff\xff\xff" * 2 + b"\xff\x01\x00\x00" + bytes(4)
    capability = {"SCHILY.xattr.security.capability": every.decode("latin-1")}
    program = read_busybox()
    layer = Tar().file("srv/root/busybox", program, mode=0o6755)
    layer.file("srv/able/busybox", program, mode=0o755, pax_headers=capability)
    import_hostile(hostile, layer)
    container = spawn_hostile(hostile)
    assert container.run("stat -c %a /srv/root/busybox", check=True).stdout == b"6755\n"  # they are there
    assert container.run(["/srv/root/busybox", "id", "-u"], user="1000").stdout == b"1000\n"
    seen = {
        (name, user): container.run(
            [f"{name}/busybox", "grep", "CapEff", "/proc/self/status"], user=user
        ).stdout
        for name in ("/bin", "/srv/root", "/srv/able")
        for user in ("root", "1000")
    }
    assert {rights for (_, user), rights in seen.items() if user == "1000"} == {
        b"CapEff:\t0000000000000000\n"
    }
    assert {rights for (_, user), rights in seen.items() if user == "root"} == {seen["/bin", "root"]}


def test_links_out_of_the_tree_lead_nowhere(hostile: Location, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_bytes(b"the host's own")
    layer = Tar().symlink("absolute", str(canary)).symlink("relative", "../../../../../../.." + str(canary))
    layer.symlink("above", "/proc/1/root" + str(canary)).symlink("directory", str(tmp_path))
    import_hostile(hostile, layer)
    container = spawn_hostile(hostile)
    for name in ("absolute", "relative", "above", "directory/canary"):
        assert container.run(["cat", f"/{name}"]).stdout == b"", name
        with pytest.raises(FileError):
            container.fetch(f"/{name}")
        with pytest.raises(FileError):
            container.put(f"/{name}", b"hostile")
    assert canary.read_bytes() == b"the host's own"
    assert sorted(os.listdir(tmp_path)) == ["canary"]


@pytest.mark.parametrize(
    "target", ["/", "/proc/1/root", "/proc/self/cwd", "../../../../../../../..{}", "{}", "loop"]
)
@pytest.mark.parametrize("places", [("proc", "sys", "dev"), ("etc",), ("tmp", "bin/sh")])
def test_links_where_a_container_needs_directories(
    hostile: Location, tmp_path: Path, places: tuple[str, ...], target: str
) -> None:
    """It starts with its own, or says why it cannot; nothing is mounted or written elsewhere."""
    host = tmp_path / "host"
    host.mkdir()
    layer = Tar()
    for place in places:
        layer.symlink(place, target.format(host))
    import_hostile(hostile, layer)
    container = hostile.node().spawn(
        "hostile", ["/bin/busybox", "sleep", "1000"], pre_boot_files={"/etc/file": b"x"}
    )
    try:
        container.wait_until_ready()
    except TfnzError as exc:
        assert isinstance(exc, FileError) and "etc" in str(exc), exc
        assert container.wait(SOON_S).cause is Cause.FAILED_TO_START
    else:
        seen = container.run(["/bin/busybox", "cat", "/proc/self/mountinfo"], check=True).stdout.decode()
        for place in ("proc", "sys", "dev"):
            assert f" /{place} " in seen
    assert os.listdir(host) == []


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"Entrypoint": ["/proc/1/exe"]}, TfnzError, "/proc/1/exe"),
        ({"Entrypoint": ["/no/such"]}, CommandNotFound, "/no/such"),
        ({"Cmd": ["/bin/busybox", "true"], "User": "nobody-here"}, TfnzError, "nobody-here"),
        ({"Cmd": ["/bin/busybox", "true"], "User": "4294967295:0"}, TfnzError, "4294967295"),
        ({"Cmd": ["/bin/busybox", "true"], "WorkingDir": "/proc/1/root"}, TfnzError, "/proc/1/root"),
        ({"Cmd": ["/bin/busybox", "true"], "WorkingDir": "/etc/passwd"}, TfnzError, "/etc/passwd"),
    ],
)
def test_a_configuration_that_cannot_be_followed_says_so(
    hostile: Location, config: Any, error: type[TfnzError], words: str
) -> None:
    import_hostile(hostile, Tar().directory("srv"), config)
    container = hostile.node().spawn("hostile")
    with pytest.raises(error, match=words):
        container.wait_until_ready()
    assert container.wait(SOON_S).cause is Cause.FAILED_TO_START


@pytest.mark.parametrize(
    "config",
    [
        {"StopSignal": "SIGSTOP"},
        {"StopSignal": "SIGCONT"},
        {"StopSignal": "SIGRTMIN+1"},
        {"Env": ["LD_PRELOAD=/srv/none.so", "PATH=/nowhere", "HOME=/proc/1/root"]},
        {"WorkingDir": "/../../../../.."},
        {"ExposedPorts": {"22/tcp": {}, "65535/udp": {}}, "Labels": {"\x1b[2J": "\x1b]0;title\x07"}},
    ],
)
def test_a_strange_configuration_is_followed_inside(hostile: Location, config: Any) -> None:
    import_hostile(hostile, Tar().directory("srv"), {"Cmd": ["/bin/busybox", "sleep", "1000"], **config})
    container = hostile.node().spawn("hostile").wait_until_ready()
    assert container.run(["/bin/busybox", "echo", "fine"]).stdout == b"fine\n"
    container.destroy(grace_s=0.2)
    assert container.exit is not None and container.exit.cause in (Cause.DESTROYED, Cause.SIGNALLED), (
        container.exit
    )
