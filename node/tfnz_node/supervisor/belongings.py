"""What is kept of a container for the next daemon: a record, and the descriptors that go with it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

import msgspec

from tfnz_node.sandbox.init_process import InitProcess
from tfnz_node.sandbox.jobs import Job
from tfnz_node.sandbox.memory import memory_file
from tfnz_node.sandbox.spool import Spools

from .ledger import Ledger
from .records import ContainerRecord, Stage, encode
from .spec import Spec


class Belongings:
    """Of one container, and closed with it.

    Attributes:
        record: what is known of it; some of that is written down with what comes next.
        spools: the output and input of its main process.
    """

    def __init__(
        self, spec: Spec, ledger: Ledger, *, record: ContainerRecord, spools: Spools, spec_fd: int
    ) -> None:
        """
        Args:
            spec_fd: the memory file with the specification; -1 for none.
        """
        self.record = record
        self.spools = spools
        self._spec = spec
        self._ledger = ledger
        self._spec_fd = spec_fd

    @classmethod
    def begin(cls, spec: Spec, ledger: Ledger, *, slot: int, spools: Spools) -> Belongings:
        """Of a container that is not there yet. The spools are its own, also when this fails."""
        spec_fd = -1
        if ledger.lasting:
            try:
                spec_fd = memory_file("spec", encode(spec))
            except BaseException:
                spools.close()
                raise
        record = ContainerRecord(
            id=spec.id, session=spec.session, slot=slot, pid=0, stage="creating", fds=(), size=spec.size
        )
        return cls(spec, ledger, record=record, spools=spools, spec_fd=spec_fd)

    def note(self, **changes: Any) -> None:
        """To be written down with what comes next."""
        self.record = msgspec.structs.replace(self.record, **changes)

    def write_down(self, stage: Stage, init: InitProcess, main: Job | None, **changes: Any) -> None:
        """Where it is from now on.

        Args:
            main: its main process, as long as anything of that may have to be handed over.
        """
        self.note(stage=stage, **changes)
        if not self._ledger.lasting:
            return
        record = self.record
        if stage == "ended":
            self._drop_files()
            fds = {name: fd for name, fd in self.spools.fds().items() if not name.startswith("in.")}
            fds["spec"] = self._spec_fd
        else:
            fds = {"spec": self._spec_fd, **self.spools.fds()}
            if held := init.fds():
                fds |= held
                record = msgspec.structs.replace(record, pid=init.pid)
            if main is not None:
                fds |= main.fds()
        record = msgspec.structs.replace(record, fds=tuple(fds))
        self._ledger.put_container(record, self._spec.account, fds)

    def _drop_files(self) -> None:
        """It is not booted again: what was to be in its files is not kept until its owner has heard of the end."""
        if self._spec_fd >= 0 and self._spec.files:
            with contextlib.suppress(OSError):
                lean = memory_file("spec", encode(dataclasses.replace(self._spec, files=())))
                os.close(self._spec_fd)
                self._spec_fd = lean

    def close(self) -> None:
        self.spools.close()
        if self._spec_fd >= 0:
            os.close(self._spec_fd)
            self._spec_fd = -1
