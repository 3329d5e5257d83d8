"""Booting: the root, the files and the secrets that are there before anything runs, and what can go wrong."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from tests.node.supervisor.fake_jobs import no_descriptor_more
from tests.node.supervisor.fake_sandbox import LIMITS, FakeSandbox, FakeStorage, make_host
from tfnz.protocol.errors import (
    DiskFull,
    InvalidArgument,
    ObjectDead,
    PathIsDirectory,
    StartFailed,
    TfnzError,
    TimedOut,
)
from tfnz.protocol.messages import PreBootFile
from tfnz_node.core.plan import ProcessPlan
from tfnz_node.sandbox.control import InitFailed, InitGone
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.sandbox.roots import ReadyRoot
from tfnz_node.supervisor import boot as module
from tfnz_node.supervisor.boot import boot, hosts_file
from tfnz_node.supervisor.spec import Host, Spec

pytestmark = pytest.mark.asyncio

SPEC = Spec(
    id="cccccccccccccccccccccc",
    account="uid:0",
    session="s",
    image_digest="sha256:0",
    layers=[Path("/layers/top"), Path("/layers/bottom")],
    main=ProcessPlan(("x",), (), "web", "/"),
    files=[
        PreBootFile("/etc/motd", b"hello", 0o640),
        PreBootFile("/run/key", b"terces", 0o644, secret=True),
    ],
    limits=LIMITS,
    disk_bytes=1 << 20,
    stop_signal=15,
)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(module, "build_rootfs", lambda *_: os.open("/dev/null", os.O_RDONLY))
    with ThreadPoolExecutor(1) as executor:
        executor.submit(int).result()  # its thread is there before descriptors are counted
        yield make_host(FakeStorage(tmp_path), executor)


async def boot_once(host: Host, sandbox: FakeSandbox, *, with_files: bool = True) -> None:
    booting = await boot(host, cast(Sandbox, sandbox), SPEC, lambda: host.storage.root, with_files=with_files)
    await booting.done()
    assert booting.scratch == host.storage.root


async def test_everything_is_there_before_anything_runs(host: Host) -> None:
    async with no_descriptor_more():
        sandbox = FakeSandbox()
        await boot_once(host, sandbox)
    init = sandbox.init
    assert init.hostname == "cccccccccccc"
    assert init.files[b"/etc/hostname"] == (b"cccccccccccc\n", 0o644, b"", False)
    assert init.files[b"/etc/hosts"] == (hosts_file("cccccccccccc", "10.200.0.7"), 0o644, b"", False)
    assert init.files[b"/etc/motd"] == (b"hello", 0o640, b"", False)
    assert init.requests == []


@pytest.mark.parametrize(
    "changes",
    [
        {"files": SPEC.files[:1]},
        {"files": SPEC.files},
        {"files": [PreBootFile("/large", b"x" * (module.QUICK_BYTES + 1))]},
        {"files": [], "limits": dataclasses.replace(LIMITS, pids=9)},
    ],
    ids=["quick", "secret", "large", "limits"],
)
async def test_a_root_that_is_ready_is_taken(
    host: Host, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataclasses.replace(SPEC, **changes)
    monkeypatch.setattr(module, "build_rootfs", None)
    async with no_descriptor_more():
        sandbox = FakeSandbox()
        ready = ReadyRoot(spec.root_kind, Path("/scratch/ready"), os.open("/dev/null", os.O_RDONLY))
        booting = await boot(host, cast(Sandbox, sandbox), spec, ready, with_files=True)
        await booting.done()
    assert booting.scratch == Path("/scratch/ready")
    assert set(sandbox.init.files) >= {file.path.encode() for file in spec.files}
    assert sandbox.limits == spec.limits


async def test_a_ready_root_is_let_go_when_something_else_fails(host: Host) -> None:
    def unseal(sealed: bytes) -> bytes:
        raise InvalidArgument("not for us")

    async with no_descriptor_more():
        ready = ReadyRoot(SPEC.root_kind, Path("/scratch/ready"), os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(InvalidArgument):
            await boot(
                dataclasses.replace(host, unseal=unseal),
                cast(Sandbox, FakeSandbox()),
                SPEC,
                ready,
                with_files=True,
            )


async def test_a_secret_is_opened_for_the_user_of_the_main_process_alone(host: Host) -> None:
    sandbox = FakeSandbox()
    await boot_once(host, sandbox)
    assert sandbox.init.files[b"/run/key"] == (b"secret", 0o600, b"web", True)


async def test_at_a_reboot_only_secrets_are_written_again(host: Host) -> None:
    sandbox = FakeSandbox()
    await boot_once(host, sandbox, with_files=False)
    assert list(sandbox.init.files) == [b"/run/key"]


async def test_hosts_know_themselves() -> None:
    lines = [line.split() for line in hosts_file("web", "10.0.0.9").decode().splitlines()]
    assert ["127.0.0.1", "localhost"] in lines
    assert ["10.0.0.9", "web"] in lines


FAILURES: list[tuple[Exception, type[TfnzError]]] = [
    (InitGone("init ended"), ObjectDead),
    (InitFailed(errno.EINVAL, "odd"), StartFailed),
    (InitFailed(errno.ENOSPC, "no space"), DiskFull),
    (InitFailed(errno.EDQUOT, "no quota"), DiskFull),
    (TimeoutError("no answer"), TimedOut),
]


@pytest.mark.parametrize(("failure", "error"), FAILURES)
async def test_an_init_that_cannot_boot_says_why(
    host: Host, failure: Exception, error: type[TfnzError]
) -> None:
    async with no_descriptor_more():
        sandbox = FakeSandbox()
        sandbox.init.failures["boot"] = failure
        with pytest.raises(error) as caught:
            await boot_once(host, sandbox)
        assert type(caught.value) is error


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (InitFailed(errno.EISDIR, "is a directory"), PathIsDirectory),
        (InitFailed(errno.ENOSPC, "no space"), DiskFull),
        (InitGone("init ended"), ObjectDead),
        (TimeoutError("no answer"), TimedOut),
    ],
)
async def test_a_file_that_cannot_be_written_says_why(
    host: Host, failure: Exception, error: type[TfnzError]
) -> None:
    sandbox = FakeSandbox()
    sandbox.init.failures["/etc/motd"] = failure
    with pytest.raises(error, match="/etc/motd" if isinstance(failure, InitFailed) else None) as caught:
        await boot_once(host, sandbox)
    assert type(caught.value) is error
