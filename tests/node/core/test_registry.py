"""Who owns what: what belongs to another does not exist, tags are an account's own, quotas hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz.protocol.errors import ContainerNotFound, QuotaExceeded, TagInUse
from tfnz.protocol.ids import new_id
from tfnz_node.core.registry import Registry

MIB = 1 << 20


@dataclass(frozen=True)
class Owned:
    account: str = "a"
    session: str = "a1"
    tag: str | None = None
    memory_limit_bytes: int = 64 * MIB
    disk_limit_bytes: int = 64 * MIB
    id: str = field(default_factory=new_id)


def make_registry(
    *owned: Owned, containers: int = 0, memory: int = 0, disk: int = 0, files: int = 0
) -> Registry[Owned]:
    registry: Registry[Owned] = Registry(
        containers_per_account=containers,
        memory_per_account=memory,
        disk_per_account=disk,
        files_per_account=files,
    )
    for one in owned:
        registry.add(one)
    return registry


def test_a_session_finds_what_it_owns() -> None:
    mine = Owned()
    assert make_registry(mine, Owned()).find("a1", "a", mine.id) is mine


@pytest.mark.parametrize(
    ("session", "account"),
    [
        pytest.param("b1", "b", id="another account"),
        pytest.param("a2", "a", id="another session of the account"),
        pytest.param("a1", "b", id="another account that knows the session"),
    ],
)
def test_what_belongs_to_another_is_as_what_never_was(session: str, account: str) -> None:
    theirs, never = Owned(), new_id()
    registry = make_registry(theirs)
    errors = []
    for container_id in (theirs.id, never):
        with pytest.raises(ContainerNotFound) as caught:
            registry.find(session, account, container_id)
        errors.append(str(caught.value).replace(container_id, "ID"))
    assert errors[0] == errors[1]


def test_an_id_of_any_length_is_repeated_only_in_part() -> None:
    with pytest.raises(ContainerNotFound) as caught:
        make_registry().find("a1", "a", "x" * 5000)
    assert len(str(caught.value)) < 200


def test_what_was_removed_is_not_found() -> None:
    mine = Owned(tag="web")
    registry = make_registry(mine)
    registry.remove(mine)
    with pytest.raises(ContainerNotFound):
        registry.find("a1", "a", mine.id)
    assert len(registry) == 0


def test_removing_twice_does_nothing() -> None:
    mine = Owned(tag="web")
    registry = make_registry(mine)
    registry.remove(mine)
    registry.add(successor := Owned(tag="web"))
    registry.remove(mine)
    with pytest.raises(TagInUse):
        registry.check("a", tag="web", memory_bytes=0)
    assert list(registry) == [successor]


# --- tags


def test_a_tag_is_used_once_in_an_account() -> None:
    first = Owned(tag="web")
    registry = make_registry(first)
    with pytest.raises(TagInUse, match=f"tag 'web' is in use by container {first.id}; destroy that"):
        registry.add(Owned(tag="web", session="a2"))
    assert list(registry) == [first]


def test_accounts_do_not_share_their_tags() -> None:
    registry = make_registry(Owned(tag="web"))
    registry.add(Owned(tag="web", account="b", session="b1"))
    assert len(registry) == 2


def test_any_number_may_have_no_tag() -> None:
    assert len(make_registry(Owned(), Owned())) == 2


def test_a_tag_is_free_when_its_container_ends_though_it_is_not_yet_gone() -> None:
    first, second = Owned(tag="web"), Owned(tag="web")
    registry = make_registry(first)
    registry.release_tag(first)
    registry.add(second)
    # The first is removed later, and takes nothing from the second.
    registry.release_tag(first)
    registry.remove(first)
    with pytest.raises(TagInUse, match=second.id):
        registry.check("a", tag="web", memory_bytes=0)


# --- quotas


def test_an_account_has_as_many_containers_as_its_quota() -> None:
    registry = make_registry(Owned(), Owned(session="a2"), containers=2)
    with pytest.raises(QuotaExceeded, match="has 2 containers, as many as"):
        registry.add(Owned())
    registry.add(Owned(account="b", session="b1"))


def test_a_container_that_is_gone_no_longer_counts() -> None:
    first = Owned()
    registry = make_registry(first, containers=1)
    registry.remove(first)
    registry.add(Owned())


def test_the_memory_of_an_account_is_summed_over_its_sessions() -> None:
    registry = make_registry(Owned(), Owned(session="a2"), memory=192 * MIB)
    registry.check("a", tag=None, memory_bytes=64 * MIB)
    with pytest.raises(QuotaExceeded, match=f"would have {192 * MIB + 1} bytes .* allows it {192 * MIB}"):
        registry.check("a", tag=None, memory_bytes=64 * MIB + 1)
    registry.check("b", tag=None, memory_bytes=192 * MIB)


def test_the_disk_of_an_account_is_summed_and_given_back() -> None:
    first = Owned()
    registry = make_registry(first, Owned(session="a2"), disk=192 * MIB)
    registry.check("a", tag=None, memory_bytes=0, disk_bytes=64 * MIB)
    with pytest.raises(QuotaExceeded, match=f"fill {192 * MIB + 1} bytes of disk .* allows it {192 * MIB}"):
        registry.check("a", tag=None, memory_bytes=0, disk_bytes=64 * MIB + 1)
    with pytest.raises(QuotaExceeded):
        registry.add(Owned(disk_limit_bytes=64 * MIB + 1))
    registry.check("b", tag=None, memory_bytes=0, disk_bytes=192 * MIB)
    registry.remove(first)
    registry.add(Owned(disk_limit_bytes=128 * MIB))


def test_the_files_that_are_kept_for_an_account_are_summed_and_given_back() -> None:
    registry = make_registry(files=10)
    registry.keep_files("a", 6)
    with pytest.raises(QuotaExceeded, match="would have 11 bytes together, and this node allows it 10"):
        registry.keep_files("a", 5)
    registry.keep_files("a", 4)
    registry.keep_files("b", 10)
    registry.drop_files("a", 6)
    registry.keep_files("a", 6)


def test_no_quota_is_no_limit() -> None:
    registry = make_registry(
        *(Owned(memory_limit_bytes=1 << 50, disk_limit_bytes=1 << 60) for _ in range(100))
    )
    registry.keep_files("a", 1 << 60)


def test_what_the_quota_refuses_takes_no_tag() -> None:
    registry = make_registry(Owned(), containers=1)
    with pytest.raises(QuotaExceeded):
        registry.add(Owned(tag="web"))
    registry = make_registry()
    registry.add(Owned(tag="web"))


# --- lists


def test_lists_are_by_session_and_by_account() -> None:
    a1, a2, b1 = Owned(), Owned(session="a2"), Owned(account="b", session="b1")
    registry = make_registry(a1, a2, b1)
    assert registry.of_session("a1") == [a1]
    assert registry.of_account("a") == [a1, a2]
    assert registry.of_account("c") == []


def test_it_may_change_while_it_is_walked_through() -> None:
    registry = make_registry(Owned(), Owned())
    for one in registry:
        registry.remove(one)
    assert len(registry) == 0


@given(
    owned=st.lists(
        st.builds(
            Owned,
            account=st.sampled_from(["a", "b"]),
            session=st.sampled_from(["s1", "s2"]),
            tag=st.sampled_from([None, "web", "db"]),
            memory_limit_bytes=st.just(1),
        ),
        max_size=12,
    )
)
def test_each_is_found_by_its_owner_alone(owned: list[Owned]) -> None:
    registry = make_registry()
    entered = []
    for one in owned:
        try:
            registry.add(one)
        except TagInUse:
            continue
        entered.append(one)
    for one in entered:
        for account in ("a", "b"):
            for session in ("s1", "s2"):
                if (account, session) == (one.account, one.session):
                    assert registry.find(session, account, one.id) is one
                else:
                    with pytest.raises(ContainerNotFound):
                        registry.find(session, account, one.id)
