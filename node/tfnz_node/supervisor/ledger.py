"""What the keeper holds of the containers, by names that tell what it is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence

from tfnz.protocol.errors import QuotaExceeded
from tfnz_node.core.access import Permission
from tfnz_node.core.shares import Amount, Shares
from tfnz_node.keeper.base import MAX_RECORD_FDS, Keeper, KeeperGone, Kept, NoKeeper

from .records import ContainerRecord, EgressRecord, NodeRecord, PermissionRecord, ProcessRecord, encode

log = logging.getLogger(__name__)

NODE = "node"
CONTAINER, PROCESS, PERMISSION, EGRESS = "container", "process", "permission", "egress"
SESSION = "session"


class Ledger:
    """Writes down; what is written before something is done says what the next daemon does about it.

    What the keeper has room for is for all accounts, each of which has a share of it (`Shares`). Whatever may be
    refused asks before it is done; what has begun is written down in any case.
    """

    def __init__(self, keeper: Keeper | None = None) -> None:
        self._keeper: Keeper = keeper or NoKeeper()
        self._shares = Shares(self._keeper.capacity)
        self.lasting = self._keeper.lasting
        #: Ends that clients have perhaps not heard of, by session.
        self._untold: dict[str, dict[str, None]] = {}

    def give_up(self) -> None:
        """The keeper has ended: from now on nothing outlives this daemon."""
        if self.lasting:
            log.error("the keeper has ended: containers would end with this daemon until it is started again")
        self.lasting = False

    def lose(self, name: str) -> None:
        """There was no room for a record, and none of its name is left."""
        self._shares.delete(name)

    # --- shares

    def check_room(self, account: str) -> None:
        """Raises QuotaExceeded when an account has as much as it may while others have what they have."""
        if self.lasting and not self._shares.has_room(account):
            own = self._shares.own(account)
            raise QuotaExceeded(
                f"this node keeps {own.records} records with {own.descriptors} descriptors of the account for its "
                "next daemon, and has no room for more of it: end containers, processes, permissions and sessions "
                "that are not needed, and hear what is told of those that have ended"
            )

    def claim(self, name: str, account: str) -> None:
        """Have room for what is about to be begun, which counts as much as it may become until its record is put.

        Raises:
            QuotaExceeded: the account has as much as it may; what has the name already may always be put again.
        """
        if self.lasting and name not in self._shares:
            self.check_room(account)
            self._shares.put(name, account, Amount(1, MAX_RECORD_FDS))

    def renounce(self, name: str) -> None:
        """What was claimed has not been begun."""
        self._shares.delete(name)

    @contextlib.contextmanager
    def claiming(self, name: str, account: str) -> Iterator[None]:
        """Within it what is claimed is begun; if that fails, it is renounced. Raises as `claim`."""
        self.claim(name, account)
        try:
            yield
        except BaseException:
            self.renounce(name)
            raise

    def adopt(self, kept: Kept, account: str) -> None:
        """A record of a former daemon goes on."""
        if self.lasting:
            self._shares.put(kept.name, account, _measure(kept.record, kept.fds))

    # --- records

    def _put(self, name: str, account: str, record: object, fds: Sequence[int] = ()) -> None:
        if not self.lasting:
            return
        encoded = encode(record)
        self._shares.put(name, account, _measure(encoded, fds))
        try:
            self._keeper.put(name, encoded, fds)
        except KeeperGone:
            self.give_up()
        except OSError:  # a fault of ours, which must not cost the others their next daemon
            log.exception("%s was not written down", name)
            self._shares.delete(name)

    def delete(self, name: str) -> None:
        if self.lasting:
            self._shares.delete(name)
            try:
                self._keeper.delete(name)
            except KeeperGone:
                self.give_up()

    def put_node(self, record: NodeRecord) -> None:
        self._put(NODE, "", record)

    def put_session(self, id: str, account: str, record: object, fds: Sequence[int]) -> None:
        self._put(name_session(id), account, record, fds)

    def put_container(self, record: ContainerRecord, account: str, fds: Mapping[str, int]) -> None:
        """`record.fds` says in which order."""
        if self.lasting:
            name = name_container(record.id)
            self._put(name, account, record, [fds[one] for one in record.fds])
            if record.exit is not None:
                self._note(record.session, name)

    def delete_container(self, session: str, id: str) -> None:
        self._delete_end(session, name_container(id))

    def put_process(self, record: ProcessRecord, account: str, fds: Mapping[str, int]) -> None:
        if self.lasting:
            name = name_process(record.container, record.id)
            self._put(name, account, record, [fds[one] for one in record.fds])
            if record.exit is not None:
                self._note(record.session, name)

    def adopt_end(self, record: ProcessRecord) -> None:
        """Of a process that had ended when a former daemon wrote it down, its client has perhaps not heard."""
        self._note(record.session, name_process(record.container, record.id))

    def delete_process(self, session: str, container: str, id: str) -> None:
        self._delete_end(session, name_process(container, id))

    def _note(self, session: str, name: str) -> None:
        self._untold.setdefault(session, {})[name] = None

    def _delete_end(self, session: str, name: str) -> None:
        if not self.lasting:
            return
        self.delete(name)
        if (names := self._untold.get(session)) is not None:
            names.pop(name, None)
            if not names:
                del self._untold[session]

    def forget_session(self, session: str) -> None:
        """Nobody is left who could hear of any end."""
        for name in self._untold.pop(session, {}):
            self.delete(name)

    def put_permission(self, permission: Permission) -> None:
        account = permission.server.account
        self._put(_name_permission(permission), account, PermissionRecord(permission=permission))

    def delete_permission(self, permission: Permission) -> None:
        self.delete(_name_permission(permission))

    def put_egress(self, record: EgressRecord, account: str) -> None:
        self._put(_name_egress(record.container), account, record)

    def delete_egress(self, container: str) -> None:
        self.delete(_name_egress(container))


def _measure(record: bytes, fds: Sequence[int]) -> Amount:
    return Amount(1, len(fds), len(record))


def name_session(id: str) -> str:
    return f"{SESSION}.{id}"


def name_container(id: str) -> str:
    return f"{CONTAINER}.{id}"


def name_process(container: str, id: str) -> str:
    return f"{PROCESS}.{container}.{id}"


def _name_egress(container: str) -> str:
    return f"{EGRESS}.{container}"


def _name_permission(permission: Permission) -> str:
    port = "all" if permission.port is None else permission.port
    return f"{PERMISSION}.{permission.server.id}.{permission.client.id}.{port}"
