"""Root file systems, seen from outside and by a process of the container's user namespace."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tfnz.protocol.errors import InternalError, InvalidArgument, StartFailed
from tfnz_node.kernel import syscalls
from tfnz_node.kernel.mountinfo import list_mounts
from tfnz_node.rootfs.overlay import build_rootfs, plan_options
from tfnz_node.storage.base import Storage
from tfnz_node.storage.btrfs import BtrfsStorage

BASE = 1_000_000
QUOTA_BYTES = 32 << 20
MakeUserNamespace = Callable[[int], int]

# Becomes the container's root, in its user namespace and in the directory, and runs the statements it is given.
_INSIDE = """
import errno, os, stat, sys
from tfnz_node.kernel import syscalls
os.fchdir(int(sys.argv[1]))
os.chroot(".")
syscalls.setns(int(sys.argv[2]), syscalls.CLONE_NEWUSER)
os.setgroups([])
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
exec(sys.argv[3])
"""


def _inside(root: int, userns: int, statements: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _INSIDE, str(root), str(userns), statements],
        pass_fds=[root, userns],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _layer(storage: Storage, name: str, files: dict[str, str]) -> Path:
    layer = storage.root / "layers" / name
    layer.mkdir()
    for path, content in files.items():
        (layer / path).parent.mkdir(parents=True, exist_ok=True)
        (layer / path).write_text(content)
    return layer


def _list(root: int) -> list[str]:
    fd = os.open(".", os.O_RDONLY, dir_fd=root)
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


@pytest.fixture
def layers(storage: Storage) -> Sequence[Path]:
    bottom = _layer(storage, "bottom", {"both": "bottom", "gone": "x", "etc/passwd": "root"})
    top = _layer(storage, "top", {"both": "top"})
    os.mknod(top / "gone", stat.S_IFCHR, os.makedev(0, 0))  # overlay's own mark of a deletion
    os.mknod(top / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    return [top, bottom]


def test_the_top_layer_wins_and_deletions_count(
    storage: Storage, layers: Sequence[Path], staging: Path, make_userns: MakeUserNamespace
) -> None:
    userns = make_userns(BASE)
    root = build_rootfs(layers, storage.create_scratch("c1", QUOTA_BYTES), userns, staging, BASE)
    assert _list(root) == ["both", "disk", "etc"]
    assert _inside(root, userns, "print(open('/both').read())") == "top"
    os.close(root)


def test_ids_are_the_containers_inside_and_small_on_disk(
    storage: Storage, layers: Sequence[Path], staging: Path, make_userns: MakeUserNamespace
) -> None:
    userns = make_userns(BASE)
    scratch = storage.create_scratch("c1", QUOTA_BYTES)
    root = build_rootfs(layers, scratch, userns, staging, BASE)
    assert os.stat("etc/passwd", dir_fd=root).st_uid == BASE
    said = _inside(
        root,
        userns,
        "os.mkdir('/new'); os.chown('/new', 33, 44); open('/etc/passwd', 'a').write('more');"
        "print(os.stat('/').st_uid, os.stat('/etc/passwd').st_uid, os.stat('/new').st_gid)",
    )
    assert said == "0 0 44"
    on_disk = (scratch / "u" / "new").stat()
    assert (on_disk.st_uid, on_disk.st_gid) == (33, 44)
    assert (scratch / "u" / "etc" / "passwd").stat().st_uid == 0
    assert (layers[1] / "etc" / "passwd").read_text() == "root"
    os.close(root)


def test_a_file_system_without_id_maps_is_named(
    storage: Storage, staging: Path, make_userns: MakeUserNamespace, tmp_path: Path
) -> None:
    """tmpfs is such a one before Linux 6.3; a ramfs always."""
    layer = tmp_path / "ram"
    layer.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "none", layer], check=True)
    try:
        scratch = storage.create_scratch("c1", QUOTA_BYTES)
        with pytest.raises(
            StartFailed, match=f"maps no ids in the file system of {layer}, .*tfnz-node doctor"
        ):
            build_rootfs([layer], scratch, make_userns(BASE), staging, BASE)
    finally:
        subprocess.run(["umount", layer], check=True)


def test_a_device_node_of_a_layer_cannot_be_opened(
    storage: Storage, layers: Sequence[Path], staging: Path, make_userns: MakeUserNamespace
) -> None:
    root = build_rootfs(layers, storage.create_scratch("c1", QUOTA_BYTES), make_userns(BASE), staging, BASE)
    with pytest.raises(PermissionError):
        os.open("disk", os.O_RDONLY, dir_fd=root)
    os.close(root)


def test_nothing_is_left_to_see_or_to_clean_up(
    storage: Storage, layers: Sequence[Path], staging: Path, make_userns: MakeUserNamespace
) -> None:
    before = list_mounts()
    root = build_rootfs(layers, storage.create_scratch("c1", QUOTA_BYTES), make_userns(BASE), staging, BASE)
    assert list_mounts() == before
    assert os.listdir(staging) == []
    os.close(root)


def test_the_thread_gets_its_ids_and_securebits_back(
    storage: Storage, layers: Sequence[Path], staging: Path, make_userns: MakeUserNamespace, tmp_path: Path
) -> None:
    before = syscalls.prctl(syscalls.PR_GET_SECUREBITS)
    userns = make_userns(BASE)
    os.close(build_rootfs(layers, storage.create_scratch("c1", QUOTA_BYTES), userns, staging, BASE))
    with pytest.raises(FileNotFoundError):
        build_rootfs([tmp_path / "absent"], storage.create_scratch("c2", QUOTA_BYTES), userns, staging, BASE)
    assert syscalls.prctl(syscalls.PR_GET_SECUREBITS) == before
    (tmp_path / "mine").touch()
    assert (tmp_path / "mine").stat().st_uid == os.getuid()
    assert os.listdir(staging) == []


def test_a_scratch_is_used_again_after_a_reboot(
    storage: Storage, layers: Sequence[Path], staging: Path, make_userns: MakeUserNamespace
) -> None:
    userns = make_userns(BASE)
    scratch = storage.create_scratch("c1", QUOTA_BYTES)
    for turn in ("1", "2", "3"):
        root = build_rootfs(layers, scratch, userns, staging, BASE)
        written = f"open('/log', 'a').write('{turn}'); os.sync(); print(open('/log').read())"
        said = _inside(root, userns, written)
        os.close(root)
    assert said == "123"


def test_a_scratch_is_used_again_by_the_successor_of_a_daemon_that_had_begun_to_clear_it(
    storage: Storage, layers: Sequence[Path], staging: Path, make_userns: MakeUserNamespace
) -> None:
    scratch, userns = storage.create_scratch("c1", QUOTA_BYTES), make_userns(BASE)
    os.close(build_rootfs(layers, scratch, userns, staging, BASE))
    (scratch / "w" / "work" / "incompat" / "volatile" / "dirty").unlink()
    os.close(build_rootfs(layers, scratch, userns, staging, BASE))


def test_a_scratch_moves_to_another_id_range_without_chown(
    storage: Storage, layers: Sequence[Path], staging: Path, make_userns: MakeUserNamespace
) -> None:
    scratch = storage.create_scratch("c1", QUOTA_BYTES)
    for base in (BASE, BASE + 65536):
        userns = make_userns(base)
        root = build_rootfs(layers, scratch, userns, staging, base)
        assert _inside(root, userns, "open('/mine', 'a').write('x'); print(os.stat('/mine').st_uid)") == "0"
        assert os.stat("mine", dir_fd=root).st_uid == base
        os.close(root)


def test_a_root_works_on_after_its_scratch_is_deleted(
    btrfs_storage: BtrfsStorage, staging: Path, make_userns: MakeUserNamespace
) -> None:
    layers = [_layer(btrfs_storage, "l1", {"etc/passwd": "root"})]
    userns = make_userns(BASE)
    root = build_rootfs(layers, btrfs_storage.create_scratch("c1", QUOTA_BYTES), userns, staging, BASE)
    _inside(root, userns, "open('/kept', 'w').write('kept')")
    btrfs_storage.delete_scratch("c1")
    assert btrfs_storage.list_scratch() == []
    assert _inside(root, userns, "print(open('/kept').read())") == "kept"
    os.close(root)


def test_the_quota_holds_through_the_overlay(
    btrfs_storage: BtrfsStorage, staging: Path, make_userns: MakeUserNamespace
) -> None:
    layers = [_layer(btrfs_storage, "l1", {"etc/passwd": "root"})]
    userns = make_userns(BASE)
    root = build_rootfs(layers, btrfs_storage.create_scratch("c1", 8 << 20), userns, staging, BASE)
    said = _inside(
        root,
        userns,
        """
