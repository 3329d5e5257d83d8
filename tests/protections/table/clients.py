"""Against hostile clients and peers: malformed, oversized, replayed, half-open traffic, and what is others'."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.protections.removal import Input, Removal, taken_away

UNIX: Final = "node/tfnz_node/gateway/unix_door.py"
TCP: Final = "node/tfnz_node/gateway/tcp_door.py"
SESSIONS: Final = "node/tfnz_node/gateway/sessions.py"
SESSION: Final = "node/tfnz_node/gateway/session.py"
REGISTRY: Final = "node/tfnz_node/core/registry.py"
TESTS: Final = "tests/node/gateway"
BREAKERS: Final = f"{TESTS}/test_rule_breakers.py"

_clients = partial(taken_away, input=Input.CLIENTS)

REMOVALS: Final[tuple[Removal, ...]] = (
    _clients(
        "stranger-frame-size",
        stops="Who has no session has no more read than a hello.",
        file=SESSIONS,
        old="if seat is None and len(data) > MAX_HELLO:",
        new="if False:",
        tests=(f"{BREAKERS}::test_before_hello_little_is_read",),
    ),
    _clients(
        "unix-first-frame",
        stops="A first frame that is too large for a hello ends its connection before it is read.",
        file=UNIX,
        old="            limit=MAX_HELLO,",
        new="            limit=MAX_FRAME,",
        tests=(
            f"{TESTS}/test_unix_door.py::test_a_first_frame_that_is_too_large_for_a_hello_ends_the_connection",
        ),
    ),
    _clients(
        "tcp-frame-size",
        stops="A frame over TCP that is larger than the protocol allows ends its connection.",
        file=TCP,
        old="        self._socket.maxmsgsize = MAX_FRAME\n",
        new="",
        tests=(
            f"{TESTS}/test_tcp_door.py::test_a_frame_larger_than_the_protocol_allows_ends_the_connection",
        ),
    ),
    _clients(
        "tcp-keys",
        stops="Over TCP nobody enters whose key is not authorised.",
        file="node/tfnz_node/gateway/zap.py",
        old="            if self._authorised(account):",
        new="            if True:",
        tests=(
            f"{TESTS}/test_zap.py::test_who_may_enter",
            f"{TESTS}/test_tcp_door.py::test_an_unknown_key_is_refused_in_so_many_words",
        ),
    ),
    _clients(
        "tcp-curve",
        stops="Over TCP nobody enters who has no key.",
        file=TCP,
        old="        self._socket.curve_server = True\n",
        new="        self._socket.curve_server = False\n",
        tests=(
            f"{TESTS}/test_tcp_door.py::test_without_a_key_nobody_enters_over_tcp",
            f"{TESTS}/test_tcp_door.py::test_an_unknown_key_is_refused_in_so_many_words",
        ),
    ),
    _clients(
        "tcp-handshake-time",
        stops="A stranger who says nothing over TCP is shown out.",
        file=TCP,
        old="        self._socket.handshake_ivl = HANDSHAKE_MS\n",
        new="        self._socket.handshake_ivl = 0\n",
        tests=("tests/system/test_hostile_clients.py::test_ten_thousand_silent_strangers_over_tcp",),
    ),
    _clients(
        "tcp-parts",
        stops="Frames of several parts, which no client of ours sends, are dropped.",
        file=TCP,
        old="                if len(parts) == 2:",
        new="                if len(parts) >= 2:",
        tests=(f"{TESTS}/test_tcp_door.py::test_frames_of_several_parts_are_dropped",),
    ),
    _clients(
        "unix-users",
        stops="A user who may not use the node is refused at its socket.",
        file=UNIX,
        old="        if not self._allowed(uid):",
        new="        if False:",
        tests=(f"{TESTS}/test_unix_door.py::test_a_user_who_may_not_is_refused",),
    ),
    _clients(
        "unix-connections",
        stops="A user has a bounded number of connections.",
        file=UNIX,
        old="        if self._count[uid] >= MAX_CONNECTIONS:",
        new="        if False:",
        tests=(f"{TESTS}/test_unix_door.py::test_a_user_has_a_bounded_number_of_connections",),
    ),
    _clients(
        "unix-silence",
        stops="A connection that says nothing is closed.",
        file=UNIX,
        old="            caller.silence = loop.call_later(HELLO_TIMEOUT_S, self._dismiss, caller)",
        new="            caller.silence = loop.call_later(1e6, self._dismiss, caller)",
        tests=(f"{TESTS}/test_unix_door.py::test_who_says_nothing_is_shown_out",),
    ),
    _clients(
        "unix-back-pressure",
        stops="Who asks and does not read the answers is not listened to meanwhile.",
        file=UNIX,
        old="            pause_above=PAUSE_ABOVE_BYTES,\n",
        new="",
        tests=(
            f"{TESTS}/test_unix_door.py::test_who_asks_without_reading_is_not_listened_to_until_it_reads",
        ),
    ),
    _clients(
        "unix-unread-answers",
        stops="Who reads nothing loses the connection when too much waits.",
        file=UNIX,
        old="        if caller.connection.queued_bytes > MAX_QUEUED_BYTES:",
        new="        if False:",
        tests=(
            f"{TESTS}/test_unix_door.py::test_who_reads_nothing_loses_the_connection_when_too_much_waits",
        ),
    ),
    _clients(
        "refused-not-heard",
        stops="Who goes on without a session is not heard any more.",
        file=SESSIONS,
        old="        if self._refusals and self._count_refusals(peer) >= MAX_REFUSALS:",
        new="        if False:",
        tests=(f"{BREAKERS}::test_who_goes_on_without_a_session_is_not_heard_any_more",),
    ),
    _clients(
        "hello-first",
        stops="Nothing but a hello is heard of somebody without a session.",
        file=SESSIONS,
        old="            if seat is None:\n                self._on_stranger(peer, frame)",
        new=(
            "            if seat is None and not isinstance(frame, Hello):\n                pass\n"
            "            elif seat is None:\n                self._on_stranger(peer, frame)"
        ),
        tests=(f"{BREAKERS}::test_before_hello_nothing_else_is_heard",),
    ),
    _clients(
        "session-token",
        stops="A session is not resumed without its secret token.",
        file=SESSIONS,
        old="            or not hmac.compare_digest(seat.session.token.encode(), hello.token.encode())\n",
        new="",
        tests=(f"{TESTS}/test_resuming.py::test_a_session_is_not_resumed_without_its_token",),
    ),
    _clients(
        "session-account",
        stops="Another account cannot resume a session, even with its token.",
        file=SESSIONS,
        old="            or seat.session.account != peer.account\n            or not hmac",
        new="            or not hmac",
        tests=(f"{TESTS}/test_resuming.py::test_another_account_cannot_resume_it_even_with_the_token",),
    ),
    _clients(
        "session-place",
        stops="Who has come to the place of another account's session is not taken for its client.",
        file=SESSIONS,
        old="            elif seat.session.account != peer.account:",
        new="            elif False:",
        tests=(f"{BREAKERS}::test_who_takes_somebody_elses_place_ends_nothing_but_hears_nothing",),
    ),
    _clients(
        "hello-replayed",
        stops="A hello that was kept back by the network does not take the session away from its client.",
        file=SESSIONS,
        old="        if hello.number < seat.hello:",
        new="        if False:",
        tests=(
            f"{TESTS}/test_resuming.py::test_a_hello_that_was_long_on_its_way_is_not_taken_for_the_latest",
        ),
    ),
    _clients(
        "sessions-of-a-node",
        stops="A node has no more sessions than it may.",
        file=SESSIONS,
        old="        if len(self._seats) >= self._max_sessions:",
        new="        if False:",
        tests=(f"{TESTS}/test_sessions.py::test_sessions_are_bounded",),
    ),
    _clients(
        "sessions-of-an-account",
        stops="No account takes all sessions of a node.",
        file=SESSIONS,
        old="        if 0 < self._max_sessions_per_account <= own:",
        new="        if False:",
        tests=(f"{TESTS}/test_sessions.py::test_no_account_has_all_sessions",),
    ),
    _clients(
        "questions-without-end",
        stops="A client that asks without end whether the node is there loses its session.",
        file=SESSIONS,
        old="                if seat.pings > MAX_PINGS:",
        new="                if False:",
        tests=(f"{BREAKERS}::test_who_asks_without_end_loses_the_session",),
    ),
    _clients(
        "revoked-key",
        stops="Revoking a key ends its sessions.",
        file=SESSIONS,
        old="        elif not self._authorised(seat.session.account):",
        new="        elif False:",
        tests=(f"{TESTS}/test_sessions.py::test_a_revoked_account_is_shown_out",),
    ),
    _clients(
        "requests-under-way",
        stops="A client has a bounded number of requests under way.",
        file=SESSION,
        old="        if len(self._requests) >= MAX_REQUESTS:",
        new="        if False:",
        tests=(f"{TESTS}/test_session.py::test_requests_under_way_are_bounded",),
    ),
    _clients(
        "open-streams",
        stops="A client has a bounded number of streams open.",
        file=SESSION,
        old="        if len(self._inputs) + len(self._outputs) >= MAX_STREAMS:",
        new="        if False:",
        tests=(f"{TESTS}/test_session.py::test_open_streams_are_bounded",),
    ),
    _clients(
        "unacknowledged-bytes",
        stops="What a client never acknowledges is kept only up to a bound.",
        file=SESSION,
        old="        if self.channel.outbox_bytes > MAX_OUTBOX_BYTES:",
        new="        if False:",
        tests=(f"{TESTS}/test_session.py::test_what_is_never_acknowledged_is_kept_only_up_to_a_bound",),
    ),
    _clients(
        "unheard-ends",
        stops="Ends that are never acknowledged are kept only up to a bound.",
        file=SESSION,
        old="        if self.channel.awaited > MAX_UNHEARD:",
        new="        if False:",
        tests=(
            f"{TESTS}/test_session.py::test_ends_that_are_never_acknowledged_are_kept_only_up_to_a_bound",
        ),
    ),
    _clients(
        "untaken-bytes",
        stops="What a client sends and nobody takes is kept only up to a bound.",
        file=SESSION,
        old="                    if self._held.count > MAX_HELD_BYTES:",
        new="                    if False:",
        tests=(f"{TESTS}/test_session.py::test_what_nobody_takes_is_kept_only_up_to_a_bound",),
    ),
    _clients(
        "buffers-of-an-account",
        stops="What all sessions of an account keep in memory is bounded together.",
        file="node/tfnz_node/gateway/buffers.py",
        old="        if self.most_bytes < own.count:\n            what",
        new="        if False:\n            what",
        tests=(
            f"{TESTS}/test_session.py::test_what_an_account_s_sessions_keep_together_is_bounded",
            f"{TESTS}/test_buffers.py::test_the_fullest_overflows_once_and_makes_room",
        ),
    ),
    _clients(
        "containers-of-others",
        stops="A container of another session or account does not exist for a request.",
        file=REGISTRY,
        old="if container is None or container.session != session or container.account != account:",
        new="if container is None:",
        tests=("tests/node/core/test_registry.py::test_what_belongs_to_another_is_as_what_never_was",),
    ),
    _clients(
        "tags-of-others",
        stops="A tag lets nobody of another account at a container.",
        file=REGISTRY,
        old="if container is not None and container.account == account and container.tag is not None:",
        new="if container is not None and container.tag is not None:",
        tests=(
            "tests/node/handlers/test_connections.py::test_one_without_a_tag_or_of_another_account_does_not_exist",
        ),
    ),
    _clients(
        "quota-containers",
        stops="An account has as many containers as its quota.",
        file=REGISTRY,
        old="        if 0 < self._containers_quota <= count:",
        new="        if False:",
        tests=(
            "tests/node/core/test_registry.py::test_an_account_has_as_many_containers_as_its_quota",
            "tests/system/test_exhaustion.py::test_what_is_counted",
        ),
    ),
    _clients(
        "quota-memory",
        stops="The limits of memory of an account's containers are within its quota together.",
        file=REGISTRY,
        old="        if 0 < self._memory_quota < memory:",
        new="        if False:",
        tests=(
            "tests/node/core/test_registry.py::test_the_memory_of_an_account_is_summed_over_its_sessions",
        ),
    ),
    _clients(
        "quota-disk",
        stops="The disks of an account's containers are within its quota together.",
        file=REGISTRY,
        old="        if 0 < self._disk_quota < disk:",
        new="        if False:",
        tests=("tests/node/core/test_registry.py::test_the_disk_of_an_account_is_summed_and_given_back",),
    ),
    _clients(
        "quota-files",
        stops="The pre-boot files that are kept in memory for an account are within its quota together.",
        file=REGISTRY,
        old="        if 0 < self._files_quota < kept:",
        new="        if False:",
        tests=(
            "tests/node/core/test_registry.py::test_the_files_that_are_kept_for_an_account_are_summed_and_given_back",
        ),
    ),
    _clients(
        "imports-of-an-account",
        stops="An account has a few imports under way, and not processes by the hundred.",
        file="node/tfnz_node/handlers/images.py",
        old="    if node.imports[account] >= IMPORTS_PER_ACCOUNT:",
        new="    if False:",
        tests=("tests/node/handlers/test_images.py::test_an_account_has_few_imports_at_once",),
    ),
    _clients(
        "images-in-use",
        stops="An account does not remove the image under a container of another.",
        file="node/tfnz_node/handlers/images.py",
        old="        if users:",
        new="        if False:",
        tests=("tests/node/handlers/test_images.py::test_an_image_in_use_stays_and_whose_it_is_is_not_told",),
    ),
)
