"""Ansible module, for the controller: a Python program and all that it needs, as one file for another host's Python."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tfnz_bundle
short_description: A Python program and all that it needs, as one file for another host
version_added: "2.0.0"
description:
  - >-
    Collects packages for the Python of the target host, whatever Python runs here, so that the target needs no compiler, no
    package index and no way to the outside.
  - Run it on the controller, by C(delegate_to=localhost). What was made once is kept, and taken as long as nothing changed.
  - Installed by M(tfnz_release) and M(tfnz_app).
options:
  name:
    description: Beginning of the file's name.
    type: str
    required: true
  python:
    description: The target's Python, such as V(3.11).
    type: str
    required: true
  projects:
    description: Directories with a C(pyproject.toml), whose packages are built. Their commands become the bundle's.
    type: list
    elements: path
    default: []
  requirements:
    description:
      - Requirements files. A file with hashes is taken to be complete, and each package must have one of its hashes. What other
        files, and O(packages), say of the same packages must agree with it.
      - Files and directories that they name are looked for from where they are.
    type: list
    elements: path
    default: []
  packages:
    description: Further requirements, such as V(flask==3.1.2). Pin them, or the same bundle may differ tomorrow.
    type: list
    elements: str
    default: []
  source:
    description:
      - A file, or a directory, that goes along as it is.
      - Of a directory, or a project, these are left out. C(build), C(dist), C(node_modules), C(venv) and what begins with a dot, at
        its top; and anywhere C(__pycache__), C(*.egg-info), C(*.pyc), what C(git) and its like keep, and directories with a
        C(CACHEDIR.TAG) or a C(pyvenv.cfg).
    type: path
  init:
    description: Directory of the sources of C(tfnz-init), which is built and goes along. Needs gcc and make.
    type: path
  keeper:
    description: The same for C(tfnz-keeper).
    type: path
  cache:
    description: Directory for what is made.
    type: path
    default: ~/.cache/20ft/bundles
attributes:
  check_mode:
    support: full
    description: Says what would change, and changes nothing. It makes the bundle all the same, since its name depends on what is in it.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: A second run changes nothing.
author: the 20ft authors
"""

EXAMPLES = r"""
- name: Make the daemon's bundle for this host
  tfnz_bundle:
    name: node
    python: "3.11"
    projects: ["{{ playbook_dir }}/.."]
    requirements: ["{{ playbook_dir }}/../requirements/node.txt"]
    init: "{{ playbook_dir }}/../node/init"
    keeper: "{{ playbook_dir }}/../node/keeper"
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: The bundle, on the controller.
  returned: always
  type: str
  sample: /home/ops/.cache/20ft/bundles/node-3f1c0b7a9d2e4c55.tar.gz
id:
  description: Its name, which depends on all that is in it.
  returned: always
  type: str
  sample: 3f1c0b7a9d2e4c55
archive_bytes:
  description: Size of the bundle.
  returned: always
  type: int
size_bytes:
  description: Size of what is in it, as it is on a disk.
  returned: always
  type: int
"""

import configparser
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "python": {"type": "str", "required": True},
    "projects": {"type": "list", "elements": "path", "default": []},
    "requirements": {"type": "list", "elements": "path", "default": []},
    "packages": {"type": "list", "elements": "str", "default": []},
    "source": {"type": "path"},
    "init": {"type": "path"},
    "keeper": {"type": "path"},
    "cache": {"type": "path", "default": "~/.cache/20ft/bundles"},
}
#: Changes when bundles of the same things are made in another way.
RECIPE = "4"
#: Options that name the sources of a program in C.
PROGRAMS = ("init", "keeper")
#: What Debian 12 and everything after it can run.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
#: How a line begins that says what went wrong.
ERROR = re.compile(r"\s*(?:configuration )?[\w.]*error: ", re.IGNORECASE)
#: Lines of requirements files that name another such file, or a directory or project that packages are taken from.
_FILE_OPTION = re.compile(r"(?:-r|-c|--(?:requirement|constraint))(?:\s+|=|(?<=-[rc]))(.+)")
_CONTENT_OPTION = re.compile(r"(?:-f|-e|--(?:find-links|editable))(?:\s+|=|(?<=-[fe]))(.+)")
#: What pip says before it tells who wants what.
CONFLICT = "The conflict is caused by:\n"
#: What file systems give room in.
BLOCK_BYTES = 4096
#: Directories that are no part of a program when they are at its top, besides those whose names begin with a dot.
LEFT_OUT_AT_TOP = {"build", "dist", "node_modules", "venv"}
#: Those that never are. Further down, a name such as `build` may be that of a package.
LEFT_OUT = {"__pycache__", ".git", ".hg", ".svn"}
#: Files by which other tools tell that a directory is what they have made.
SIGNS = ("CACHEDIR.TAG", "pyvenv.cfg")