f = open('/big', 'wb', buffering=0)
try:
    for _ in range(64):
        f.write(os.urandom(1 << 20))
except OSError as exc:
    print(errno.errorcode[exc.errno], f.tell() <= 8 << 20)
f.close()
os.unlink('/big')
""",
    )
    assert said == "EDQUOT True"
    os.close(root)


@pytest.mark.parametrize("count", [1, 128, 180])
def test_many_layers(storage: Storage, staging: Path, make_userns: MakeUserNamespace, count: int) -> None:
    lowers = [
        _layer(storage, f"{index:064x}", {f"f{index}": "", "same": str(index)}) for index in range(count)
    ]
    userns = make_userns(BASE)
    root = build_rootfs(lowers, storage.create_scratch("c1", QUOTA_BYTES), userns, staging, BASE)
    assert len(_list(root)) == count + 1
    assert _inside(root, userns, "print(open('/same').read())") == "0"
    os.close(root)


def test_too_many_layers_are_refused_with_the_limit() -> None:
    with pytest.raises(InvalidArgument, match=r"has 500 layers and this kernel takes about 1\d\d:"):
        plan_options("/proc/self/fd/12", 500)


@pytest.mark.parametrize("descriptor", [3, 99, 1_000, 20_000])
def test_the_limit_is_one_page_whatever_the_descriptor(descriptor: int) -> None:
    stage = f"/proc/self/fd/{descriptor}"
    largest = max(count for count in range(1, 300) if _fits(stage, count))
    assert largest >= 150
    assert len(plan_options(stage, largest)) <= 4095


def _fits(stage: str, count: int) -> bool:
    try:
        plan_options(stage, count)
    except InvalidArgument:
        return False
    return True


def test_no_layers_are_refused(staging: Path) -> None:
    with pytest.raises(InvalidArgument, match="at least one layer"):
        build_rootfs([], staging, 0, staging, BASE)


def test_a_missing_layer_is_named(storage: Storage, staging: Path, make_userns: MakeUserNamespace) -> None:
    missing = storage.root / "layers" / "missing"
    with pytest.raises(FileNotFoundError, match=str(missing)):
        build_rootfs([missing], storage.create_scratch("c1", QUOTA_BYTES), make_userns(BASE), staging, BASE)


def test_an_overlay_that_could_not_prepare_its_scratch_is_no_root(
    storage: Storage, layers: Sequence[Path], staging: Path, make_userns: MakeUserNamespace
) -> None:
    scratch = storage.create_scratch("c1", QUOTA_BYTES)
    # Owned by nobody of the container's: overlay cannot make its work directory and comes up read-only.
    os.chown(scratch / "w", 200_000, 200_000)
    with pytest.raises(InternalError, match="came up read-only"):
        build_rootfs(layers, scratch, make_userns(BASE), staging, BASE)
    assert os.listdir(staging) == []


def test_many_threads_build_at_once(
    storage: Storage, layers: Sequence[Path], staging: Path, make_userns: MakeUserNamespace
) -> None:
    slots = [(index, BASE + 65536 * index) for index in range(4)]
    namespaces = {index: make_userns(base) for index, base in slots}
    together = threading.Barrier(len(slots))

    def build(slot: tuple[int, int]) -> int:
        index, base = slot
        together.wait()
        for turn in range(5):
            scratch = storage.create_scratch(f"c{index}-{turn}", QUOTA_BYTES)
            root = build_rootfs(layers, scratch, namespaces[index], staging, base)
            owner = os.stat("both", dir_fd=root).st_uid
            os.close(root)
            assert owner == base
        return owner

    before = list_mounts()
    with ThreadPoolExecutor(len(slots)) as pool:
        assert list(pool.map(build, slots)) == [base for _, base in slots]
    assert os.listdir(staging) == []
    assert list_mounts() == before
