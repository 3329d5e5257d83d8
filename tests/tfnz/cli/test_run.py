"""`tfnz run`: streams joined, exit codes passed on, and a clean end whatever comes first."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tfnz.protocol.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ImageNotFound,
    ListenFailed,
    NoAccount,
    ObjectDead,
    SessionLost,
    TfnzError,
    UserNotFound,
)
from tfnz.protocol.exits import Cause, Exit

if TYPE_CHECKING:
    from tests.tfnz.cli.conftest import FakeContainer, FakeLocation, Streams, Tool


def test_output_comes_unchanged_on_its_own_stream(tfnz: Tool) -> None:
    blob = bytes(range(256)) * 16

    def live(container: FakeContainer) -> None:
        container.print(blob)
        container.complain(b"oh dear\n")
        container.finish()

    tfnz.location.script = live
    result = tfnz("run", "busybox", "cat", "-n", "--help")
    assert result.exit_code == 0
    assert tfnz.streams.read_stdout() == blob
    assert tfnz.streams.read_stderr() == b"oh dear\n"
    assert tfnz.location.container.options["command"] == ["cat", "-n", "--help"]
    assert tfnz.location.container.options["pty"] is False


def test_no_command_leaves_the_image_its_own(tfnz: Tool) -> None:
    tfnz("run", "busybox")
    assert tfnz.location.container.options["command"] is None


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (Exit(Cause.EXITED, code=0), 0),
        (Exit(Cause.EXITED, code=37), 37),
        (Exit(Cause.SIGNALLED, signal=15), 143),
        (Exit(Cause.OUT_OF_MEMORY), 137),
        (Exit(Cause.TIMED_OUT), 124),
        (Exit(Cause.SESSION_GONE), 125),
        (Exit(Cause.NODE_LOST, message="no route"), 125),
    ],
)
def test_exit_codes_are_passed_on(tfnz: Tool, end: Exit, code: int) -> None:
    tfnz.location.script = lambda container: container.finish(end)
    assert tfnz("run", "busybox").exit_code == code


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Exit(Cause.OUT_OF_MEMORY), "--memory"),
        (Exit(Cause.TIMED_OUT), "--timeout"),
        (Exit(Cause.NODE_LOST, message="no route"), "no route"),
    ],
)
def test_a_forced_end_is_explained_even_quietly(tfnz: Tool, end: Exit, words: str) -> None:
    tfnz.location.script = lambda container: container.finish(end)
    assert words in tfnz("run", "-q", "busybox").stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImageNotFound("there is no image 'x'"), 125),
        (NoAccount("no account"), 125),
        (CommandNotFound("no 'frob' in the image"), 127),
        (CommandNotExecutable("/etc/passwd is not executable"), 126),
        (UserNotFound("no user 'bob'"), 125),
        (SessionLost("gone"), 125),
        (OSError("disk"), 125),
        (ZeroDivisionError("a fault"), 125),
    ],
)
def test_failures_have_docker_s_codes_and_one_line(tfnz: Tool, error: Exception, code: int) -> None:
    tfnz.location.spawn_error = error
    result = tfnz("run", "-q", "x")
    assert result.exit_code == code
    assert str(error) in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert result.stdout == ""


def test_a_failure_to_start_is_told(tfnz: Tool) -> None:
    tfnz.location.script = lambda container: None
    tfnz.location.start_error = CommandNotFound("no 'frob' in image 'busybox'")
    result = tfnz("run", "busybox", "frob")
    assert result.exit_code == 127
    assert "no 'frob' in image 'busybox'" in result.stderr
    assert "Container is running" not in result.stderr


def test_one_that_is_over_before_we_look_has_run(tfnz: Tool) -> None:
    ended = threading.Event()

    def live(container: FakeContainer) -> None:
        container.finish(3)
        ended.set()

    class Late(ObjectDead):
        def __init__(self) -> None:
            super().__init__("it has ended")

    def spawn(*args: Any, **options: Any) -> FakeContainer:
        container = real_spawn(*args, **options)
        assert ended.wait(10)
        return container

    tfnz.location.script = live
    tfnz.location.start_error = Late()
    node = tfnz.location.node()
    real_spawn = node.spawn
    node.spawn = spawn  # type: ignore[method-assign]  # the fake's timing is the test
    tfnz.location.node = lambda: node  # type: ignore[method-assign]
    assert tfnz("run", "busybox").exit_code == 3


def test_debug_shows_the_traceback(tfnz: Tool) -> None:
    tfnz.location.spawn_error = TfnzError("odd")
    assert "Traceback" in tfnz("--debug", "run", "x").stderr
    assert "Traceback" in tfnz("run", "--debug", "x").stderr


# --- words ---------------------------------------------------------------------------------------------------------


def test_the_log_of_the_sdk_is_shown_with_its_time(tfnz: Tool) -> None:
    result = tfnz("run", "-v", "busybox")
    first, second = result.stderr.splitlines()
    assert re.fullmatch(r"\d{10}\.\d{3} DEBUG   Message loop started", first)
    assert re.fullmatch(r"\d{10}\.\d{3} INFO    Container is running: \w{22}", second)
    assert result.stdout == ""


def test_by_default_nothing_is_said_that_is_not_needed(tfnz: Tool) -> None:
    assert tfnz("run", "-p", "8080:80", "busybox").stderr == ""


def test_a_warning_is_needed(tfnz: Tool) -> None:
    def live(container: FakeContainer) -> None:
        logging.getLogger("tfnz.aio").warning("a connection is cut off")
        container.finish()

    tfnz.location.script = live
    assert tfnz("run", "busybox").stderr == "tfnz: a connection is cut off\n"


def test_an_import_is_needed_and_told_once(tfnz: Tool, tmp_path: Path) -> None:
    (tmp_path / "app.tar").write_bytes(b"one")
    assert tfnz("run", str(tmp_path / "app.tar")).stderr == "tfnz: importing app.tar\n"
    assert tfnz("run", str(tmp_path / "app.tar")).stderr == ""
    (tmp_path / "app.tar").write_bytes(b"two")
    assert tfnz("run", "-q", str(tmp_path / "app.tar")).stderr == ""


def test_options_behind_the_image_are_recognised(tfnz: Tool) -> None:
    tfnz.location.script = lambda container: None
    tfnz.location.start_error = CommandNotFound("no '-e' in the image")
    result = tfnz("run", "busybox", "-e", "A=1")
    assert result.exit_code == 127
    assert "Options go before the image" in result.stderr
    assert "tfnz run -e ... busybox" in result.stderr
    tfnz.location.start_error = CommandNotFound("no 'frob' in the image")
    assert "before the image" not in tfnz("run", "busybox", "frob").stderr


def test_quiet_is_silent(tfnz: Tool) -> None:
    assert tfnz("run", "-q", "busybox").stderr == ""


def test_quiet_and_verbose_exclude_each_other(tfnz: Tool) -> None:
    result = tfnz("run", "-q", "-v", "busybox")
    assert result.exit_code == 125
    assert "contradict" in result.stderr


# --- options -------------------------------------------------------------------------------------------------------


def test_options_reach_the_node(tfnz: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPIED", "a=b c")
    source = tmp_path / "conf"
    source.write_bytes(b"\x00\xff")
    limits = (
        "--memory 64M --cpus 0.5 --pids 32 --disk 1.5G --user nobody --workdir /srv --tag web --timeout 9"
    )
    tfnz(
        "run",
        "-e",
        "A=1",
        "--env",
        "COPIED",
        "-e",
        "EMPTY=",
        "-f",
        f"{source}:/etc/app/",
        *limits.split(),
        "busybox",
    )
    options = tfnz.location.container.options
    assert options["env"] == {"A": "1", "COPIED": "a=b c", "EMPTY": ""}
    assert options["pre_boot_files"] == {"/etc/app/conf": b"\x00\xff"}
    assert {
        "image": "busybox",
        "memory": 64 << 20,
        "cpus": 0.5,
        "pids": 32,
        "disk": 3 << 29,
        "user": "nobody",
        "workdir": "/srv",
        "tag": "web",
        "timeout_s": 9.0,
    }.items() <= options.items()


def test_short_options(tfnz: Tool) -> None:
    tfnz("run", "-u", "nobody:nogroup", "--workdir", "/srv", "busybox")
    assert {"user": "nobody:nogroup", "workdir": "/srv"}.items() <= tfnz.location.container.options.items()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["none"], "none"),
        (["open"], "open"),
        (["10.1.2.0/24"], ["10.1.2.0/24"]),
        (["9.9.9.9", "*.example.org"], ["9.9.9.9", "*.example.org"]),
    ],
)
def test_egress(tfnz: Tool, words: list[str], meant: object) -> None:
    tfnz("run", *(f"--egress={word}" for word in words), "busybox")
    assert tfnz.location.container.options["egress"] == meant


def test_what_is_not_given_is_left_to_the_sdk(tfnz: Tool) -> None:
    tfnz("run", "busybox")
    assert not {"memory", "cpus", "pids", "disk", "user", "workdir", "tag", "timeout_s", "egress"} & set(
        tfnz.location.container.options
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-e", "=x", "i"], "has no name"),
        (["-e", "A=1", "-e", "A=2", "i"], "'A' is given twice"),
        (["-e", "SURELY_NOT_SET", "i"], "'SURELY_NOT_SET' is not set here"),
        (["-f", "nothing", "i"], "not SOURCE:DESTINATION"),
        (["-f", ":/x", "i"], "not SOURCE:DESTINATION"),
        (["-f", "/etc/hostname:relative", "i"], "not SOURCE:DESTINATION"),
        (["-f", "/surely/not/there:/x", "i"], "'/surely/not/there' cannot be read: No such file"),
        (["-f", "/etc:/x", "i"], "Is a directory"),
        (["-f", "/etc/passwd:/x/", "-f", "/etc/passwd:/x/passwd", "i"], "two files go to /x/passwd"),
        (["--memory", "lots", "i"], "'lots'"),
        (["--cpus", "0", "i"], "0"),
        (["--pids", "none", "i"], "none"),
        (["--timeout", "-1", "i"], "-1"),
        (["--egress", "none", "--egress", "9.9.9.9", "i"], "--egress none says all"),
        (["--frob", "i"], "--frob"),
        ([], "IMAGE"),
        (["--data-dir", "/x", "i"], "add --embedded"),
        (["--embedded", "--socket", "/x", "i"], "--socket and --embedded"),
    ],
)
def test_a_line_that_makes_no_sense_is_125_and_names_the_word(
    tfnz: Tool, arguments: list[str], words: str
) -> None:
    result = tfnz("run", *arguments)
    assert result.exit_code == 125
    assert words in result.stderr
    assert not tfnz.location.spawned


@pytest.mark.parametrize(
    ("arguments", "attributes"),
    [
        (["run", "--location", "a", "i"], {"location": "a"}),
        (["--location", "a", "run", "--location", "b", "i"], {"location": "b"}),
        (["--socket", "/s", "run", "i"], {"socket": "/s"}),
        (["run", "--embedded", "--data-dir", "/d", "i"], {"embedded": True, "data_dir": "/d"}),
    ],
)
def test_where_to_connect(tfnz: Tool, arguments: list[str], attributes: dict[str, object]) -> None:
    tfnz(*arguments)
    (target,) = tfnz.location.targets
    assert {name: getattr(target, name) for name in attributes} == attributes


def test_help_tells_the_exit_codes(tfnz: Tool) -> None:
    shown = tfnz("run", "--help").stdout
    for code in ("124", "125", "126", "127", "130", "137", "141", "143"):
        assert code in shown


# --- input ---------------------------------------------------------------------------------------------------------


def wait_for_input(container: FakeContainer) -> None:
    container.wait_for(lambda: container.input_closed)
    container.finish()


def test_piped_input_arrives_whole_and_ends(tfnz: Tool) -> None:
    tfnz.location.script = wait_for_input
    data = os.urandom(1 << 20)
    writer = threading.Thread(target=tfnz.streams.type, args=(data,))
    writer.start()
    assert tfnz("run", "busybox", "cat").exit_code == 0
    writer.join()
    assert tfnz.location.container.received == data


def test_closed_input_is_the_end_of_it(tfnz: Tool) -> None:
    tfnz.location.script = wait_for_input
    tfnz.stdio = type(tfnz.stdio)(None, tfnz.stdio.stdout, tfnz.stdio.stderr)
    assert tfnz("run", "busybox").exit_code == 0


def test_input_that_goes_on_does_not_outlive_the_container(tfnz: Tool) -> None:
    def live(container: FakeContainer) -> None:
        container.wait_for(lambda: container.received == b"still here")
        container.finish(4)

    tfnz.streams.type(b"still here", last=False)
    tfnz.location.script = live
    assert tfnz("run", "busybox").exit_code == 4
    assert not tfnz.location.container.input_closed
    assert "tfnz-stdin" not in {thread.name for thread in threading.enumerate()}


# --- ends ----------------------------------------------------------------------------------------------------------


def test_nobody_reads_our_output(tfnz: Tool) -> None:
    def live(container: FakeContainer) -> None:
        container.print(b"unread")
        container.print(b"neither is this")

    tfnz.streams.shut(tfnz.streams.stdout)
    tfnz.location.script = live
    result = tfnz("run", "-q", "busybox")
    assert result.exit_code == 141
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_container(tfnz: Tool, number: int, code: int) -> None:
    gc.collect()  # an exception that comes while what others have left is finalised is swallowed, and told of
    before = signal.getsignal(number)
    tfnz.location.script = lambda container: os.kill(os.getpid(), number)
    result = tfnz("run", "busybox")
    assert result.exit_code == code
    assert signal.getsignal(number) is before


def test_a_signal_ends_us_while_nobody_takes_our_output(tfnz: Tool) -> None:
    stuck = tfnz.stdio.stdout
    assert stuck is not None
    os.set_blocking(stuck, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(stuck, bytes(4096)):
            pass
    os.set_blocking(stuck, True)
    given_up = threading.Event()

    def live(container: FakeContainer) -> None:
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM)).start()
        container.print(b"never to be read")
        given_up.set()

    tfnz.location.script = live
    assert tfnz("run", "busybox").exit_code == 143
    assert given_up.wait(10), "the callback is still stuck"


# --- archives ------------------------------------------------------------------------------------------------------


def test_an_archive_is_imported_once(tfnz: Tool, location: FakeLocation, tmp_path: Path) -> None:
    archive = tmp_path / "app.tar"
    archive.write_bytes(b"one")
    tfnz("run", str(archive))
    tfnz("run", str(archive))
    assert location.imported == [(str(archive), None)]
    assert location.spawned[0].options["image"] == location.spawned[1].options["image"] == f"sha256:{1:064x}"
    archive.write_bytes(b"two")
    tfnz("run", str(archive))
    assert len(location.imported) == 2


def test_an_archive_is_imported_again_where_it_is_missing(tfnz: Tool, tmp_path: Path) -> None:
    (tmp_path / "app.tar").write_bytes(b"one")
    tfnz("run", str(tmp_path / "app.tar"))
    tfnz.location.known_images.clear()
    tfnz("run", str(tmp_path / "app.tar"))
    assert len(tfnz.location.imported) == 2


def test_an_oci_directory_is_known_by_its_index(tfnz: Tool, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    tfnz("run", str(tmp_path))
    tfnz("run", str(tmp_path))
    assert len(tfnz.location.imported) == 1
    (tmp_path / "index.json").write_text("{ }")
    tfnz("run", str(tmp_path))
    assert len(tfnz.location.imported) == 2


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 1}', "\x00"])
def test_a_damaged_memory_is_forgotten(tfnz: Tool, tmp_path: Path, content: str) -> None:
    (tmp_path / "cache" / "20ft").mkdir(parents=True)
    (tmp_path / "cache" / "20ft" / "archives.json").write_text(content)
    (tmp_path / "app.tar").write_bytes(b"one")
    assert tfnz("run", str(tmp_path / "app.tar")).exit_code == 0


def test_a_file_with_an_image_s_name_is_pointed_out(
    tfnz: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rootfs").write_bytes(b"")
    tfnz.location.spawn_error = ImageNotFound("there is no image 'rootfs'")
    assert "tfnz run ./rootfs" in tfnz("run", "rootfs").stderr


def test_streams_are_ours_again(tfnz: Tool, streams: Streams) -> None:
    tfnz("run", "busybox")
    for descriptor in (streams.given.stdin, streams.given.stdout, streams.given.stderr):
        assert descriptor is not None
        os.fstat(descriptor)


# --- ports


def test_ports_are_published_while_it_runs(tfnz: Tool) -> None:
    def live(container: FakeContainer) -> None:
        container.wait_for(lambda: len(container.tunnels) == 4)
        container.finish()

    tfnz.location.script = live
    words = ["8080:80", "0.0.0.0:8081:80", "[::1]:8080:80", "0:/run/app.sock"]
    result = tfnz("run", *(word for one in words for word in ("-p", one)), "nginx")
    assert result.exit_code == 0
    assert [(one.bind, one.local, one.port) for one in tfnz.location.container.tunnels] == [
        ("127.0.0.1", 8080, 80),
        ("0.0.0.0", 8081, 80),
        ("::1", 8080, 80),
        ("127.0.0.1", 40000, "/run/app.sock"),
    ]
    assert result.stderr == "tfnz: 127.0.0.1 port 40000 leads to /run/app.sock of the container\n"
    shown = tfnz("run", "-v", *(word for one in words for word in ("-p", one)), "nginx").stderr
    assert "INFO    127.0.0.1 port 8080 leads to port 80 of the container" in shown
    assert "INFO    127.0.0.1 port 40000 leads to /run/app.sock of the container" in shown


@pytest.mark.parametrize(
    "word",
    ["80", "a:80", "80:a", "80:", ":80", "8080:0", "65536:80", "8080:65536", "-1:80", "8080:80/udp", ""],
)
def test_ports_that_make_no_sense(tfnz: Tool, word: str) -> None:
    result = tfnz("run", f"--publish={word}", "nginx")
    assert result.exit_code == 125
    assert "is not [BIND:]LOCAL:PORT" in result.stderr
    assert tfnz.location.targets == []


def test_a_local_port_is_published_once(tfnz: Tool) -> None:
    result = tfnz("run", "-p", "8080:80", "-p", "8080:81", "nginx")
    assert result.exit_code == 125
    assert "local port 8080 is given twice" in result.stderr


def test_a_port_that_is_taken_ends_the_run(tfnz: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tfnz.cli import conftest

    taken = ListenFailed("cannot listen on 127.0.0.1 port 8080: Address already in use")
    monkeypatch.setattr(conftest.FakeContainer, "listen_error", taken)
    tfnz.location.script = lambda container: None
    result = tfnz("run", "-p", "8080:80", "nginx")
    assert result.exit_code == 125
    assert "cannot listen on 127.0.0.1 port 8080: Address already in use" in result.stderr


def test_a_container_that_is_over_at_once_needs_no_ports(tfnz: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tfnz.cli import conftest

    monkeypatch.setattr(conftest.FakeContainer, "listen_error", ObjectDead("it has ended"))
    assert tfnz("run", "-p", "8080:80", "busybox", "true").exit_code == 0
