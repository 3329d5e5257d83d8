"""Tests of the images that scripts/build_images.py makes, which `make test` has built, and of how it makes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.image_builder.archives import Image, docker_archive, oci_layout
from scripts.image_builder.recipes import RECIPES, compile_module
from scripts.image_builder.tree import Tree, merged_path
from tests.node.images.storage import Storage
from tfnz_node.images.record import ImageRecord

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "build" / "images"


@pytest.fixture(scope="module")
def images() -> Path:
    """What the set-up has built; the script then has nothing to do, and no network is needed."""
    subprocess.run([sys.executable, str(ROOT / "scripts/build_images.py"), str(IMAGES)], check=True)
    return IMAGES


def load(storage: Storage, file: Path) -> tuple[ImageRecord, list[Path]]:
    result = storage.load(file.read_bytes())
    (image,) = result.images
    assert result.skipped == 0
    return image, [storage.root / "layers" / layer for layer in image.layers]


def test_busybox_is_a_root_file_system(images: Path, storage: Storage) -> None:
    image, (root,) = load(storage, images / "busybox.tar")
    assert image.names == []
    assert (root / "bin/sh").readlink() == Path("busybox")
    assert {path.name for path in root.iterdir()} >= {
        "bin",
        "dev",
        "etc",
        "proc",
        "root",
        "sys",
        "tmp",
        "usr",
        "var",
    }
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    shown = subprocess.run(
        ["chroot", root, "/bin/sh", "-c", "id -u; id -un nobody"], check=True, capture_output=True
    )
    assert shown.stdout == b"0\nnobody\n"


def test_python_is_a_docker_archive_with_a_whiteout(images: Path, storage: Storage) -> None:
    image, (debian, python, last) = load(storage, images / "python.tar")
    assert image.names == ["python:latest"]
    assert image.config.cmd == ["python3"]
    assert image.config.user == ""
    assert "LANG=C.UTF-8" in image.config.env
    assert (debian / "etc/update-motd.d").is_dir()
    assert (last / "etc/update-motd.d").is_char_device()
    assert (python / "usr/bin/python3").readlink() == Path("python3.11")
    assert (debian / "bin").readlink() == Path("usr/bin")


def test_nginx_is_an_oci_layout(images: Path, storage: Storage) -> None:
    image, (debian, nginx) = load(storage, images / "nginx-oci.tar")
    assert image.names == ["nginx:latest"]
    assert image.config.cmd == ["nginx", "-g", "daemon off;"]
    assert image.config.stop_signal == "SIGQUIT"
    assert image.config.exposed == ["80/tcp"]
    assert "www-data:*:33:33:" in (debian / "etc/passwd").read_text()
    assert (nginx / "var/log/nginx/access.log").readlink() == Path("/dev/stdout")
    assert (nginx / "usr/share/nginx/html/index.html").is_file()


def test_an_unknown_image_is_refused_with_the_choices(tmp_path: Path) -> None:
    argv = [sys.executable, str(ROOT / "scripts/build_images.py"), str(tmp_path), "alpine"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no image 'alpine'; choose from busybox, python, nginx" in done.stderr
    assert set(RECIPES) == {"busybox", "python", "nginx"}


def small_tree() -> Tree:
    tree = Tree()
    tree.file("b/file", "content", 0o600)
    tree.symlink("a", "b/file")
    tree.whiteout("b/gone")
    return tree


def test_the_same_tree_gives_the_same_bytes_and_imports(storage: Storage) -> None:
    assert small_tree().to_tar() == small_tree().to_tar()
    image = Image("small:1", [small_tree().to_tar()], {"Cmd": ["x"]})
    results = [storage.load(write(image)) for write in (docker_archive, oci_layout)]
    first, second = (result.images[0] for result in results)
    assert first.digest == second.digest
    assert first.names == second.names == ["small:1"]
    assert docker_archive(image) == docker_archive(image)
    assert oci_layout(image) == oci_layout(image)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./bin/sh", "usr/bin/sh"),
        ("./lib64/ld.so", "usr/lib64/ld.so"),
        ("./lib", "lib"),
        ("./library/x", "library/x"),
        ("./usr/lib/x", "usr/lib/x"),
        ("./", ""),
    ],
)
def test_packages_are_put_into_a_merged_usr(name: str, path: str) -> None:
    assert merged_path(name) == path


def test_byte_code_is_accepted_without_its_source(tmp_path: Path) -> None:
    compiled = tmp_path / "module.pyc"
    compiled.write_bytes(compile_module(b"print('ran')", "/module.py"))
    done = subprocess.run([sys.executable, str(compiled)], check=True, capture_output=True)
    assert done.stdout == b"ran\n"
