"""Containers from spawn to end, through the blocking API, on a real node."""

from __future__ import annotations

import queue
import signal
import threading

import pytest

from tests.system.waiting import SOON_S
from tfnz import Location, Secret
from tfnz.protocol.errors import ObjectDead, TagInUse
from tfnz.protocol.exits import Cause, Exit


def test_a_container_runs_and_is_gone(location: Location) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
    assert container.is_ready()
    assert container in location.node().all_containers()
    assert container.ip.startswith("10.200.")
    container.destroy()
    assert container.dead
    assert container.exit == Exit(Cause.DESTROYED)
    assert container not in location.node().all_containers()
    with pytest.raises(ObjectDead, match=container.uuid):
        container.run("true")
    with pytest.raises(ValueError, match="ended"):
        location.node().destroy_container(container)
    container.destroy()


def test_the_least_that_may_be_asked_for_is_enough(location: Location) -> None:
    least = location.node().spawn("busybox", ["true"], memory="4M", disk="1M", pids=2, cpus=0.01)
    assert least.wait(SOON_S) == Exit(Cause.EXITED, 0)
    container = location.node().spawn("busybox", ["sleep", "1000"], memory="4M")
    assert container.run("ls / | wc -l").exit_code == 0
    container.put("/file", bytes(1 << 20))
    assert container.fetch("/file") == bytes(1 << 20)
    container.reboot(reset_filesystem=True)
    assert container.run("true").exit_code == 0


def test_output_and_the_end_arrive_in_callbacks_in_order(location: Location) -> None:
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    container = location.node().spawn(
        "busybox",
        "echo one; echo two; exit 3",
        stdout_callback=lambda _, data: events.put(data),
        termination_callback=lambda one, code: events.put((one, code, one.exit)),
    )
    output = b""
    while isinstance(event := events.get(timeout=SOON_S), bytes):
        output += event
    assert output == b"one\ntwo\n"
    assert event == (container, 3, Exit(Cause.EXITED, 3))


def test_ten_megabytes_of_output_arrive_whole(location: Location) -> None:
    size, done = [0], threading.Event()

    def count(_: object, data: bytes) -> None:
        size[0] += len(data)

    location.node().spawn(
        "busybox",
        "dd if=/dev/zero bs=1M count=10 2>/dev/null",
        pty=False,
        stdout_callback=count,
        termination_callback=lambda *_: done.set(),
    )
    assert done.wait(SOON_S)
    assert size[0] == 10 << 20


def test_environment_command_user_and_directory(location: Location) -> None:
    output: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    container = location.node().spawn(
        "python",
        "env | grep -e COLOUR -e EMPTY -e HOME; id -u; pwd; echo end; sleep 1000",
        env={"COLOUR": "a=b c", "EMPTY": ""},
        user="nobody",
        workdir="/srv/new",
        stdout_callback=lambda _, data: output.put(data),
    )
    seen = b""
    while not seen.endswith(b"end\n"):
        seen += output.get(timeout=SOON_S)
    assert set(seen.splitlines()) >= {b"COLOUR=a=b c", b"EMPTY=", b"HOME=/nonexistent", b"65534", b"/srv/new"}
    assert b"COLOUR=a=b c" in container.run("env").stdout
    assert container.run("id -u; pwd").stdout == b"0\n/\n"
    assert container.run("id -u; pwd", user="nobody", cwd="/tmp").stdout == b"65534\n/tmp\n"


def test_the_images_own_settings_hold(location: Location) -> None:
    """The nginx image says StopSignal SIGQUIT, upon which nginx exits with 0; SIGKILL would not."""
    container = location.node().spawn("nginx").wait_until_ready()
    assert container.docker_config["StopSignal"] == "SIGQUIT"
    connect = "until exec 3<>/dev/tcp/127.0.0.1/80; do sleep 0.05; done"
    request = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3"
    served = container.run(["bash", "-c", f"{connect}; {request}"], timeout_s=SOON_S)
    assert b"200" in served.stdout, served
    container.signal()
    assert container.wait(SOON_S) == Exit(Cause.EXITED, 0)


