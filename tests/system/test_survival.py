"""The daemon dies, and everything goes on: containers, their output and ends, and the programs that have them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from tests.system.conftest import SMALL, RunningNode, import_images, make_node
from tests.system.host_state import adopt_orphans, look, look_at_rest, wait_until
from tests.system.programs import program
from tests.system.storm import run_storm
from tests.system.told import Told
from tests.system.waiting import PATIENCE, SOON_S, wait_for
from tfnz import Container
from tfnz.protocol.exits import Cause
from tfnz_node.keeper.base import Kept
from tfnz_node.keeper.client import KeeperClient, open_keeper
from tfnz_node.supervisor.records import ContainerRecord, decode, encode

SLEEP = ["sleep", "1000"]


def restart(node: RunningNode) -> None:
    node.crash()
    node.start()


def test_containers_and_processes_run_on_and_are_used_as_before(own: RunningNode) -> None:
    with own.location() as location:
        told, of_process = Told(), Told()
        container = location.node().spawn(
            "busybox", ["cat"], tag="it", pty=False, stdout_callback=told.say, termination_callback=told.end
        )
        container.wait_until_ready()
        container.put("/file", b"kept")
        process = container.spawn(
            "cat; exit 4", data_callback=of_process.say, termination_callback=of_process.end
        )
        container.stdin(b"before\n")
        process.stdin(b"1\n")
        pid = container.run("cat /proc/1/stat").stdout
        for number in range(2):
            restart(own)
            container.stdin(f"after {number}\n".encode())
            process.stdin(f"{number + 2}\n".encode())
            assert container.run("cat /file").stdout == b"kept"
        assert container.run("cat /proc/1/stat").stdout.split()[:2] == pid.split()[:2]
        wait_for(lambda: told.output == b"before\nafter 0\nafter 1\n", SOON_S, "the output is not whole")
        wait_for(lambda: of_process.output == b"1\n2\n3\n", SOON_S, "the process's output is not whole")
        assert [one.tag for one in location.containers()] == ["it"]
        container.reboot()
        assert container.run("cat /file").stdout == b"kept"
        of_process.wait_for_end()
        assert told.ends == []
        container.destroy()
        assert len(told.ends) == 1


def test_what_happened_without_a_daemon_is_told(own: RunningNode) -> None:
    with own.location() as location:
        told, of_process = Told(), Told()
        script = "while [ ! -e /go ]; do usleep 10000; done; echo said; echo complained >&2; exit 3"
        container = location.node().spawn(
            "busybox",
            ["sh", "-c", script],
            pty=False,
            stdout_callback=told.say,
            stderr_callback=told.complain,
            termination_callback=told.end,
        )
        container.wait_until_ready()
        late = "echo $$ >/late; sleep 1; echo late; exit 5"
        container.spawn(late, data_callback=of_process.say, termination_callback=of_process.end)
        # When its process is there no more, its end is known; that of a process comes before that of the container.
        gone = 'until [ -s /late ]; do usleep 10000; done; while [ -e "/proc/$(cat /late)" ]; do usleep 10000; done'
        container.spawn(f"{gone}; touch /go")
        own.crash()
        threading.Event().wait(2.0)  # for the containers, which nobody can be asked about
        own.start()
        assert of_process.wait_for_end() == 5
        assert told.wait_for_end() == 3
        assert [bytes(one) for one in (told.output, told.errors, of_process.output)] == [
            b"said\n",
            b"complained\n",
            b"late\n",
        ]
        wait_for(lambda: not location.containers(), SOON_S, "it is still there")


DESTROY = """
import sys
from tfnz import Location, NodeRestarted

with Location(socket=sys.argv[1], quiet=True) as location:
    container = location.node().spawn("busybox", "sleep 1000").wait_until_ready()
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        container.destroy()
    except NodeRestarted:
        container.wait(SOON_S)
    print(container.exit.cause.value, flush=True)
"""


@pytest.mark.parametrize("point", ["destroy: kept", "destroy: ended", "destroy: end kept", "destroy: told"])
def test_a_program_that_comes_late_hears_why_its_container_has_ended(own: RunningNode, point: str) -> None:
    """The next daemon brings the end to its end, which leaves no container that the program could ask for."""
    own.crash()
    own.start(crash_at=point)
    with program(DESTROY, str(own.socket)) as late:
        late.expect("ready")
        late.write(b"destroy it\n")
        first = own.process
        assert first is not None
        assert first.wait(SOON_S) == -signal.SIGKILL
        late.process.send_signal(signal.SIGSTOP)
        own.start()
        with own.location() as other:
            wait_for(lambda: not other.containers(), SOON_S, "the container has not ended")
        late.process.send_signal(signal.SIGCONT)
        late.expect("destroyed")


def test_the_input_of_a_process_ends_once_the_keeper_has_let_go(own: RunningNode) -> None:
    with own.location() as location:
        container = location.node().spawn("busybox", SLEEP).wait_until_ready()
        told = Told()
        process = container.spawn("cat; exit 6", data_callback=told.say, termination_callback=told.end)
        process.stdin(b"one\n")
        wait_for(lambda: told.output == b"one\n", SOON_S, "it does not answer")
        restart(own)
        process.stdin(b"two\n")
        process.close_stdin()
        assert told.wait_for_end() == 6
        assert told.output == b"one\ntwo\n"


def test_a_program_that_ends_meanwhile_is_noticed(own: RunningNode) -> None:
    source = """
