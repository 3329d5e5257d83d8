"""From request and image to what is run: what is merged, in which order, and what is refused in which words."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz.protocol.errors import InvalidArgument, PathRefused
from tfnz.protocol.messages import Limits, PreBootFile, SpawnContainer, StartProcess, Streams
from tfnz_node.core import minima
from tfnz_node.core.plan import (
    DEFAULT_PATH,
    LOGIN_SHELL,
    MAX_PRE_BOOT_BYTES,
    MAX_PROCESS_BYTES,
    ImageDefaults,
    ProcessPlan,
    check_limits,
    join_env,
    merge_env,
    plan_files,
    plan_main,
    plan_path,
    plan_process,
)

STREAMS = Streams()
IMAGE = ImageDefaults(
    entrypoint=["/entry"], cmd=["serve"], env=["LANG=C", "PATH=/opt"], user="web", workdir="/srv"
)
NOTHING = ImageDefaults()


# --- the main process


def test_the_image_says_everything_that_the_request_does_not() -> None:
    plan = plan_main(SpawnContainer("i", STREAMS, pty=False), IMAGE)
    assert plan == ProcessPlan(("/entry", "serve"), ("PATH=/opt", "LANG=C"), "web", "/srv")


def test_the_request_overrides_the_image() -> None:
    request = SpawnContainer(
        "i", STREAMS, command=["ls", "-l"], env=[("LANG", "de")], user="root", workdir="/tmp", pty=False
    )
    assert plan_main(request, IMAGE) == ProcessPlan(("ls", "-l"), ("PATH=/opt", "LANG=de"), "root", "/tmp")


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "command", "argv"),
    [
        (["/e"], ["c"], None, ("/e", "c")),
        (["/e"], [], None, ("/e",)),
        ([], ["c", "d"], None, ("c", "d")),
        (["/e"], ["c"], ["x"], ("x",)),
        ([], [], ["x", ""], ("x", "")),
    ],
)
def test_a_command_replaces_entrypoint_and_cmd(
    entrypoint: list[str], cmd: list[str], command: list[str] | None, argv: tuple[str, ...]
) -> None:
    image = ImageDefaults(entrypoint=entrypoint, cmd=cmd)
    assert plan_main(SpawnContainer("i", STREAMS, command=command), image).argv == argv


def test_an_image_that_says_nothing_leaves_root_at_the_root() -> None:
    plan = plan_main(SpawnContainer("i", STREAMS, command=["x"], pty=False), NOTHING)
    assert plan == ProcessPlan(("x",), (DEFAULT_PATH,), "root", "/")


def test_with_nothing_to_run_the_error_names_the_image() -> None:
    with pytest.raises(InvalidArgument, match="image 'data:1' says no command: give one to spawn"):
        plan_main(SpawnContainer("data:1", STREAMS), NOTHING)


def test_a_terminal_has_a_type_that_the_image_may_choose() -> None:
    request = SpawnContainer("i", STREAMS, command=["x"], pty=True)
    assert "TERM=xterm" in plan_main(request, NOTHING).env
    assert "TERM=vt100" in plan_main(request, ImageDefaults(env=["TERM=vt100"])).env


# --- words


def test_a_line_for_the_shell_is_one_word() -> None:
    request = SpawnContainer("i", STREAMS, command=["echo $HOME; exit 3"], shell=True)
    assert plan_main(request, NOTHING).argv == ("/bin/sh", "-c", "echo $HOME; exit 3")


@pytest.mark.parametrize("command", [[], ["ls", "-l"]])
def test_more_or_less_than_one_line_is_not_for_the_shell(command: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="one string"):
        plan_main(SpawnContainer("i", STREAMS, command=command, shell=True), NOTHING)


@pytest.mark.parametrize("command", [[], [""], ["", "x"]])
def test_an_empty_command_is_refused(command: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="command is empty"):
        plan_main(SpawnContainer("i", STREAMS, command=command), IMAGE)


# --- further processes


def test_a_process_has_the_environment_of_its_container_beneath_its_own() -> None:
    request = StartProcess("c", ["ls"], STREAMS, env=[("LANG", "de"), ("X", "1")], cwd="/tmp", user="web")
    plan = plan_process(request, ["PATH=/opt", "LANG=C", "A=1"])
    assert plan == ProcessPlan(("ls",), ("PATH=/opt", "LANG=de", "A=1", "X=1"), "web", "/tmp")


def test_a_process_without_any_environment_finds_its_programs() -> None:
    assert plan_process(StartProcess("c", ["ls"], STREAMS), []).env == (DEFAULT_PATH,)


@pytest.mark.parametrize(("pty", "login_shell"), [(True, False), (False, True), (True, True)])
def test_a_process_with_a_terminal_knows_its_type(pty: bool, login_shell: bool) -> None:
    request = StartProcess("c", ["ls"], STREAMS, pty=pty, login_shell=login_shell)
    assert "TERM=xterm" in plan_process(request, []).env
    assert "TERM=vt100" in plan_process(request, ["TERM=vt100"]).env


def test_a_login_shell_ignores_the_command() -> None:
    plan = plan_process(StartProcess("c", ["ignored"], STREAMS, login_shell=True), [])
    assert plan.argv == ("sh", "-c", LOGIN_SHELL)


def make_shell(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho {path.name} "$@"\n')
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (["bin/sh"], "sh -l"),
        (["bin/sh", "usr/bin/bash"], "bash -l"),
        (["bin/ash", "bin/zsh"], "ash -l"),
        (["sbin/fish"], "fish -l"),
        (["bin/bash", "usr/bin/bash"], "bash -l"),
    ],
)
def test_the_login_shell_is_the_best_there_is(tmp_path: Path, there: list[str], chosen: str) -> None:
    for shell in there:
        make_shell(tmp_path / shell)
    line = LOGIN_SHELL
    for directory in ("/bin/", "/usr/bin/", "/sbin/"):
        line = line.replace(f" {directory}", f" {tmp_path}{directory}")
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == chosen


# --- environment


@pytest.mark.parametrize("name", ["", "=", "A=B", "A="])
def test_an_environment_name_with_an_equals_sign_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"environment name '.*' is not valid.*contains '='"):
        join_env([("FINE", "1"), (name, "x")])


def test_a_long_name_is_repeated_only_in_part() -> None:
    with pytest.raises(InvalidArgument) as caught:
        join_env([("=" * 100_000, "")])
    assert len(str(caught.value)) < 200


def test_values_may_be_anything_else() -> None:
    assert join_env([("A", ""), ("B", "x=y"), ("C", "line\nline")]) == ["A=", "B=x=y", "C=line\nline"]


def test_a_name_that_an_image_gives_without_a_value_is_empty() -> None:
    assert merge_env(["A"]) == ("A=",)


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("ABC"), st.text("xyz=", max_size=3)), max_size=5), max_size=4)
)
def test_in_a_merged_environment_each_name_stands_once_with_its_last_value(
    sources: list[list[tuple[str, str]]],
) -> None:
    merged = merge_env(*(join_env(source) for source in sources))
    pairs = [pair for source in sources for pair in source]
    assert dict(entry.split("=", 1) for entry in merged) == dict(pairs)
    assert [entry.split("=", 1)[0] for entry in merged] == list(dict.fromkeys(name for name, _ in pairs))


# --- what the kernel takes


@pytest.mark.parametrize(
    "change",
    [
        lambda text: SpawnContainer("i", STREAMS, command=["x", text]),
        lambda text: SpawnContainer("i", STREAMS, command=[text], shell=True),
        lambda text: SpawnContainer("i", STREAMS, command=["x"], env=[("A", text)]),
        lambda text: SpawnContainer("i", STREAMS, command=["x"], env=[(text, "A")]),
        lambda text: SpawnContainer("i", STREAMS, command=["x"], user=text),
        lambda text: SpawnContainer("i", STREAMS, command=["x"], workdir=text),
    ],
    ids=["word", "line", "value", "name", "user", "workdir"],
)
def test_a_nul_is_refused_wherever_it_is(change: Callable[[str], SpawnContainer]) -> None:
    with pytest.raises(InvalidArgument, match="cannot contain NUL"):
        plan_main(change("a\0b"), NOTHING)


def test_a_nul_of_the_image_is_refused_too() -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        plan_main(SpawnContainer("i", STREAMS, command=["x"]), ImageDefaults(env=["A=\0"]))


def test_words_that_are_too_large_are_refused_with_a_way_out() -> None:
    request = SpawnContainer("i", STREAMS, command=["x", "y" * MAX_PROCESS_BYTES])
    with pytest.raises(
        InvalidArgument, match=rf"\d+ bytes together; at most {MAX_PROCESS_BYTES} .* into a file"
    ):
        plan_main(request, NOTHING)


def test_size_is_measured_in_bytes() -> None:
    half = "ä" * (MAX_PROCESS_BYTES // 2)
    with pytest.raises(InvalidArgument, match="bytes together"):
        plan_process(StartProcess("c", ["x", half], STREAMS), [])


# --- limits


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            Limits(memory_bytes=minima.MEMORY_BYTES - 1),
            f"memory={minima.MEMORY_BYTES - 1} is below the minimum of 4194304",
        ),
        (Limits(disk_bytes=0), "disk=0 is below the minimum of 1048576"),
        (Limits(pids=1), "pids=1 is below the minimum of 2 processes"),
        (Limits(cpus=0.001), "cpus=0.001 is below the minimum of 0.01 processors"),
        (Limits(cpus=math.nan), "cpus=nan is below the minimum"),
    ],
)
def test_a_limit_below_the_minimum_is_named_with_its_value(limits: Limits, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        check_limits(limits)


def test_the_least_is_enough() -> None:
    check_limits(
        Limits(
            memory_bytes=minima.MEMORY_BYTES, disk_bytes=minima.DISK_BYTES, pids=minima.PIDS, cpus=minima.CPUS
        )
    )


# --- paths


@pytest.mark.parametrize(
    ("path", "planned"),
    [
        ("/etc/motd", "/etc/motd"),
        ("etc/motd", "/etc/motd"),
        ("/", "/"),
        (".", "/"),
        ("//etc//motd", "/etc/motd"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/..", "/"),
        ("/dir/", "/dir"),
        ("/...", "/..."),
        ("/a/..b/c..", "/a/..b/c.."),
    ],
)
def test_a_path_begins_at_the_root(path: str, planned: str) -> None:
    assert plan_path(path) == planned


@pytest.mark.parametrize("path", ["..", "/..", "../etc", "/../etc", "a/../../b", "/a/b/../../../c/d/e"])
def test_a_path_that_leaves_the_container_is_refused(path: str) -> None:
    with pytest.raises(PathRefused, match="leaves the container"):
        plan_path(path)


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(PathRefused, match=r"path 'a\\x00b' contains a NUL"):
        plan_path("a\0b")


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b"]), max_size=12).map("/".join))
def test_what_is_planned_stays_inside_wherever_one_steps(path: str) -> None:
    depth = lowest = 0
    for part in path.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        lowest = min(lowest, depth)
    if lowest < 0:
        with pytest.raises(PathRefused):
            plan_path(path)
    else:
        planned = plan_path(path)
        assert planned.startswith("/")
        assert not {"..", "."} & set(planned.split("/"))


# --- pre-boot files


def test_files_keep_all_but_the_form_of_their_path() -> None:
    [file] = plan_files([PreBootFile("//etc/./x", b"data", 0o600, True)])
    assert file == PreBootFile("/etc/x", b"data", 0o600, True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("etc/motd", "'etc/motd' is not absolute"),
        ("/../etc/shadow", "leaves the container"),
        ("/", "names a directory"),
        ("/etc/..", "names a directory"),
        ("/etc/", "names a directory"),
        ("/etc/.", "names a directory"),
        ("/a\0b", "NUL"),
    ],
)
def test_a_file_that_cannot_be_is_refused(path: str, message: str) -> None:
    with pytest.raises(PathRefused, match=message):
        plan_files([PreBootFile("/fine", b""), PreBootFile(path, b"")])


def test_files_are_bounded_together() -> None:
    half = b"x" * (MAX_PRE_BOOT_BYTES // 2)
    assert len(plan_files([PreBootFile("/a", half), PreBootFile("/b", half)])) == 2
    with pytest.raises(InvalidArgument, match="use put"):
        plan_files([PreBootFile("/a", half), PreBootFile("/b", half), PreBootFile("/c", b"x")])