def test_files_and_secrets_are_there_before_the_main_process(location: Location) -> None:
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    container = location.node().spawn(
        "busybox",
        "cat /etc/app/conf /run/key; grep ' /run/key ' /proc/mounts; stat -c '%a %u' /run/key; echo end; sleep 1000",
        pre_boot_files=[("/etc/app/conf", "text ä\n"), ("/run/key", Secret(b"hidden\n"))],
        stdout_callback=lambda _, data: lines.put(data),
    )
    output = b""
    while not output.endswith(b"end\n"):
        output += lines.get(timeout=SOON_S)
    text, hidden, mount, mode, _ = output.splitlines()
    assert text.decode() == "text ä"
    assert hidden == b"hidden"
    assert b" tmpfs " in mount
    assert mode == b"400 0"
    assert container.fetch("/etc/app/conf") == "text ä\n".encode()


def test_a_sleeping_container_works_until_it_is_started(location: Location) -> None:
    output: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    container = (
        location.node()
        .spawn(
            "busybox",
            "cat /started-with; sleep 1000",
            sleep=True,
            stdout_callback=lambda _, data: output.put(data),
        )
        .wait_until_ready()
    )
    assert b"started-with" not in container.run("ps -o args").stdout
    container.put("/started-with", b"what was put\n")
    assert output.empty()
    container.start()
    assert output.get(timeout=SOON_S) == b"what was put\n"
    container.start()  # of one that is awake: nothing


def test_stdin_reaches_the_main_process_and_the_interrupt_character_works(location: Location) -> None:
    output: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    container = location.node().spawn(
        "busybox",
        "trap 'exit 9' INT; read line; echo got $line; while :; do sleep 0.1; done",
        stdout_callback=lambda _, data: output.put(data),
    )
    container.stdin(b"a line\n")
    assert output.get(timeout=SOON_S) == b"got a line\n"
    container.stdin(b"\x03")
    assert container.wait(SOON_S) == Exit(Cause.EXITED, 9)


def test_a_shell_image_without_a_command_stays_alive(location: Location) -> None:
    container = location.node().spawn("busybox").wait_until_ready()
    container.stdin(b"exit 5\n")
    assert container.wait(SOON_S) == Exit(Cause.EXITED, 5)


def test_reboot_keeps_address_files_and_identity(location: Location) -> None:
    ended: list[object] = []
    container = location.node().spawn(
        "busybox",
        ["sleep", "1000"],
        env={"A": "b"},
        pre_boot_files=[("/pre", b"boot"), ("/key", Secret(b"hidden"))],
        termination_callback=lambda *args: ended.append(args),
    )
    uuid, ip = container.uuid, container.ip
    container.put("/kept", b"kept")
    process_ended = threading.Event()
    container.spawn("sleep 1000", termination_callback=lambda *_: process_ended.set())
    first = container.run("cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1").stdout
    container.reboot()
    assert process_ended.wait(SOON_S)
    assert (container.uuid, container.ip) == (uuid, ip)
    assert container.fetch("/kept") == b"kept"
    assert container.run("cat /key; echo; echo $A; hostname -i 2>/dev/null; ip -4 addr show lo").stdout.count(
        ip.encode()
    )
    assert container.run("cat /key").stdout == b"hidden"
    assert first
    container.reboot(reset_filesystem=True)
    with pytest.raises(FileNotFoundError):
        container.fetch("/kept")
    assert container.fetch("/pre") == b"boot"
    assert container.run("cat /key").stdout == b"hidden"
    assert (container.uuid, container.ip) == (uuid, ip)
    assert not ended
    assert not container.dead


def test_a_callback_may_reboot_the_container_whose_output_it_holds_up(location: Location) -> None:
    """While it runs it takes no output, and what the container has written before is never all delivered."""
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()
    container = location.node().spawn("busybox")
    held_up = threading.Event()

    def reboot(process: object, data: bytes) -> None:
        if answers.empty():
            held_up.wait(SOON_S)
            container.reboot()
            answers.put(container.run("echo again").stdout)

    process = container.spawn("yes", data_callback=reboot)
    container.run("until [ $(cut -d ' ' -f 3 /proc/$(pidof yes)/stat) = S ]; do :; done")  # it cannot write
    held_up.set()
    assert answers.get(timeout=SOON_S) == b"again\n"
    assert process.wait(SOON_S) == Exit(Cause.CONTAINER_ENDED)


