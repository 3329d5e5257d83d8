"""What the keeper holds of the containers, by names that tell what it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from tfnz_node.core.access import Permission
from tfnz_node.keeper.base import Keeper, KeeperGone, NoKeeper

from .records import ContainerRecord, EgressRecord, NodeRecord, PermissionRecord, ProcessRecord, encode

log = logging.getLogger(__name__)

NODE = "node"
CONTAINER, PROCESS, PERMISSION, EGRESS = "container", "process", "permission", "egress"


class Ledger:
    """Writes down; what is written before something is done says what the next daemon does about it."""

    def __init__(self, keeper: Keeper | None = None) -> None:
        self._keeper: Keeper = keeper or NoKeeper()
        self.lasting = self._keeper.lasting
        #: Containers whose egress is not kept, and which are not kept therefore.
        self._without_egress: set[str] = set()
        #: Ends that clients have perhaps not heard of, by session.
        self._untold: dict[str, dict[str, None]] = {}

    def give_up(self) -> None:
        """The keeper has ended: from now on nothing outlives this daemon."""
        if self.lasting:
            log.error("the keeper has ended: containers would end with this daemon until it is started again")
        self.lasting = False

    def lose(self, name: str) -> None:
        """There was no room for a record, and none of its name is left.

        Without it a container might reach outside what it may not any more, so that one does not outlive us either.
        """
        kind, _, id = name.partition(".")
        if kind == EGRESS:
            self._without_egress.add(id)
            self._delete(f"{CONTAINER}.{id}")

    def _put(self, name: str, record: object, fds: Sequence[int] = ()) -> None:
        if self.lasting:
            try:
                self._keeper.put(name, encode(record), fds)
            except KeeperGone:
                self.give_up()
            except OSError:  # a fault of ours, which must not cost the others their next daemon
                log.exception("%s was not written down", name)

    def _delete(self, name: str) -> None:
        if self.lasting:
            try:
                self._keeper.delete(name)
            except KeeperGone:
                self.give_up()

    def put_node(self, record: NodeRecord) -> None:
        self._put(NODE, record)

    def put_container(self, record: ContainerRecord, fds: Mapping[str, int]) -> None:
        """`record.fds` says in which order."""
        if self.lasting and record.id not in self._without_egress:
            name = f"{CONTAINER}.{record.id}"
            self._put(name, record, [fds[one] for one in record.fds])
            if record.exit is not None:
                self._note(record.session, name)

    def delete_container(self, session: str, id: str) -> None:
        self._delete_end(session, f"{CONTAINER}.{id}")

    def put_process(self, record: ProcessRecord, fds: Mapping[str, int]) -> None:
        if self.lasting:
            name = f"{PROCESS}.{record.container}.{record.id}"
            self._put(name, record, [fds[one] for one in record.fds])
            if record.exit is not None:
                self._note(record.session, name)

    def delete_process(self, session: str, container: str, id: str) -> None:
        self._delete_end(session, f"{PROCESS}.{container}.{id}")

    def _note(self, session: str, name: str) -> None:
        self._untold.setdefault(session, {})[name] = None

    def _delete_end(self, session: str, name: str) -> None:
        if not self.lasting:
            return
        self._delete(name)
        if (names := self._untold.get(session)) is not None:
            names.pop(name, None)
            if not names:
                del self._untold[session]

    def forget_session(self, session: str) -> None:
        """Nobody is left who could hear of any end."""
        for name in self._untold.pop(session, {}):
            self._delete(name)

    def put_permission(self, permission: Permission) -> None:
        self._put(_name_permission(permission), PermissionRecord(permission=permission))

    def delete_permission(self, permission: Permission) -> None:
        self._delete(_name_permission(permission))

    def put_egress(self, record: EgressRecord) -> None:
        self._without_egress.discard(record.container)
        self._put(f"{EGRESS}.{record.container}", record)

    def delete_egress(self, container: str) -> None:
        self._without_egress.discard(container)
        self._delete(f"{EGRESS}.{container}")


def _name_permission(permission: Permission) -> str:
    port = "all" if permission.port is None else permission.port
    return f"{PERMISSION}.{permission.server.id}.{permission.client.id}.{port}"
