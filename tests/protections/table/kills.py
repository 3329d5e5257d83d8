"""Against the end of anything at any moment: what was begun is done or undone, told once, and nothing is left."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.protections.removal import Input, Removal, taken_away

ADOPTION: Final = "node/tfnz_node/handlers/adoption.py"
TAKEOVER: Final = "node/tfnz_node/supervisor/takeover.py"
SESSIONS: Final = "node/tfnz_node/gateway/sessions.py"
TESTS: Final = "tests/node"
CRASH: Final = "tests/system/test_crash_points.py::test_a_crash_at_any_point_leaves_nothing_half_done"

# Not here: that a container whose session is no more is not taken over. Without a session it cannot be, either.

_kills = partial(taken_away, input=Input.KILLS)

REMOVALS: Final[tuple[Removal, ...]] = (
    _kills(
        "client-vanished",
        stops="A client whose connection the kernel has closed is asked for, and released if it does not answer.",
        file=SESSIONS,
        old="        self._doubt_all(self._find_seats(socket, descriptor))\n",
        new="        self._find_seats(socket, descriptor)\n",
        tests=(f"{TESTS}/gateway/test_doubt.py::test_a_client_that_dies_is_released_after_the_grace",),
    ),
    _kills(
        "client-vanished-early",
        stops="A client that is dead before its hello was heard is noticed.",
        file=SESSIONS,
        old="resumed=False))\n        self._doubt_if_closed(peer)\n",
        new="resumed=False))\n",
        tests=(
            f"{TESTS}/gateway/test_doubt.py::test_a_client_that_was_dead_before_its_hello_was_heard_is_noticed",
        ),
    ),
    _kills(
        "client-silent",
        stops="A session of which nothing is heard ends.",
        file=SESSIONS,
        old="        elif silent_s > self._silence_s:",
        new="        elif False:",
        tests=(f"{TESTS}/gateway/test_sessions.py::test_silence_ends_a_session_and_a_sign_of_life_does_not",),
    ),
    _kills(
        "client-answer-of-before",
        stops="What was on its way when a connection broke does not pass for a sign of life.",
        file=SESSIONS,
        old="                if frame.nonce == seat.nonce:",
        new="                if True:",
        tests=(
            f"{TESTS}/gateway/test_doubt.py::test_only_the_answer_to_this_very_question_counts",
            f"{TESTS}/gateway/test_doubt.py::test_the_answer_to_an_earlier_question_does_not_count",
        ),
    ),
    _kills(
        "client-never-back",
        stops="A client that does not come back after a restart of the daemon is released.",
        file=SESSIONS,
        old='            seat.doubt = Patience(patience_s, partial(self._end, seat, "its client did not come back"))\n',
        new="            assert patience_s >= 0\n",
        tests=(f"{TESTS}/gateway/test_restored.py::test_a_client_that_does_not_come_back_is_released",),
    ),
    _kills(
        "client-process-ended",
        stops="A client of this machine whose process has ended is not waited for after a restart.",
        file=SESSIONS,
        old="            if seat.process is not None:\n                asyncio.get_running_loop().add_reader(",
        new="            if False:\n                asyncio.get_running_loop().add_reader(",
        tests=(f"{TESTS}/gateway/test_restored.py::test_a_client_whose_process_has_ended_is_not_waited_for",),
    ),
    _kills(
        "session-written-first",
        stops="A session is written down before its client hears of it, so the next daemon knows it.",
        file=SESSIONS,
        old="        self._enter(seat, peer)\n        self._seats[session.id] = seat\n",
        new="        self._seats[session.id] = seat\n",
        tests=(
            f"{TESTS}/gateway/test_restored.py::test_a_client_is_written_down_before_it_is_welcomed_and_no_longer_than_it_has_anything",
        ),
    ),
    _kills(
        "session-not-forgotten",
        stops="A session that has ended is out of the book, and no daemon waits for its client.",
        file=SESSIONS,
        old="            self._book.delete(seat.session.id)\n",
        new="            pass\n",
        tests=(
            f"{TESTS}/gateway/test_restored.py::test_a_client_is_written_down_before_it_is_welcomed_and_no_longer_than_it_has_anything",
        ),
    ),
    _kills(
        "released-with-its-session",
        stops="What a session owned is destroyed when it ends.",
        file=SESSIONS,
        old="            await self._release(seat.session)\n",
        new="            pass\n",
        tests=(
            f"{TESTS}/gateway/test_doubt.py::test_a_client_that_dies_is_released_after_the_grace",
            "tests/system/test_leaks.py::test_twenty_containers_of_a_killed_program",
        ),
    ),
    _kills(
        "output-once",
        stops="What a client has of an output is not sent to it again after a restart.",
        file="node/tfnz_node/sandbox/spool.py",
        old="        self.sent = min(position, self.size)\n",
        new="        self.sent = 0\n",
        tests=(
            f"{TESTS}/sandbox/test_spool.py::test_output_is_read_again_from_where_the_reader_was",
            "tests/system/test_survival_sdk.py::test_every_line_arrives_once_and_the_end_after_it",
        ),
    ),
    _kills(
        "output-between",
        stops="What lies between a terminal and its file when a daemon dies is not lost.",
        file="node/tfnz_node/sandbox/spool.py",
        old='        self._between = _count_unread(self.fds["read"]) if "read" in self.fds else 0\n',
        new="        self._between = 0\n",
        tests=(f"{TESTS}/sandbox/test_spool.py::test_what_is_between_terminal_and_file_is_not_lost",),
    ),
    _kills(
        "exits-kept",
        stops="The end of a process that no daemon has heard of is kept by init.",
        file="node/init/jobs.c",
        old="\tif (!job->kept)\n\t\tforget(job);\n",
        new="\tforget(job);\n",
        tests=(f"{TESTS}/init/test_resync.py::test_what_runs_and_what_has_ended_is_told",),
    ),
    _kills(
        "exits-of-before",
        stops="What was on its way to a daemon that is dead is not taken for an answer.",
        file="node/tfnz_node/sandbox/control.py",
        old="            case _ if not listing.begun:\n                pass\n",
        new="",
        tests=(f"{TESTS}/init/test_resync.py::test_what_was_on_its_way_to_the_first_is_dropped",),
    ),
    _kills(
        "unknown-processes",
        stops="What runs in a container and is in no record is killed.",
        file=TAKEOVER,
        old="            init.kill_and_forget(number)\n",
        new="            assert init and number\n",
        tests=(f"{CRASH}[exec: started]",),
    ),
    _kills(
        "end-written-first",
        stops="Why a container is to end is written down before it is ended, so it ends for that reason and once.",
        file="node/tfnz_node/supervisor/container.py",
        old='        self.keep("ending", exit=exit, error=error)\n',
        new="",
        tests=(f"{CRASH}[destroy: ended]",),
    ),
    _kills(
        "start-undone",
        stops="A start of which nobody was told is undone by the next daemon.",
        file=TAKEOVER,
        old='        if stage not in ("creating", "starting", "sleeping"):',
        new='        if stage not in ("creating", "sleeping"):',
        tests=(f"{TESTS}/supervisor/test_takeover.py::test_a_start_of_which_nobody_was_told_is_undone",),
    ),
    _kills(
        "init-that-does-not-answer",
        stops="A container whose init does not answer the next daemon ends.",
        file=TAKEOVER,
        old="            self._conclude(Exit(Cause.NODE_LOST, message=what))\n            return\n",
        new="            return\n",
        tests=(f"{TESTS}/supervisor/test_takeover.py::test_one_whose_init_does_not_answer_ends",),
    ),
    _kills(
        "egress-unknown",
        stops="A container of which nobody knows what it may reach ends, and is not open.",
        file=ADOPTION,
        old='        raise UnreadableRecord("nobody knows what it may reach outside")\n',
        new=(
            "        from tfnz_node.core.access import OPEN\n\n"
            "        known = EgressRecord(container=container.id, egress=OPEN)\n"
        ),
        tests=(
            f"{TESTS}/handlers/test_adoption.py::test_a_container_of_which_nobody_knows_what_it_may_reach_ends",
        ),
    ),
    _kills(
        "records-of-another-kind",
        stops="A record of a daemon that nobody knows any more is not guessed at.",
        file="node/tfnz_node/supervisor/records.py",
        old="    if data[:1] != VERSION:",
        new="    if False:",
        tests=(f"{TESTS}/supervisor/test_records.py::test_a_record_of_another_version_is_not_guessed_at",),
    ),
    _kills(
        "cgroups-of-the-dead",
        stops="What a dead daemon has left running is ended by the next.",
        file="node/tfnz_node/sandbox/cgroups.py",
        old="    removed = [name for name in dead if _sweep(",
        new="    removed = [name for name in dead[:0] if _sweep(",
        tests=(f"{TESTS}/sandbox/test_cgroups.py::test_what_a_dead_daemon_left_is_found_and_swept",),
    ),
    _kills(
        "scratches-of-the-dead",
        stops="The files of containers that have died with a daemon are removed by the next.",
        file="node/tfnz_node/assembly.py",
        old="            storage.delete_scratch(name)\n",
        new="",
        tests=(f"{TESTS}/test_assembly.py::test_what_an_earlier_daemon_left_is_removed",),
    ),
    _kills(
        "one-daemon",
        stops="One daemon has a data directory.",
        file="node/tfnz_node/instance.py",
        old="        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        new="        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
        tests=(f"{TESTS}/test_instance.py::test_one_daemon_has_a_data_directory",),
    ),
    _kills(
        "keeper-lets-go",
        stops="When no daemon comes the keeper lets go, and all that it holds ends.",
        file="node/keeper/main.c",
        old="\t\tif (rest <= 0 && (!stay || records_count()))\n",
        new="\t\tif (rest <= 0 && stay && records_count())\n",
        tests=(f"{TESTS}/keeper/test_client.py::test_it_ends_when_nobody_comes",),
    ),
    _kills(
        "put-sealed",
        stops="A file whose sender has died halfway is not taken for a whole one.",
        file="node/init/replace.c",
        old="\tif (!is_seal(buffer, held, written))",
        new="\tif (!is_seal(buffer, held, written) && held > SEAL_BYTES)",
        tests=(
            f"{TESTS}/init/test_put_get.py::test_a_put_whose_sender_ends_before_its_content_changes_nothing",
        ),
    ),
    _kills(
        "store-whole-transactions",
        stops="A transaction that fails leaves nothing of it.",
        file="node/tfnz_node/store/sqlite.py",
        old="                self._undo(inner=inner)",
        new='                self._execute("RELEASE inner_part" if inner else "COMMIT")',
        tests=(f"{TESTS}/store/test_contract.py::test_a_transaction_that_fails_keeps_nothing",),
    ),
)
