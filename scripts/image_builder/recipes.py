"""What each image consists of."""

from __future__ import annotations

import importlib.util
import marshal
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.image_builder.archives import Image, docker_archive, oci_layout
from scripts.image_builder.packages import PackageCache, run
from scripts.image_builder.tree import Tree

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# With usr-is-merged, apt does not choose usrmerge in its place, which brings the whole of Perl.
DEBIAN = (
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "hostname",
    "procps",
    "sed",
    "usr-is-merged",
)

PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"

NGINX_SITE = """\
server {
    listen 80 default_server;
    server_name _;
    root /usr/share/nginx/html;
    index index.html;

    location / {
        try_files $uri $uri/ =404;
    }
}
"""


def build_busybox(packages: PackageCache) -> bytes:
    """Return a root file system tar: one static program and the links to it."""
    tree = Tree()
    (package,) = packages.download(["busybox-static"])
    tree.install([package])
    tree.entries = {"bin/busybox": tree.entries["usr/bin/busybox"]}
    for applet in find_applets(tree.entries["bin/busybox"].content, packages.scratch):
        tree.symlink(f"bin/{applet}", "busybox")
    add_mount_points(tree)
    tree.symlink("usr/bin", "../bin")
    tree.file("etc/passwd", PASSWD)
    tree.file("etc/group", GROUP)
    tree.file("etc/hosts", "127.0.0.1 localhost\n")
    return tree.to_tar()


def build_python(packages: PackageCache) -> bytes:
    """Return a `docker save` archive: Debian, then Python, then a layer that hides a file of the first."""
    debian_packages = packages.download(DEBIAN)
    debian = debian_tree(debian_packages)
    python = Tree()
    base = set(debian_packages)
    python.install(file for file in packages.download([*DEBIAN, "python3"]) if file not in base)
    compile_modules(python)
    last = Tree()
    # Nobody logs in here.
    last.whiteout("etc/update-motd.d")
    last.directory("srv/app")
    config = {"Cmd": ["python3"], "Env": [PATH, "LANG=C.UTF-8"], "WorkingDir": "/"}
    layers = [tree.to_tar() for tree in (debian, python, last)]
    return docker_archive(Image("python:latest", layers, config))


def build_nginx(packages: PackageCache) -> bytes:
    """Return an OCI layout: Debian with nginx, logging to the container's own output."""
    debian_packages = packages.download(DEBIAN)
    debian = debian_tree(debian_packages)
    nginx = Tree()
    base = set(debian_packages)
    nginx.install(file for file in packages.download([*DEBIAN, "nginx"]) if file not in base)
    nginx.file("etc/nginx/sites-available/default", NGINX_SITE)
    nginx.symlink("etc/nginx/sites-enabled/default", "../sites-available/default")
    nginx.directory("var/lib/nginx")
    nginx.directory("var/log/nginx")
    nginx.symlink("var/log/nginx/access.log", "/dev/stdout")
    nginx.symlink("var/log/nginx/error.log", "/dev/stderr")
    config = {
        "Cmd": ["nginx", "-g", "daemon off;"],
        "Env": [PATH],
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGQUIT",
    }
    layers = [tree.to_tar() for tree in (debian, nginx)]
    return oci_layout(Image("nginx:latest", layers, config))


# File name of each image, and what makes it.
RECIPES: Mapping[str, tuple[str, Callable[[PackageCache], bytes]]] = {
    "busybox": ("busybox.tar", build_busybox),
    "python": ("python.tar", build_python),
    "nginx": ("nginx-oci.tar", build_nginx),
}


def debian_tree(packages: list[Path]) -> Tree:
    """Return a small Debian, with what the installation scripts of its packages would have made."""
    tree = Tree()
    tree.merge_usr()
    tree.install(packages)
    for name in ("passwd", "group"):
        tree.file(f"etc/{name}", tree.entries[f"usr/share/base-passwd/{name}.master"].content)
    tree.symlink("var/run", "/run")
    tree.symlink("var/lock", "/run/lock")
    tree.file("etc/hosts", "127.0.0.1 localhost\n")
    add_mount_points(tree)
    return tree


def add_mount_points(tree: Tree) -> None:
    """Add the directories that every running container needs."""
    for name in ("dev", "etc", "proc", "run", "sys", "var"):
        tree.directory(name)
    tree.directory("root", 0o700)
    tree.directory("tmp", 0o1777)
    tree.directory("var/tmp", 0o1777)


def find_applets(busybox: bytes, scratch: Path) -> list[str]:
    """Return the names that a busybox program answers to."""
    program = scratch / "busybox"
    program.write_bytes(busybox)
    program.chmod(0o700)
    names = run([str(program), "--list"]).decode().split()
    program.unlink()
    return [name for name in names if name != "busybox"]


def compile_modules(tree: Tree) -> None:
    """Add byte code of the modules every Python program loads, as the package's own installation would.

    A container's first start then does not spend its time compiling them. Only when this interpreter writes
    the byte code of Debian's; the image works without.
    """
    library = "usr/lib/python3.11/"
    if importlib.util.MAGIC_NUMBER[:2] != (3495).to_bytes(2, "little"):
        return
    wanted = ("", "collections/", "encodings/", "importlib/", "re/", "json/")
    for path, entry in list(tree.entries.items()):
        directory, _, name = path.removeprefix(library).rpartition("/")
        if (
            not path.startswith(library)
            or not name.endswith(".py")
            or f"{directory}/".lstrip("/") not in wanted
        ):
            continue
        cached = f"{library}{directory}/".replace("//", "/") + f"__pycache__/{name[:-3]}.cpython-311.pyc"
        tree.file(cached, compile_module(entry.content, f"/{path}"))


def compile_module(source: bytes, path: str) -> bytes:
    """Return byte code that names its source by hash and is never checked against it: no times inside."""
    code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    unchecked_hash = (1).to_bytes(4, "little")
    return (
        importlib.util.MAGIC_NUMBER
        + unchecked_hash
        + importlib.util.source_hash(source)
        + marshal.dumps(code)
    )