import sys, time
from tfnz import Location
location = Location(socket=sys.argv[1], quiet=True)
location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
print("ready", flush=True)
time.sleep(1000)
"""
    with program(source, str(own.socket)) as client:
        client.expect("ready")
        own.crash()
        client.kill()
        own.start()
        with own.location() as location:
            wait_for(lambda: location.node().status().containers == 0, SOON_S, "it outlives its program")


def test_permissions_and_egress_stay(own: RunningNode) -> None:
    with own.location() as location:
        server = location.node().spawn("busybox", ["sh", "-c", "while :; do echo served | nc -l -p 80; done"])
        client = location.node().spawn("busybox", SLEEP)
        client.wait_until_ready()
        server.wait_until_ready()
        ask = f"nc -w 2 {server.ip} 80 </dev/null"
        assert client.run(ask).stdout == b""
        server.allow_connection_from(client)
        wait_for(lambda: client.run(ask).stdout == b"served\n", SOON_S, "it is not let in")
        restart(own)
        wait_for(lambda: client.run(ask).stdout == b"served\n", SOON_S, "it is not let in any more")
        server.disallow_connection_from(client)
        restart(own)
        assert client.run(ask).stdout == b""


@contextlib.contextmanager
def kept_record(node: RunningNode, container: Container) -> Iterator[tuple[KeeperClient, Kept]]:
    """What the keeper has of a container, while there is no daemon."""
    keeper = open_keeper(node.data_dir, Path("/absent"), 60.0)
    try:
        [kept] = [one for one in keeper.found if one.name == f"container.{container.uuid}"]
        yield keeper, kept
    finally:
        for one in keeper.found:
            one.close()
        keeper._socket.close()  # as a daemon that is killed: `close` would end everything


def change_record(node: RunningNode, container: Container) -> None:
    """Have the keeper say of a container, while there is no daemon, what cannot be."""
    with kept_record(node, container) as (keeper, kept):
        record = msgspec.structs.replace(decode(kept.record, ContainerRecord), slot=10**9)
        keeper.put(kept.name, encode(record), kept.fds)


def find_init(node: RunningNode, container: Container) -> int:
    """The process id of a container's init, while there is no daemon."""
    with kept_record(node, container) as (_, kept):
        return decode(kept.record, ContainerRecord).pid


def test_an_init_that_does_not_answer_holds_up_nobody_else(own: RunningNode) -> None:
    with own.location() as location, own.location() as another:
        told = Told()
        slow = location.node().spawn(
            "busybox", ["cat"], pty=False, stdout_callback=told.say, termination_callback=told.end
        )
        slow.wait_until_ready()
        process = slow.spawn("sleep 1000")
        other = location.node().spawn("busybox", SLEEP).wait_until_ready()
        others = another.node().spawn("busybox", SLEEP).wait_until_ready()
        own.crash()
        init = find_init(own, slow)
        os.kill(init, signal.SIGSTOP)
        own.start()
        for one in (other, others):
            assert one.run("echo here").stdout == b"here\n"
        assert location.node().spawn("busybox", ["true"]).wait(SOON_S).ok
        # What needs no init goes on, too.
        slow.stdin(b"one\n")
        wait_for(lambda: told.output == b"one\n", SOON_S, "it does not answer")
        with ThreadPoolExecutor(1) as calls:
            running = calls.submit(slow.run, "echo awake")
            location.containers()  # asked after that, and answered before
            assert not running.done()
            os.kill(init, signal.SIGCONT)
            assert running.result(SOON_S).stdout == b"awake\n"
        process.destroy()
        assert told.ends == []
        slow.destroy()
        assert len(told.ends) == 1


@pytest.mark.parametrize("while_away", [True, False], ids=["while there is no daemon", "after the restart"])
def test_an_init_that_is_killed_is_why_its_processes_have_ended(own: RunningNode, while_away: bool) -> None:
    with own.location() as location:
        container = location.node().spawn("busybox", SLEEP).wait_until_ready()
        process = container.spawn(SLEEP)
        own.crash()
        init = find_init(own, container)
        if while_away:
            os.kill(init, signal.SIGKILL)
        own.start()
        if not while_away:
            assert container.run("true").exit_code == 0
            os.kill(init, signal.SIGKILL)
        assert process.wait(SOON_S).cause is Cause.CONTAINER_ENDED
        assert container.wait(SOON_S).cause is Cause.SIGNALLED


def wait_for_crash(node: RunningNode) -> None:
    """Return when the daemon has died, and what it has started has had the time to end without one."""
    assert node.process is not None
    assert node.process.wait(SOON_S) == -signal.SIGKILL
    threading.Event().wait(1.0)  # for the containers, which nobody can be asked about


