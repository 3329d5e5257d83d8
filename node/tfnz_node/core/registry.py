"""Who owns what: containers by session and account, tags, and the quotas of accounts.

Ownership is decided here and nowhere else, from the account that authentication gave the session. What belongs to
another does not exist as far as a session can tell: the answer is the same as for an id that was never given out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from tfnz.protocol.errors import ContainerNotFound, QuotaExceeded, TagInUse


class Owned(Protocol):
    """What the registry needs to know of a container."""

    @property
    def id(self) -> str: ...
    @property
    def account(self) -> str: ...
    @property
    def session(self) -> str: ...
    @property
    def tag(self) -> str | None: ...
    @property
    def memory_limit_bytes(self) -> int: ...
    @property
    def disk_limit_bytes(self) -> int: ...


Container = TypeVar("Container", bound=Owned)


class Registry(Generic[Container]):
    """All containers of the node, from the moment their tag is reserved to the moment nothing is left of them.

    Args:
        containers_per_account: how many containers an account may have; 0 is no limit.
        memory_per_account: the sum of their memory limits in bytes; 0 is no limit.
        disk_per_account: the sum of their disk limits in bytes; 0 is no limit.
        files_per_account: the sum of their pre-boot files, which the node keeps in memory as long as they live, because
            each reset needs them again; 0 is no limit.
    """

    def __init__(
        self,
        *,
        containers_per_account: int = 0,
        memory_per_account: int = 0,
        disk_per_account: int = 0,
        files_per_account: int = 0,
    ) -> None:
        self._containers_quota = containers_per_account
        self._memory_quota = memory_per_account
        self._disk_quota = disk_per_account
        self._files_quota = files_per_account
        self._containers: dict[str, Container] = {}
        self._by_account: dict[str, dict[str, Container]] = {}
        self._by_session: dict[str, dict[str, Container]] = {}
        self._memory: Counter[str] = Counter()
        self._disk: Counter[str] = Counter()
        self._files: Counter[str] = Counter()
        self._tags: dict[tuple[str, str], str] = {}

    def check(self, account: str, *, tag: str | None, memory_bytes: int, disk_bytes: int = 0) -> None:
        """Whether `account` may have one more container, with this tag and these limits.

        Raises:
            TagInUse: another of its containers has the tag.
            QuotaExceeded: it has as many as it may.
        """
        if tag is not None and (account, tag) in self._tags:
            raise TagInUse(
                f"tag {tag!r} is in use by container {self._tags[account, tag]}; destroy that or choose another"
            )
        count = len(self._by_account.get(account, ()))
        if 0 < self._containers_quota <= count:
            raise QuotaExceeded(f"the account has {count} containers, as many as this node allows it")
        memory = self._memory[account] + memory_bytes
        if 0 < self._memory_quota < memory:
            raise QuotaExceeded(
                f"the account's containers would have {memory} bytes of memory together, "
                f"and this node allows it {self._memory_quota}"
            )
        disk = self._disk[account] + disk_bytes
        if 0 < self._disk_quota < disk:
            raise QuotaExceeded(
                f"the account's containers could fill {disk} bytes of disk together, "
                f"and this node allows it {self._disk_quota}"
            )

    def keep_files(self, account: str, size_bytes: int) -> None:
        """The node keeps so many bytes of pre-boot files for the account, until `drop_files`.

        Raises:
            QuotaExceeded: that would be more than it may.
        """
        kept = self._files[account] + size_bytes
        if 0 < self._files_quota < kept:
            raise QuotaExceeded(
                f"the pre-boot files of the account's containers would have {kept} bytes together, and this node "
                f"allows it {self._files_quota}: put large files into an image, or into the running container"
            )
        self._files[account] = kept

    def drop_files(self, account: str, size_bytes: int) -> None:
        """The same number as was given to `keep_files`: they are not kept any more."""
        self._files[account] -= size_bytes
        if not self._files[account]:
            del self._files[account]

    def add(self, container: Container) -> None:
        """Enter a container; its tag is taken from now on. Raises as `check` does."""
        self.check(
            container.account,
            tag=container.tag,
            memory_bytes=container.memory_limit_bytes,
            disk_bytes=container.disk_limit_bytes,
        )
        self._enter(container)
        if container.tag is not None:
            self._tags[container.account, container.tag] = container.id

    def _enter(self, container: Container) -> None:
        self._containers[container.id] = container
        self._by_account.setdefault(container.account, {})[container.id] = container
        self._by_session.setdefault(container.session, {})[container.id] = container
        self._memory[container.account] += container.memory_limit_bytes
        self._disk[container.account] += container.disk_limit_bytes

    def adopt(self, container: Container, *, ended: bool, files_bytes: int) -> None:
        """Enter a container that a former daemon had, whatever the quotas are now.

        Args:
            ended: it has its tag no more.
            files_bytes: as for `keep_files`.
        """
        self._enter(container)
        self._files[container.account] += files_bytes
        if container.tag is not None and not ended:
            self._tags.setdefault((container.account, container.tag), container.id)

    def release_tag(self, container: Container) -> None:
        """The container is ending: its tag may be used again."""
        if container.tag is not None and self._tags.get((container.account, container.tag)) == container.id:
            del self._tags[container.account, container.tag]

    def remove(self, container: Container) -> None:
        """Nothing of the container is left."""
        self.release_tag(container)
        if self._containers.pop(container.id, None) is None:
            return
        self._memory[container.account] -= container.memory_limit_bytes
        self._disk[container.account] -= container.disk_limit_bytes
        for table, owner in ((self._by_account, container.account), (self._by_session, container.session)):
            del table[owner][container.id]
            if not table[owner]:
                del table[owner]
        if container.account not in self._by_account:
            del self._memory[container.account], self._disk[container.account]

    def find(self, session: str, account: str, container_id: str) -> Container:
        """The container, if this session of this account owns it.

        Raises:
            ContainerNotFound: it does not, or there is none.
        """
        container = self._containers.get(container_id)
        if container is None or container.session != session or container.account != account:
            raise ContainerNotFound(f"this session has no container {container_id[:64]!r}")
        return container

    def find_shared(self, session: str, account: str, container_id: str) -> Container:
        """The container, if this session owns it, or another of the account that has given it a tag to be found by.

        Raises:
            ContainerNotFound: it is neither, or there is none.
        """
        container = self._containers.get(container_id)
        if container is not None and container.account == account and container.tag is not None:
            return container
        return self.find(session, account, container_id)

    def of_session(self, session: str) -> list[Container]:
        return list(self._by_session.get(session, {}).values())

    def of_account(self, account: str) -> list[Container]:
        return list(self._by_account.get(account, {}).values())

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._containers.values()))

    def __len__(self) -> int:
        return len(self._containers)