class Failed(Exception):
    """The bundle cannot be made; the message says why."""


# --- looking ------------------------------------------------------------------------------------------------------


def find_files(root: Path) -> Iterator[tuple[str, Path]]:
    """The files of a program, each with its name beneath `root`, in order. A file is itself all there is."""
    if root.is_file():
        yield root.name, root
        return
    for folder, folders, files in os.walk(root):
        top = Path(folder) == root
        folders[:] = sorted(name for name in folders if not is_left_out(Path(folder, name), top=top))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.endswith(".pyc") and path.is_file():
                yield str(path.relative_to(root)), path


def is_left_out(folder: Path, *, top: bool) -> bool:
    """Whether a directory is no part of a program; `top` is whether it is at its top."""
    if folder.name in LEFT_OUT or folder.name.endswith(".egg-info"):
        return True
    if top and (folder.name in LEFT_OUT_AT_TOP or folder.name.startswith(".")):
        return True
    return any((folder / sign).is_file() for sign in SIGNS)


def fingerprint(parts: Iterable[tuple[str, bytes]]) -> str:
    """A name for some named contents, in their order."""
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(f"{len(name)} {name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def read_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a program with what is in them; those that can be executed are told from others."""
    for name, path in find_files(root):
        yield f"{name}{'*' if os.access(path, os.X_OK) else ''}", path.read_bytes()


def read_wheel(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """What is in a wheel, without the times at which it was made."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            yield name, archive.read(name)


def find_commands(wheel: Path) -> dict[str, str]:
    """The commands of a wheel, each with what it calls."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".dist-info/entry_points.txt"):
                parser = configparser.ConfigParser(delimiters=("=",))
                parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
                parser.read_string(archive.read(name).decode())
                return dict(parser["console_scripts"]) if "console_scripts" in parser else {}
    return {}


# --- pip ----------------------------------------------------------------------------------------------------------


def pip_words(python: str) -> list[str]:
    """The words that have pip collect for another Python: finished wheels only, no code of a package runs here."""
    compact = python.replace(".", "")
    words = ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
    for abi in (f"cp{compact}", "abi3", "none"):
        words += ["--abi", abi]
    for platform in PLATFORMS:
        words += ["--platform", platform]
    return words


def split_requirements(text: str) -> list[str]:
    """The lines of a requirements file, without comments, each in one piece."""
    joined = re.sub(r"\\\n", "", re.sub(r"(?m)^[ \t]*#.*\n?", "", text))
    lines = [re.sub(r"\s#.*", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line]


def find_reference(line: str) -> tuple[str, str] | None:
    """What a line of a requirements file names besides packages: `file`, of the same kind, or `content`; and where."""
    if match := _FILE_OPTION.match(line):
        return "file", match[1].strip("'\"")
    if match := _CONTENT_OPTION.match(line):
        return "content", match[1].strip("'\"")
    if line.startswith("-"):
        return None
    words = line.split(";")[0].split(" --")[0].partition(" @ ")
    named = (words[2] or words[0]).strip()
    if named.startswith("file:"):
        return "content", url2pathname(urlsplit(named).path)
    if "://" in named:
        return None
    # A name is not a path, though there may be a directory of that name; but a wheel is one.
    return ("content", named) if "/" in named or named.endswith((".whl", ".gz", ".zip")) else None


def walk_requirements(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A requirements file and those that it refers to, each with its lines."""
    waiting, seen = [path], set()
    while waiting:
        path = waiting.pop(0)
        if path in seen or not path.is_file():  # what is not there, pip says best
            continue
        seen.add(path)
        yield path, (lines := split_requirements(path.read_text()))
        found = [reference for line in lines if (reference := find_reference(line))]
        waiting += [path.parent / name for kind, name in found if kind == "file"]


def read_requirements(path: Path) -> Iterator[tuple[str, bytes]]:
    """What is in a requirements file, and in all on this machine that it names."""
    for each, lines in walk_requirements(path):
        yield "requirements", each.read_bytes()
        for line in lines:
            kind, name = find_reference(line) or ("", "")
            if kind == "content" and (named := path.parent / name).exists():
                yield from ((f"required {file}", content) for file, content in read_files(named))


def has_hashes(path: Path) -> bool:
    """Whether a requirements file has hashes, and is therefore complete."""
    return any("--hash=" in line for _, lines in walk_requirements(path) for line in lines)


def explain_pip(output: str) -> str:
    """The lines of pip's output, and of what it ran, that say why it failed."""
    if CONFLICT in output:
        reasons = output.partition(CONFLICT)[2].strip("\n").partition("\n\n")[0].splitlines()
        return f"what is wanted does not go together: {'; '.join(line.strip() for line in reasons)}"
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    of_others = [
        line.strip() for line in output.splitlines() if ERROR.match(line) and line.strip() not in errors
    ]
    # That something has failed which pip ran says less than what that had to say.
    others = [line for line in of_others if not line.startswith(("ERROR: ", "error: subprocess-exited"))]
    return " ".join((others[-2:] + errors or output.strip().splitlines()[-3:])[:4])


def is_at_hand(requirements: Iterable[str]) -> bool:
    """Whether this Python has all that a project is built with, in releases that will do."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements):
        try:
            if not requirement.specifier.contains(metadata.version(requirement.name), prereleases=True):
                return False
        except metadata.PackageNotFoundError:
            return False
    return True


def run_pip(*words: str, folder: Path | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-color", *words]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        # What is built of 20ft for a host need not be able to deploy.
        env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore", "TFNZ_WITHOUT_DEPLOYMENT": "1"},
    )
    if done.returncode != 0:
        raise Failed(f"pip {words[0]}: {explain_pip(done.stderr + done.stdout)}")


def build_wheel(project: Path, cache: Path) -> Path:
    """The wheel of a project, built from a copy, so that nothing is left in its directory."""
    try:
        description = tomllib.loads((project / "pyproject.toml").read_text())
    except (OSError, ValueError) as exc:
        raise Failed(f"{project} is no project: {exc}") from exc
    folder = cache / "wheels" / fingerprint([("recipe", RECIPE.encode()), *read_files(project)])
    if kept := list(folder.glob("*.whl")):
        return kept[0]
    with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as scratch:
        copy, out = Path(scratch, "project"), Path(scratch, "out")
        for name, path in find_files(project):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy / name)
        needed = description.get("build-system", {}).get("requires", ["setuptools"])
        isolation = ["--no-build-isolation"] if is_at_hand(needed) else []
        run_pip("wheel", "--no-deps", *isolation, "--wheel-dir", str(out), str(copy))
        put_in_place(out, folder)
    return next(folder.glob("*.whl"))


def put_in_place(draft: Path, final: Path) -> None:
    """Moves what was made to where it is looked for; if another was faster, its is as good."""
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.rename(final)
    except OSError:
        if not final.exists():
            raise


# --- making -------------------------------------------------------------------------------------------------------


def build_program(sources: Path, folder: Path) -> None:
    """Builds a program in C and puts it beneath `folder`."""
    done = subprocess.run(
        ["make", "-s", "-C", str(sources), "install", f"DESTDIR={folder}", "PREFIX="],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(
            f"tfnz-{sources.name} cannot be built in {sources}: {' '.join(done.stderr.split())[-300:]}"
        )


def collect(site: Path, params: Mapping[str, Any], wheels: Sequence[Path], scratch: Path) -> None:
    """Puts all packages into `site`; `scratch` is a directory for what is needed meanwhile."""
    paths = [Path(path) for path in params["requirements"]]
    complete = [path for path in paths if has_hashes(path)]
    pins: dict[str, tuple[str, Path]] = {}
    for path in complete:
        install(site, params, scratch, ["--require-hashes", "--no-deps", "-r", path.name], path.parent)
        for name, pin in find_pins(path).items():
            known, other = pins.setdefault(name, (pin, path))
            if known != pin:
                raise Failed(f"{path} has {pin}, and {other} has {known}: have both want the same")
    loose = [path for path in paths if path not in complete]
    if loose or params["packages"]:
        limits = scratch / "limits.txt"
        limits.write_text("".join(f"{pin}\n" for pin, _ in pins.values()))
        words = [word for path in loose for word in ("-r", str(path.resolve()))]
        folder = loose[0].parent if loose else None
        install(site, params, scratch, ["-c", str(limits), *words, *params["packages"]], folder)
    if wheels:
        run_pip("install", "--no-compile", "--upgrade", "--no-deps", "--target", str(site), *map(str, wheels))
    shutil.rmtree(site / "bin", ignore_errors=True)
    for record in site.glob("*.dist-info/direct_url.json"):
        record.unlink()  # names a directory of this machine


def install(
    site: Path, params: Mapping[str, Any], scratch: Path, words: Sequence[str], folder: Path | None
) -> None:
    """Adds to `site` what pip finds for these words in `folder`. What is there stays, for it is of the same release."""
    part = scratch / "part"
    run_pip(
        "install", "--no-compile", "--target", str(part), *pip_words(params["python"]), *words, folder=folder
    )
    for source in sorted(part.rglob("*")):
        target = site / source.relative_to(part)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        elif not target.exists():
            source.rename(target)
    shutil.rmtree(part, ignore_errors=True)


def find_pins(path: Path) -> dict[str, str]:
    """The release that a complete requirements file has of each package, as `name==release`."""
    from packaging.requirements import Requirement  # Ansible needs it, too
    from packaging.utils import canonicalize_name

    pins: dict[str, str] = {}
    for _, lines in walk_requirements(path):
        for line in lines:
            if not line.startswith("-") and find_reference(line) is None:
                wanted = Requirement(line.split(" --")[0])
                if wanted.marker is None or wanted.marker.evaluate():  # as pip does, by this Python
                    name = canonicalize_name(wanted.name)
                    pins[name] = f"{name}{wanted.specifier}"
    return pins


def compile_packages(site: Path, python: str) -> None:
    """Compiles all modules, if this Python's code is the target's: its users may not write there, and would each time."""
    if python != "{}.{}".format(*sys.version_info):
        return
    words = [sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    # What a package has that is no code for this Python stays as it is.
    subprocess.run([*words, "-s", str(site), "-p", "/", str(site)], check=False, capture_output=True)


def write_bundle(path: Path, folder: Path, description: Mapping[str, Any]) -> None:
    """One tar of all that is in `folder`, the same for the same contents."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        text = json.dumps(description, indent=2, sort_keys=True).encode()
        member = tarfile.TarInfo("bundle.json")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
        for part in sorted(folder.rglob("*")):
            tar.add(part, arcname=str(part.relative_to(folder)), recursive=False, filter=normalise)


def normalise(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without what differs from one machine to the next."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def measure(folder: Path) -> int:
    """The room that the files of a directory take, in whole blocks."""
    sizes = [path.lstat().st_size for path in folder.rglob("*")]
    return sum((size + BLOCK_BYTES - 1) // BLOCK_BYTES * BLOCK_BYTES for size in sizes)


def read_size(bundle: Path) -> int:
    """The room that what is in a bundle takes, as its own description says."""
    with tarfile.open(bundle) as tar:
        member = tar.next()
        file = tar.extractfile(member) if member else None
        return int(json.loads(file.read())["size_bytes"]) if file else 0


def name_bundle(params: Mapping[str, Any], wheels: Sequence[Path]) -> str:
    """The bundle's id: of all that goes into it."""
    parts = [("recipe", RECIPE.encode()), ("python", params["python"].encode())]
    for wheel in wheels:
        parts += [(f"wheel {name}", content) for name, content in read_wheel(wheel)]
    for path in params["requirements"]:
        parts += read_requirements(Path(path))
    parts += [("package", package.encode()) for package in params["packages"]]
    for what in ("source", *PROGRAMS):
        if params[what]:
            parts += [(f"{what} {name}", content) for name, content in read_files(Path(params[what]))]
    return fingerprint(parts)


def make_bundle(params: Mapping[str, Any]) -> tuple[str, Path, bool]:
    """The id of a bundle, its path, and whether it had to be made.

    Raises:
        Failed: it cannot be made.
    """
    cache = Path(params["cache"])
    cache.mkdir(parents=True, exist_ok=True)
    for what in ("source", *PROGRAMS):
        if params[what] and not Path(params[what]).exists():
            raise Failed(f"{what}: there is no {params[what]} on the controller")
    for path in params["requirements"]:
        if not Path(path).is_file():
            raise Failed(f"requirements: there is no file {path} on the controller")
    wheels = [build_wheel(Path(project), cache) for project in params["projects"]]
    identity = name_bundle(params, wheels)
    path = cache / f"{params['name']}-{identity}.tar.gz"
    if path.exists():
        return identity, path, False
    commands: dict[str, str] = {}
    for wheel in wheels:
        commands |= find_commands(wheel)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as scratch:
        folder = Path(scratch, "bundle")
        (folder / "site").mkdir(parents=True)
        collect(folder / "site", params, wheels, Path(scratch))
        compile_packages(folder / "site", params["python"])
        for what in PROGRAMS:
            if params[what]:
                build_program(Path(params[what]), folder)
        if params["source"]:
            for name, file in find_files(Path(params["source"])):
                target = folder / "source" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
        description = {
            "id": identity,
            "python": params["python"],
            "commands": commands,
            "source": params["source"] is not None,
            "size_bytes": measure(folder),
        }
        draft = Path(scratch, "bundle.tar.gz")
        write_bundle(draft, folder, description)
        put_in_place(draft, path)
    return identity, path, True


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        identity, path, made = make_bundle(module.params)
    except Failed as exc:
        module.fail_json(msg=str(exc))
    sizes = {"archive_bytes": path.stat().st_size, "size_bytes": read_size(path)}
    module.exit_json(changed=made, id=identity, path=str(path), **sizes)


if __name__ == "__main__":
    main()
