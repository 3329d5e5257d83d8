"""Processes in a container: their ends, their users, directories, environment and descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tfnz_node.sandbox.control import InitFailed
from tfnz_node.sandbox.jobs import RunFailed, RunRequest
from tfnz_node.sandbox.wire import Stage, WireError

if TYPE_CHECKING:
    from tests.node.init.conftest import Box

#: A status pipe and three of standard input and outputs.
DESCRIPTORS_OF_A_START = 8
PATH = b"PATH=/usr/bin:/bin"


@pytest.mark.asyncio
async def test_output_error_and_exit_code_arrive(box: Box) -> None:
    outcome = await box.run("sh", "-c", "cat; echo oops >&2; exit 7", input=b"hello\n")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (7, b"hello\n", b"oops\n")


@pytest.mark.asyncio
async def test_a_signal_is_told_from_a_code(box: Box) -> None:
    outcome = await box.run("sh", "-c", "kill -TERM $$")
    assert os.WIFSIGNALED(outcome.status) and os.WTERMSIG(outcome.status) == signal.SIGTERM


@pytest.mark.asyncio
async def test_input_can_be_absent(box: Box) -> None:
    job = await box.start("cat", stdin=False)
    assert job.stdin is None
    assert os.waitstatus_to_exitcode(await job.wait()) == 0
    job.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("argv", "number", "text"),
    [
        (
            ("nothing-here",),
            errno.ENOENT,
            "there is no command nothing-here in the container (PATH is /usr/bin:/bin)",
        ),
        (("/bin/absent",), errno.ENOENT, "there is no /bin/absent in the container"),
        (("/etc/passwd",), errno.EACCES, "executing /etc/passwd: Permission denied"),
        (("/etc",), errno.EACCES, "executing /etc: Permission denied"),
        (("",), errno.ENOENT, "there is no command  in the container (PATH is /usr/bin:/bin)"),
        (
            ("/bin/no-loader",),
            errno.ENOENT,
            "/bin/no-loader exists, but the interpreter or loader it asks for does not",
        ),
        (
            ("no-loader",),
            errno.ENOENT,
            "/bin/no-loader exists, but the interpreter or loader it asks for does not",
        ),
        (
            ("no-format",),
            errno.ENOEXEC,
            "/bin/no-format is not a program for this machine; does a script lack its #! line?",
        ),
        (
            ("not-executable",),
            errno.EACCES,
            "not-executable was found, but may not be executed (PATH is /usr/bin:/bin)",
        ),
    ],
)
async def test_what_cannot_be_executed_says_why(
    box: Box, argv: tuple[str, ...], number: int, text: str
) -> None:
    for name, mode in (("no-loader", 0o755), ("no-format", 0o755), ("not-executable", 0o644)):
        (box.root / "bin" / name).write_text("#!/absent\n" if name == "no-loader" else "text\n")
        (box.root / "bin" / name).chmod(mode)
    with pytest.raises(RunFailed) as caught:
        await box.start(*argv)
    assert (caught.value.stage, caught.value.errno, str(caught.value)) == (Stage.EXEC, number, text)


@pytest.mark.asyncio
async def test_a_failed_start_disturbs_nothing(box: Box) -> None:
    job = await box.start("cat")
    with pytest.raises(RunFailed):
        await box.start("nothing-here")
    assert (await box.finish(job, input=b"still here")).stdout == b"still here"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", "0 0 0"),
        ("root", "0 0 0"),
        ("ann", "1000 1001 1001 50 63"),
        ("1000", "1000 1001 1001 50 63"),
        ("ann:audio", "1000 63 63"),
        ("ann:5", "1000 5 5"),
        ("4242", "4242 0 0"),
        ("4242:77", "4242 77 77"),
        ("65535:65535", "65535 65535 65535"),
        ("7", "9 9 9"),
    ],
)
async def test_users_come_from_the_container(box: Box, spec: str, expected: str) -> None:
    assert (await box.shell("echo $(id -u) $(id -g) $(id -G)", user=spec)).split() == expected.split()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            "bob",
            "there is no user bob in the container's /etc/passwd; name one that exists, or give a number",
        ),
        (
            "ann:none",
            "there is no group none in the container's /etc/group; name one that exists, or give a number",
        ),
        ("65536", "user 65536 is not within 0..65535"),
        ("0:99999999999999999999", "group 99999999999999999999 is not within 0..65535"),
        ("-1", "there is no user -1 in the container's /etc/passwd; name one that exists, or give a number"),
        ("x" * 300, "a user or group name of more than 255 bytes"),
    ],
)
async def test_a_user_that_does_not_exist_is_named(box: Box, spec: str, text: str) -> None:
    with pytest.raises(RunFailed) as caught:
        await box.start("true", user=spec)
    assert (caught.value.stage, str(caught.value)) == (Stage.USER, text)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "make", ["fifo", "link to a device", "link to itself", "huge line", "magic link", "absent"]
)
async def test_a_hostile_passwd_file_is_not_waited_for(box: Box, make: str) -> None:
    passwd = box.root / "etc" / "passwd"
    passwd.unlink()
    if make == "fifo":
        os.mkfifo(passwd)
    elif make == "link to a device":
        passwd.symlink_to("/dev/zero")
    elif make == "link to itself":
        passwd.symlink_to("passwd")
    elif make == "huge line":
        passwd.write_bytes(b"root:" + b"x" * (5 << 20))
    elif make == "magic link":
        passwd.symlink_to("/proc/self/fd/0")
    status = (await box.run("cat", "/proc/self/status", user="12")).stdout
    assert b"Uid:\t12\t" in status
    with pytest.raises(RunFailed, match="there is no user ann"):
        await box.start("true", user="ann")


@pytest.mark.asyncio
async def test_home_comes_from_passwd_unless_given(box: Box) -> None:
    assert (await box.shell("echo $HOME", user="ann")) == "/home/ann\n"
    assert (await box.shell("echo $HOME", user="4242")) == "/\n"
    outcome = await box.run("sh", "-c", "echo $HOME", user="ann", env=(PATH, b"HOME=/tmp"))
    assert outcome.stdout == b"/tmp\n"


@pytest.mark.asyncio
async def test_the_environment_is_exactly_what_was_given(box: Box) -> None:
    outcome = await box.run("env", env=(PATH, b"A=1=2", b"B=", b"HOME=/", b"C=\xff"))
    assert sorted(outcome.stdout.splitlines()) == [b"A=1=2", b"B=", b"C=\xff", b"HOME=/", PATH]


@pytest.mark.asyncio
async def test_the_directory_is_entered_and_only_the_main_process_gets_it_made(box: Box) -> None:
    assert (await box.run("pwd", cwd="/home/ann")).stdout == b"/home/ann\n"
    with pytest.raises(RunFailed) as caught:
        await box.start("pwd", cwd="/srv/app/data")
    assert caught.value.stage is Stage.CWD
    assert str(caught.value) == "the working directory /srv/app/data: No such file or directory"
    outcome = await box.run(
        "sh", "-c", "pwd; stat -c '%a %u' /srv/app", cwd="/srv/app/data", user="ann", main=True
    )
    assert outcome.stdout == b"/srv/app/data\n755 0\n"


@pytest.mark.asyncio
@pytest.mark.parametrize("cwd", ["/proc/self/fd/0", "/proc/self/cwd", "/proc/1/root", "/etc/passwd"])
async def test_a_directory_that_leads_outside_is_refused(box: Box, cwd: str) -> None:
    with pytest.raises(RunFailed) as caught:
        await box.start("pwd", cwd=cwd, main=True)
    assert caught.value.stage is Stage.CWD


@pytest.mark.asyncio
async def test_standard_streams_can_be_opened_by_name(box: Box) -> None:
    for user in ("", "ann", "4242"):
        outcome = await box.run(
            "sh", "-c", "cat </dev/stdin >/dev/stdout; echo e >/dev/stderr", user=user, input=b"in"
        )
        assert (outcome.code, outcome.stdout, outcome.stderr) == (0, b"in", b"e\n")


@pytest.mark.asyncio
async def test_a_signal_reaches_the_process_or_its_group(box: Box) -> None:
    job = await box.start(
        "sh", "-c", "trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.01; done"
    )
    assert job.stdout is not None
    await _read_line(job.stdout)
    await box.init.signal(job.id, signal.SIGUSR1)
    assert (await box.finish(job)).code == 3

    job = await box.start("sh", "-c", "sleep 1000 & echo ready; wait")
    assert job.stdout is not None
    await _read_line(job.stdout)
    await box.init.signal(job.id, signal.SIGKILL, group=True)
    # The end of standard output shows that the child in the background has died too.
    assert (await box.finish(job)).code == -signal.SIGKILL


@pytest.mark.asyncio
async def test_a_signal_to_nobody_or_of_no_number_is_refused(box: Box) -> None:
    outcome = await box.run("true")
    assert outcome.code == 0
    with pytest.raises(InitFailed, match="process 77 has ended") as caught:
        await box.init.signal(77, signal.SIGTERM)
    assert caught.value.errno == errno.ESRCH
    job = await box.start("cat")
    with pytest.raises(InitFailed, match="there is no signal 99"):
        await box.init.signal(job.id, 99)
    await box.finish(job)


@pytest.mark.asyncio
async def test_signals_the_daemon_ignores_are_not_ignored_inside(box: Box) -> None:
    status = (await box.run("cat", "/proc/self/status")).stdout.decode()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert int(fields["SigIgn"], 16) == 0 and int(fields["SigBlk"], 16) == 0


@pytest.mark.asyncio
async def test_each_of_many_processes_is_reported_once(box: Box) -> None:
    async def one(number: int) -> int:
        return (await box.run("sh", "-c", f"exit {number % 100}")).code

    for start in range(0, 1000, 50):
        numbers = range(start, start + 50)
        assert await asyncio.gather(*map(one, numbers)) == [number % 100 for number in numbers]


@pytest.mark.asyncio
async def test_what_is_given_up_while_init_stands_still_leaves_nothing(box: Box) -> None:
    def count_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count_descriptors()
    large = b"X=" + b"x" * 100_000
    os.kill(box.init.pid, signal.SIGSTOP)
    try:
        for number in range(1, 101):
            request = RunRequest(id=number, argv=[b"sleep", b"1000"], env=(PATH, large))
            beginning = asyncio.create_task(box.init.begin(request))
            await asyncio.sleep(0)
            beginning.cancel()
            await asyncio.wait([beginning])
        # Some have reached init's socket, and keep their input open until they have been ended.
        assert count_descriptors() <= before + 5 * DESCRIPTORS_OF_A_START
    finally:
        os.kill(box.init.pid, signal.SIGCONT)
    assert (await box.run("true")).code == 0
    async with asyncio.timeout(30):
        while count_descriptors() > before:
            await box.run("true")
    assert "sleep" not in await box.shell("ps -o comm")


@pytest.mark.asyncio
async def test_orphans_are_reaped(box: Box) -> None:
    await box.shell("for i in 1 2 3 4 5 6 7 8; do (sh -c ': & :' &) ; done")
    async with asyncio.timeout(30):
        while len((await box.shell("ps -o comm")).splitlines()) > 4:  # a title, init, the shell and ps
            await box.run("true")


@pytest.mark.asyncio
async def test_two_processes_cannot_have_one_id(box: Box) -> None:
    job = await box.start("cat")
    with pytest.raises(ValueError, match=f"already has a process {job.id}"):
        await box.init.run(RunRequest(id=job.id, argv=[b"true"], env=(PATH,)))
    await box.finish(job)


@pytest.mark.asyncio
async def test_a_command_that_is_too_long_is_refused_here(box: Box) -> None:
    with pytest.raises(WireError, match="RUN would take 150"):
        await box.start("echo", "x" * 150_000)
    assert len((await box.run("echo", "x" * 100_000)).stdout) == 100_001


@pytest.mark.asyncio
async def test_a_run_that_is_cancelled_leaves_no_process(box: Box) -> None:
    for _ in range(20):
        task = asyncio.create_task(box.start("sleep", "1000"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # Each is killed as soon as its start is reported.
    while "sleep" in await box.shell("ps -o comm"):
        pass


@pytest.mark.asyncio
async def test_the_table_of_processes_is_bounded(box: Box) -> None:
    jobs = []
    with pytest.raises(InitFailed, match="1024 processes") as caught:
        for _ in range(1100):
            jobs.append(await box.start("sleep", "1000"))
            jobs[-1].close()
    assert caught.value.errno == errno.EAGAIN and len(jobs) == 1024
    for job in jobs:
        box.init.kill_job(job.id)
    assert {await job.wait() for job in jobs} == {signal.SIGKILL}
    assert (await box.run("true")).code == 0


async def _read_line(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    await ready.wait()
    loop.remove_reader(fd)
    assert os.read(fd, 100) == b"ready\n"
