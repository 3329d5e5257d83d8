"""What all tests share: nothing of theirs may depend on who runs them, or where."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tfnz_node.kernel.syscalls import CLONE_NEWNET, CLONE_NEWNS, MS_PRIVATE, MS_REC, mount, unshare

# How long anything takes says nothing: the machine may be busy.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Whoever starts us in the background, or with nohup, has Ctrl-C or a hang-up ignored: programs of the tests must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
for ending in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(ending, signal.SIG_DFL)


def _enter_private_host() -> None:
    """What scripts/private-host does for all tests, once more for each of several processes that share them.

    Their nodes have the same ports, addresses and table of the firewall. Nothing else of a node is a host's only one.
    """
    unshare(CLONE_NEWNET | CLONE_NEWNS)
    mount(Path("none"), Path("/"), None, flags=MS_REC | MS_PRIVATE)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


if "PYTEST_XDIST_WORKER" in os.environ:
    _enter_private_host()


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: two processes a processor, for a third of what tests do is waiting."""
    return 2 * len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own: no test reads or writes the accounts of the person who runs it."""
    own = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(own))
    return own


@pytest.fixture
def without_descriptors() -> Callable[[], AbstractContextManager[None]]:
    """Makes contexts in which this process can open nothing; what is open stays so."""

    @contextlib.contextmanager
    def at_limit() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))  # all of them are the standard streams
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    return at_limit
