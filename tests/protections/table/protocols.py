"""Against bytes that are no message: the protocol's, init's socket's and the keeper's."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.protections.removal import Input, Removal, taken_away

FLOWS: Final = "tfnz/protocol/streams.py"
CHANNEL: Final = "tfnz/protocol/channel.py"
TREES: Final = "tfnz/protocol/trees.py"
KEEPER: Final = "node/keeper/main.c"
TESTS: Final = "tests/tfnz/protocol"
KEPT: Final = "tests/node/keeper/test_client.py"

# Not here: the room of the keeper, which is tried in C (node/keeper/tests), and not by a test of pytest.

_protocols = partial(taken_away, input=Input.PROTOCOLS)

REMOVALS: Final[tuple[Removal, ...]] = (
    _protocols(
        "frame-size-announced",
        stops="A frame that is announced as too large is refused before it comes.",
        file="tfnz/framing.py",
        old="            if size > self.limit:",
        new="            if False:",
        tests=("tests/tfnz/test_framing.py::test_a_frame_that_is_too_large_is_refused_before_it_comes",),
    ),
    _protocols(
        "frame-memory-announced",
        stops="A large frame that is announced takes no memory before it comes.",
        file="tfnz/framing.py",
        old="            if SMALL_READ < size <= ROOM_AT_ONCE:",
        new="            if SMALL_READ < size:",
        tests=("tests/tfnz/test_framing.py::test_a_large_frame_that_is_announced_takes_none",),
    ),
    _protocols(
        "frame-of-the-other-side",
        stops="A client does not speak as a node.",
        file="tfnz/protocol/frames.py",
        old='_Codec(msgspec.msgpack.Decoder(ClientFrame), "client")',
        new='_Codec(msgspec.msgpack.Decoder(ClientFrame | NodeFrame), "client")',
        tests=(f"{TESTS}/test_frames.py::test_a_client_may_not_speak_as_a_node",),
    ),
    _protocols(
        "frame-nonsense",
        stops="Bytes that are no message are refused, and no fault of ours.",
        file="tfnz/protocol/frames.py",
        old=(
            "        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:\n"
            '            raise ProtocolError(f"a frame from the'
        ),
        new='        except RecursionError as exc:\n            raise ProtocolError(f"a frame from the',
        tests=(f"{TESTS}/test_frames.py::test_any_bytes_are_a_frame_or_a_protocol_error",),
    ),
    _protocols(
        "frame-depth",
        stops="A frame of arrays within arrays is refused, and no fault of ours.",
        file="tfnz/protocol/frames.py",
        old=(
            "        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:\n"
            '            raise ProtocolError(f"a frame from the'
        ),
        new=(
            "        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:\n"
            '            raise ProtocolError(f"a frame from the'
        ),
        tests=(f"{TESTS}/test_frames.py::test_a_field_that_is_deeper_than_any_stack_is_refused",),
    ),
    _protocols(
        "view-size",
        stops="What a client says that it knows is not looked at when it is more than there can be.",
        file="tfnz/protocol/frames.py",
        old="    if len(resync.view) > limit:",
        new="    if False:",
        tests=(f"{TESTS}/test_frames.py::test_a_view_of_more_than_there_can_be_is_not_looked_at",),
    ),
    _protocols(
        "frames-missing",
        stops="A frame that follows one that never came is not served.",
        file=CHANNEL,
        old="        if envelope.seq != self.received + 1:",
        new="        if False:",
        tests=(f"{TESTS}/test_channel.py::test_a_missing_frame_is_an_error",),
    ),
    _protocols(
        "frames-twice",
        stops="A frame that is sent again is served once.",
        file=CHANNEL,
        old="        if envelope.seq <= self.received:\n            return False\n",
        new="        if envelope.seq <= self.received:\n            return True\n",
        tests=(f"{TESTS}/test_channel.py::test_a_frame_that_arrives_twice_is_dropped",),
    ),
    _protocols(
        "acknowledged-and-never-sent",
        stops="A peer does not acknowledge what it cannot have.",
        file=CHANNEL,
        old="        if received > self._sent:",
        new="        if False:",
        tests=(f"{TESTS}/test_channel.py::test_acknowledging_what_was_never_sent_is_an_error",),
    ),
    _protocols(
        "credit-exceeded",
        stops="Nobody sends more than was granted.",
        file=FLOWS,
        old="        if count > self.granted:",
        new="        if False:",
        tests=(f"{TESTS}/test_streams.py::test_a_sender_that_exceeds_its_credit_is_refused",),
    ),
    _protocols(
        "credit-absurd",
        stops="Nobody grants more than any receiver has room for.",
        file=FLOWS,
        old="        if count <= 0 or self.available + count > MAX_CREDIT:",
        new="        if False:",
        tests=(f"{TESTS}/test_streams.py::test_an_absurd_grant_is_refused",),
    ),
    _protocols(
        "tree-names",
        stops="No name of a tree leads out of its directory.",
        file=TREES,
        old='        or any(part in (b"", b".", b"..") for part in name.split(b"/"))\n',
        new="",
        tests=(f"{TESTS}/test_trees.py::test_names_stay_beneath_the_root",),
    ),
    _protocols(
        "tree-chunks",
        stops="A chunk of a tree is bounded.",
        file=TREES,
        old="        if length > MAX_TREE_CHUNK:",
        new="        if False:",
        tests=(
            f"{TESTS}/test_trees.py::test_a_chunk_is_bounded",
            f"{TESTS}/test_trees.py::test_what_breaks_the_rules_is_refused",
        ),
    ),
    _protocols(
        "tree-cut-off",
        stops="A tree that is cut off is not taken for a whole one.",
        file=TREES,
        old="        if not self.finished:\n            raise",
        new="        if False:\n            raise",
        tests=(f"{TESTS}/test_trees.py::test_a_tree_that_is_cut_off_is_no_tree",),
    ),
    _protocols(
        "tree-of-init",
        stops="A hostile stream of a tree does not lead init out of the directory.",
        file="node/init/tree.c",
        old="\tif (record->kind == TREE_END || tree_check_name(record->name, size) < 0)",
        new="\tif (record->kind == TREE_END)",
        tests=("tests/node/init/test_trees.py::test_a_broken_or_hostile_stream_is_refused",),
    ),
    _protocols(
        "init-packet-form",
        stops="A packet of init's socket whose strings do not end is none.",
        file="node/tfnz_node/sandbox/wire.py",
        old='    if body.count(b"\\0") != string_count or (body and not body.endswith(b"\\0")):',
        new="    if False:",
        tests=("tests/node/sandbox/test_wire.py::test_malformed_packets_are_refused",),
    ),
    _protocols(
        "init-answers",
        stops="An init that answers what it was not asked is given up.",
        file="node/tfnz_node/sandbox/control.py",
        old="        if packet.id != request.id:\n",
        new="        if False:\n",
        tests=("tests/node/sandbox/test_control.py::test_an_init_that_breaks_the_protocol_is_given_up",),
    ),
    _protocols(
        "init-exits",
        stops="An init that tells of the end of a process that never was is given up.",
        file="node/tfnz_node/sandbox/control.py",
        old='            if ended is None:\n                raise WireError(f"the exit',
        new='            if ended is None:\n                return\n                raise WireError(f"the exit',
        tests=("tests/node/sandbox/test_control.py::test_an_init_that_breaks_the_protocol_is_given_up",),
    ),
    _protocols(
        "init-unanswered",
        stops="What waits for an init that does not answer is bounded.",
        file="node/tfnz_node/sandbox/control.py",
        old="        if len(self._requests) >= MAX_UNANSWERED or self._unsent_bytes + len(data) > MAX_UNSENT_BYTES:",
        new="        if False:",
        tests=(
            "tests/node/sandbox/test_control.py::test_what_is_asked_of_an_init_that_does_not_answer_is_bounded",
        ),
    ),
    _protocols(
        "keeper-users",
        stops="The keeper serves its own user alone.",
        file=KEEPER,
        old="\t\tbool welcome = is_ours(daemon);",
        new="\t\tbool welcome = is_ours(daemon) || true;",
        tests=(f"{KEPT}::test_others_are_not_served",),
    ),
    _protocols(
        "keeper-names",
        stops="A record whose name does not end where it says is none.",
        file=KEEPER,
        old=(
            "header.name_size <= NAME_MAX_BYTES + 1 &&\n"
            "\t\t\t(!header.name_size || memchr(name, 0, header.name_size) == name + header.name_size - 1);"
        ),
        new="header.name_size <= NAME_MAX_BYTES + 1;",
        tests=(f"{KEPT}::test_nonsense_ends_the_connection_and_nothing_else",),
    ),
    _protocols(
        "keeper-kinds",
        stops="What no daemon says ends its connection.",
        file=KEEPER,
        old='\tfprintf(stderr, "tfnz-keeper: a message of %zd bytes makes no sense\\n", size);\n\treturn false;',
        new="\treturn true;",
        tests=(f"{KEPT}::test_nonsense_ends_the_connection_and_nothing_else",),
    ),
    _protocols(
        "keeper-cut-off-descriptors",
        stops="A record without all of its descriptors is none.",
        file=KEEPER,
        old="\tif (complete)\n",
        new="\tif (complete || true)\n",
        tests=(f"{KEPT}::test_what_is_refused_is_told_and_not_there_in_an_older_form",),
    ),
)