def test_a_reboot_of_a_sleeping_container_leaves_it_asleep(location: Location) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"], sleep=True).wait_until_ready()
    container.reboot()
    assert b"sleep 1000" not in container.run("ps -o args").stdout
    container.start()
    assert b"sleep 1000" in container.run("ps -o args").stdout


def test_tags_are_unique_and_released_at_once(location: Location) -> None:
    node = location.node()
    container = node.spawn("busybox", ["sleep", "1000"], tag="Web").wait_until_ready()
    assert container.tag == "web"
    with pytest.raises(TagInUse, match="web"):
        node.spawn("busybox", ["sleep", "1000"], tag="web")
    container.destroy()
    node.spawn("busybox", ["sleep", "1000"], tag="web").wait_until_ready()


def test_many_at_once(location: Location) -> None:
    containers = [location.node().spawn("busybox", ["sleep", "1000"]) for _ in range(40)]
    assert len({container.wait_until_ready().ip for container in containers}) == 40
    assert all(container.run("echo $((6 * 7))").stdout == b"42\n" for container in containers)


def test_one_that_fails_disturbs_nobody(location: Location) -> None:
    good = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
    bad = location.node().spawn("busybox", ["no-such-command"])
    with pytest.raises(RuntimeError, match="no-such-command"):
        bad.wait_until_ready()
    assert bad.exit is not None
    assert bad.exit.cause is Cause.FAILED_TO_START
    assert good.run("echo fine").stdout == b"fine\n"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["sh", "-c", "exit 0"], Exit(Cause.EXITED, 0)),
        (["sh", "-c", "exit 255"], Exit(Cause.EXITED, 255)),
        (["sh", "-c", "kill -TERM $$"], Exit(Cause.SIGNALLED, signal=signal.SIGTERM)),
        (["sh", "-c", "kill -KILL $$"], Exit(Cause.SIGNALLED, signal=signal.SIGKILL)),
    ],
)
def test_the_end_tells_its_cause(location: Location, command: list[str], expected: Exit) -> None:
    assert location.node().spawn("busybox", command).wait(SOON_S) == expected


def test_running_out_of_memory_is_told_apart_from_a_kill(location: Location) -> None:
    container = location.node().spawn("busybox", ["tail", "/dev/zero"], memory="32M")
    end = container.wait(SOON_S)
    assert end.cause is Cause.OUT_OF_MEMORY
    assert end.returncode == 137


def test_a_container_that_takes_too_long_is_ended(location: Location) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"], timeout_s=0.2)
    end = container.wait(SOON_S)
    assert end.cause is Cause.TIMED_OUT
    assert "0.2 s" in str(end)


def test_a_wait_that_expires_leaves_the_container_alone(location: Location) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
    with pytest.raises(TimeoutError):
        container.wait(0.05)
    assert container.run("echo alive").stdout == b"alive\n"


def test_a_container_ends_while_it_is_starting(location: Location) -> None:
    for _ in range(20):
        container = location.node().spawn("busybox", ["sleep", "1000"])
        container.destroy()
        assert container.exit is not None


def test_names_of_1_3_still_work(location: Location) -> None:
    node = location.ranked_nodes()[0]
    assert {"memory", "cpu", "paging"} <= set(node.stats)
    container = node.spawn_container(
        "busybox", command=["sleep", "1000"], env=[("A", "1")], pre_boot_files=[("/f", "x")]
    )
    assert container.parent() is node
    assert container.private_ip() == container.ip
    assert container.run_process("echo $A; cat /f; exit 4") == (b"1\nx", b"", 4)
    process = container.spawn_process("cat")
    assert process in container.all_processes()
    container.destroy_process(process)
    assert process.dead
    node.destroy_container(container)
    assert container.dead


def test_the_nodes_status(location: Location) -> None:
    status = location.node().status()
    assert status.storage == "btrfs"
    assert status.memory_total_bytes > status.memory_free_bytes > 0