def test_a_main_process_that_ends_as_soon_as_it_was_started_is_told_of_once(own: RunningNode) -> None:
    """It ends before the daemon has written down that it runs, and that daemon dies."""
    with own.location() as location:
        for asleep in (False, True):
            told = Told()
            own.crash()
            own.start(crash_at="start: executed")
            location.containers()  # it has come back
            container = location.node().spawn(
                "busybox", ["sh", "-c", "exit 3"], sleep=asleep, termination_callback=told.end
            )
            with ThreadPoolExecutor(1) as calls:
                starting = calls.submit(container.start) if asleep else None
                wait_for_crash(own)
                own.start()
                if starting is not None:
                    starting.result(SOON_S)  # it is asked for again
            assert told.wait_for_end() == 3
            wait_for(lambda: not location.containers(), SOON_S, "it is still there")
            assert told.ends == [3]


def test_what_is_wrong_with_one_container_ends_that_one_alone(tmp_path: Path) -> None:
    adopt_orphans()
    node = make_node(tmp_path, port=2049, settings=SMALL)
    before = look_at_rest(None, node.data_dir)
    try:
        node.start()
        import_images(node, "busybox")
        with node.location() as location:
            sound = location.node().spawn("busybox", SLEEP).wait_until_ready()
            broken = location.node().spawn("busybox", SLEEP).wait_until_ready()
            node.crash()
            change_record(node, broken)
            node.start()
            assert sound.run("echo fine").stdout == b"fine\n"
            assert broken.wait(SOON_S).cause is Cause.NODE_LOST
            assert f"container {broken.uuid} cannot be taken over" in node.log
            assert location.node().spawn("busybox", ["true"]).wait(SOON_S).ok
        node.stop()
        wait_until(before, lambda: look(None, node.data_dir))
    finally:
        node.kill()


def test_it_steps_aside_for_the_next(own: RunningNode) -> None:
    with own.location() as location:
        container = location.node().spawn("busybox", SLEEP).wait_until_ready()
        assert own.process is not None
        own.process.send_signal(signal.SIGUSR1)
        assert own.process.wait(SOON_S) == 0
        own.start()
        assert container.run("echo here").stdout == b"here\n"


def test_a_start_that_fails_leaves_all_to_the_next(own: RunningNode) -> None:
    """It has found containers, and ends before it serves."""
    with own.location() as location:
        server = location.node().spawn("busybox", ["sh", "-c", "while :; do echo served | nc -l -p 80; done"])
        told, of_process = Told(), Told()
        container = location.node().spawn(
            "busybox", ["cat"], pty=False, stdout_callback=told.say, termination_callback=told.end
        )
        container.wait_until_ready()
        server.wait_until_ready()
        server.allow_connection_from(container)
        container.put("/file", b"kept")
        process = container.spawn(
            "cat; exit 4", data_callback=of_process.say, termination_callback=of_process.end
        )
        container.stdin(b"before\n")
        process.stdin(b"1\n")
        wait_for(lambda: told.output == b"before\n" and of_process.output == b"1\n", SOON_S, "it is silent")
        own.crash()
        with taken_port(own.tcp), pytest.raises(AssertionError, match="did not start"):
            own.start()
        assert own.process is not None
        assert own.process.wait(SOON_S) == 1
        assert f"cannot listen on {own.tcp}" in own.log
        own.start()
        container.stdin(b"after\n")
        process.stdin(b"2\n")
        process.close_stdin()
        wait_for(lambda: told.output == b"before\nafter\n", SOON_S, "the output is not whole")
        assert of_process.wait_for_end() == 4
        assert of_process.output == b"1\n2\n"
        assert container.run("cat /file").stdout == b"kept"
        ask = f"nc -w 2 {server.ip} 80 </dev/null"
        wait_for(lambda: container.run(ask).stdout == b"served\n", SOON_S, "it is not let in any more")
        assert told.ends == []
        container.destroy()
        assert len(told.ends) == 1


@contextlib.contextmanager
def taken_port(endpoint: str) -> Iterator[None]:
    """Within the context, nobody else can listen there."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with contextlib.closing(socket.socket()) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, int(port)))
        taken.listen()
        yield


def test_without_a_keeper_everything_ends_with_the_daemon(tmp_path: Path) -> None:
    adopt_orphans()
    node = make_node(tmp_path, port=2048, settings=SMALL + "takeover_s = 0\n")
    before = look_at_rest(None, node.data_dir)
    with contextlib.ExitStack() as stack:
        stack.callback(node.kill)
        node.start()
        assert node.find_keeper() is None
        import_images(node, "busybox")
        location = node.location()
        location.node().spawn("busybox", SLEEP).wait_until_ready()
        node.crash()
        wait_for(
            lambda: look(None, node.data_dir).processes == before.processes, SOON_S, "containers outlive it"
        )


@pytest.mark.timeout(300 * PATIENCE)  # many restarts, each of which takes seconds on a busy machine
def test_nothing_is_lost_or_doubled_in_a_storm(own: RunningNode) -> None:
    _, wrong = run_storm(own, kills=10, containers=8, seed=20)
    assert not wrong
