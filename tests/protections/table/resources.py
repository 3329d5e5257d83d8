"""Against what runs out: the request that needed it fails, and nobody else notices."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.protections.removal import Input, Removal, taken_away

TESTS: Final = "tests/node"

_resources = partial(taken_away, input=Input.RESOURCES)

REMOVALS: Final[tuple[Removal, ...]] = (
    _resources(
        "slots-all-taken",
        stops="When all ranges of ids are taken, nobody gets one that is somebody else's.",
        file="node/tfnz_node/core/slots.py",
        old="            if number not in self._taken:\n",
        new="            if number not in self._taken or len(self._taken) == self._count:\n",
        tests=(f"{TESTS}/core/test_slots.py::test_when_all_are_taken_the_error_says_how_many_there_are",),
    ),
    _resources(
        "slots-rest",
        stops="A range of ids rests for as long as possible before another container has it.",
        file="node/tfnz_node/core/slots.py",
        old="                self._next = number % self._count + 1\n",
        new="",
        tests=(f"{TESTS}/core/test_slots.py::test_a_number_rests_until_the_circle_comes_round",),
    ),
    _resources(
        "addresses",
        stops="There are no more slots than the network has addresses.",
        file="node/tfnz_node/core/slots.py",
        old="        self._count = min(count, self._network.num_addresses - RESERVED_ADDRESSES)",
        new="        self._count = count",
        tests=(f"{TESTS}/core/test_slots.py::test_a_small_network_has_fewer_slots_than_asked_for",),
    ),
    _resources(
        "slot-in-use",
        stops="A slot whose cgroup cannot be removed is not given to another.",
        file="node/tfnz_node/sandbox/pool.py",
        old="        elif not failures:\n",
        new="        else:\n",
        tests=(
            f"{TESTS}/sandbox/test_pool.py::test_what_cannot_be_removed_for_another_reason_keeps_its_slot",
        ),
    ),
    _resources(
        "disk-checked-before",
        stops="A container is not begun on a full disk.",
        file="node/tfnz_node/storage/base.py",
        old="    if storage.free_bytes() < RESERVE_BYTES:",
        new="    if False:",
        tests=(f"{TESTS}/storage/test_btrfs.py::test_a_full_disk_is_told_with_what_is_free_and_needed",),
    ),
    _resources(
        "disk-ballast",
        stops="A disk that is promised more than the host has is full before the host is, and never broken.",
        file="node/tfnz_node/storage/ballast.py",
        old="            if missing := self._find_missing():\n                self._change(missing)",
        new="            if missing := self._find_missing():\n                self._change(min(missing, 0))",
        tests=(
            f"{TESTS}/storage/test_ballast.py::test_it_is_full_before_the_host_is_and_goes_on_when_something_is_deleted",
        ),
    ),
    _resources(
        "disk-full-undone",
        stops="A scratch that could not be made leaves nothing.",
        file="node/tfnz_node/storage/btrfs.py",
        old="            except OSError:  # out of sight",
        new="            except OSError:\n                raise\n            except ArithmeticError:  # out of sight",
        tests=(f"{TESTS}/storage/test_btrfs.py::test_a_scratch_that_could_not_be_made_is_not_there",),
    ),
    _resources(
        "put-keeps-the-old-file",
        stops="A file that does not fit leaves the one that was there.",
        file="node/init/replace.c",
        old="\t\treplacement->in_place = replace_is_mount_point(dir, name);",
        new="\t\treplacement->in_place = true;",
        tests=(f"{TESTS}/init/test_put_get.py::test_put_on_a_full_disk_keeps_the_old_file",),
    ),
    _resources(
        "inodes",
        stops="A disk without inodes is told from one without bytes, and both from a fault.",
        file="node/tfnz_node/storage/base.py",
        old="        if exc.errno not in _OUT_OF_ROOM:\n",
        new="        if True:\n",
        tests=(f"{TESTS}/storage/test_directory.py::test_no_inodes_are_told_from_no_bytes",),
    ),
    _resources(
        "descriptors-of-connections",
        stops="Connections into containers take no more than half of the descriptors that the node may open.",
        file="node/tfnz_node/supervisor/connections.py",
        old="        if self.taken >= self.limit:",
        new="        if False:",
        tests=(f"{TESTS}/supervisor/test_connections.py::test_a_node_has_only_so_many",),
    ),
    _resources(
        "descriptors-at-the-door",
        stops="Without descriptors the door waits until there are some, and does not spin or close.",
        file="node/tfnz_node/gateway/unix_door.py",
        old="                if not full.done():\n                    full.set_result(None)\n                return",
        new="                return",
        tests=(
            f"{TESTS}/gateway/test_unix_door.py::test_without_descriptors_the_door_waits_until_there_are_some",
        ),
    ),
    _resources(
        "descriptors-that-came-with-a-reply",
        stops="A reply whose descriptors could not be opened fails its request alone.",
        file="node/tfnz_node/sandbox/control.py",
        old="        elif request.reply.done() or lost:\n",
        new="        elif request.reply.done():\n",
        tests=(
            f"{TESTS}/sandbox/test_control.py::test_descriptors_that_we_may_not_have_fail_their_request_alone",
        ),
    ),
    _resources(
        "descriptors-of-the-next-daemon",
        stops="A daemon that cannot open all that the keeper holds leaves it to the next.",
        file="node/tfnz_node/keeper/client.py",
        old="        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):",
        new="        if False:",
        tests=(f"{TESTS}/keeper/test_client.py::test_what_cannot_all_be_opened_stays_for_the_next",),
    ),
    _resources(
        "threads-from-the-start",
        stops="A node that cannot make threads any more has all that it needs.",
        file="node/tfnz_node/workers.py",
        old="executor.submit(met.wait) for _ in range(count)]",
        new="executor.submit(met.wait) for _ in range(0)]",
        tests=(f"{TESTS}/test_workers.py::test_all_threads_run_and_none_is_started_later",),
    ),
    _resources(
        "memory-of-a-worker",
        stops="What reads an archive has a bounded address space.",
        file="node/tfnz_node/images/worker.py",
        old="    limit_memory()\n",
        new="",
        tests=(f"{TESTS}/images/test_importer.py::test_a_worker_has_bounded_memory",),
    ),
    _resources(
        "shares-of-the-keeper",
        stops="One account leaves room in the keeper for the others.",
        file="node/tfnz_node/core/shares.py",
        old="        return all(own < 2 * free for own, free in zip(self.own(account), self._free, strict=True))",
        new="        return all(free > 0 for own, free in zip(self.own(account), self._free, strict=True))",
        tests=(
            f"{TESTS}/core/test_shares.py::test_each_that_comes_finds_two_thirds_of_what_is_left",
            f"{TESTS}/supervisor/test_ledger.py::test_one_account_leaves_room_for_the_others",
        ),
    ),
    _resources(
        "least-limits",
        stops="A container is not begun with less than any can live with.",
        file="node/tfnz_node/core/plan.py",
        old="        if not value >= minimum:",
        new="        if False:",
        tests=(f"{TESTS}/core/test_plan.py::test_a_limit_below_the_minimum_is_named_with_its_value",),
    ),
    _resources(
        "images-of-a-node",
        stops="A node has so many images and names, and its list of them is never too long to send.",
        file="node/tfnz_node/images/catalogue.py",
        old="        if known is None and len(self._records) >= MAX_IMAGES:",
        new="        if False:",
        tests=(f"{TESTS}/images/test_catalogue.py::test_a_node_has_so_many_images_and_names",),
    ),
)
