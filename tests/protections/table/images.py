"""Against hostile images: paths, links, devices, rights, bombs, lies and absurd values."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.protections.removal import Edit, Input, Removal, taken_away

UNPACKER: Final = "node/tfnz_node/images/unpacker.py"
CONFINEMENT: Final = "node/tfnz_node/images/confinement.py"
CONFIG: Final = "node/tfnz_node/images/image_config.py"
COMPRESSION: Final = "node/tfnz_node/images/compression.py"
LIMITS: Final = "node/tfnz_node/images/limits.py"
LAYERS: Final = "node/tfnz_node/images/layers.py"
TESTS: Final = "tests/node/images"

_image = partial(taken_away, input=Input.IMAGES)

REMOVALS: Final[tuple[Removal, ...]] = (
    _image(
        "image-path-upwards",
        stops="Names that lead out of the layer by `..` are refused.",
        file=UNPACKER,
        old='if b".." in parts:',
        new="if False:",
        tests=(f"{TESTS}/test_traversal.py::test_an_attempt_is_refused",),
    ),
    _image(
        "image-path-depth",
        stops="A name cannot be so deep that every system call walks without end.",
        file=UNPACKER,
        old="if len(parts) > MAX_DEPTH:",
        new="if False:",
        tests=(f"{TESTS}/test_traversal.py::test_an_attempt_is_refused",),
    ),
    _image(
        "image-unpacked-in-its-own-root",
        stops="No name or link of a layer means anything outside (here, without it, what is outside is one directory).",
        file=CONFINEMENT,
        old="    os.chroot(root)\n",
        new="    os.chroot(root.parent)\n",
        tests=(
            f"{TESTS}/test_traversal.py::test_what_looks_like_an_attempt_stays_inside",
            f"{TESTS}/test_unpacker.py::test_files_are_as_the_archive_says",
        ),
    ),
    _image(
        "image-hard-link-to-nothing",
        stops="A hard link to what is not in the layer is refused by name.",
        file=UNPACKER,
        old="if not os.path.lexists(target):",
        new="if False:",
        tests=(
            "tests/system/test_hostile_images.py::test_an_image_that_is_refused[a link to what is not in the tree]",
        ),
    ),
    _image(
        "image-devices",
        stops="Device nodes of an archive are never made.",
        file=UNPACKER,
        old="        else:\n            self.skipped += 1",
        new=(
            "        else:\n            self._clear(path)\n"
            "            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(0, 0))"
        ),
        tests=(f"{TESTS}/test_unpacker.py::test_device_nodes_are_skipped_and_counted",),
    ),
    _image(
        "image-attributes",
        stops="Only well-formed file capabilities are taken over, bound to no user namespace.",
        file=UNPACKER,
        old="    if len(value) != _VFS_CAP_SIZE:\n        return False",
        new="    if True:\n        return True",
        tests=(
            f"{TESTS}/test_unpacker.py::test_what_valid_capabilities_are",
            f"{TESTS}/test_unpacker.py::test_only_valid_capabilities_are_kept_of_attributes",
        ),
    ),
    _image(
        "image-ids",
        stops="Owners that no container has ids for are refused.",
        file=UNPACKER,
        old="if not 0 <= member.uid <= MAX_ID or not 0 <= member.gid <= MAX_ID:",
        new="if False:",
        tests=(f"{TESTS}/test_unpacker.py::test_ids_that_no_container_has_are_refused",),
    ),
    _image(
        "image-bomb",
        stops="An archive cannot unpack to more than the limit.",
        file=LIMITS,
        old="if self.unpacked_bytes > self.limits.unpacked_bytes:",
        new="if False:",
        tests=(
            f"{TESTS}/test_limits.py::test_a_bomb_stops_at_the_limit",
            f"{TESTS}/test_limits.py::test_a_bomb_in_a_layer_stops_at_the_limit",
        ),
    ),
    _image(
        "image-bomb-in-a-layer",
        stops="What a layer unpacks to is counted, and not only the archive around it.",
        file=LAYERS,
        old="        if self._budget is not None:\n            self._budget.spend_bytes(len(data))",
        new="        pass",
        tests=(f"{TESTS}/test_limits.py::test_a_bomb_in_a_layer_stops_at_the_limit",),
    ),
    _image(
        "image-layers-together",
        stops="All layers of an archive share one limit.",
        file=LAYERS,
        old="        self._budget.spend_bytes(layer.size_bytes)\n",
        new="",
        tests=(f"{TESTS}/test_limits.py::test_all_layers_of_an_archive_share_one_limit",),
    ),
    _image(
        "image-entries",
        stops="An archive cannot have files without end.",
        file=LIMITS,
        old="if self.entries > self.limits.entries:",
        new="if False:",
        tests=(f"{TESTS}/test_limits.py::test_many_entries_are_refused",),
    ),
    _image(
        "image-archive-size",
        stops="An archive cannot be sent without end.",
        file="node/tfnz_node/images/archive.py",
        old="if self.count > self._limit:",
        new="if False:",
        tests=(f"{TESTS}/test_limits.py::test_a_large_archive_is_refused",),
    ),
    Removal(
        "image-window",
        Input.IMAGES,
        "A decompressor does not take as much memory as an archive asks for.",
        (
            Edit(COMPRESSION, "lzma.LZMADecompressor(memlimit=MAX_WINDOW_BYTES)", "lzma.LZMADecompressor()"),
            Edit(COMPRESSION, "max_window_size=MAX_WINDOW_BYTES", "max_window_size=1 << 30"),
        ),
        (f"{TESTS}/test_compression.py::test_an_archive_cannot_ask_for_much_memory",),
    ),
    _image(
        "image-layer-digest",
        stops="A layer that is not what the configuration says is refused.",
        file=LAYERS,
        old='    verify_digest(plain.digest(), diff_id, f"{what} (rootfs.diff_ids)")\n',
        new="",
        tests=(f"{TESTS}/test_docker_archive.py::test_a_lie_or_a_mistake_is_refused_by_name",),
    ),
    _image(
        "image-blob-digest",
        stops="A blob that is not what names it is refused.",
        file=LAYERS,
        old="    if blob.digest is not None:\n",
        new="    if False:\n",
        tests=(f"{TESTS}/test_oci_layout.py::test_a_lie_or_a_mistake_is_refused_by_name",),
    ),
    _image(
        "image-layer-shown",
        stops="Who names a layer that is stored must show it, or they would have the files of others.",
        file=LAYERS,
        old="        layer = self._verified.get((blob.offset, diff_id))\n",
        new=(
            "        layer = self._verified.get((blob.offset, diff_id))\n"
            '        if (self._layers / diff_id.removeprefix("sha256:")).exists():\n'
            '            return StoredLayer(diff_id.removeprefix("sha256:"), 0, 0, 0)\n'
        ),
        tests=(f"{TESTS}/test_docker_archive.py::test_who_claims_a_stored_layer_must_show_it",),
    ),
    _image(
        "image-extended-header",
        stops="An extended header of a tar is not read into memory whatever its size.",
        file="node/tfnz_node/images/tar_reader.py",
        old="if size > MAX_EXTENDED_BYTES:",
        new="if False:",
        tests=(f"{TESTS}/test_tar_reader.py::test_what_is_wrong_and_where",),
    ),
    _image(
        "image-document",
        stops="A document of an archive is not read into memory whatever its size.",
        file="node/tfnz_node/images/archive.py",
        old="if blob.size > limit:",
        new="if False:",
        tests=("tests/system/test_hostile_images.py::test_an_image_that_is_refused[a document without end]",),
    ),
    _image(
        "image-words",
        stops="A command, environment or labels without end are refused.",
        file=CONFIG,
        old="    if len(texts) > MAX_WORDS:",
        new="    if False:",
        tests=(f"{TESTS}/test_image_config.py::test_absurd_values_are_refused_by_the_name_of_their_field",),
    ),
    _image(
        "image-zero-bytes",
        stops="Texts that the kernel would cut off are refused.",
        file=CONFIG,
        old='        if "\\0" in text:',
        new="        if False:",
        tests=(f"{TESTS}/test_image_config.py::test_absurd_values_are_refused_by_the_name_of_their_field",),
    ),
    _image(
        "image-unpacked-as-nobody",
        stops="What unpacks a layer is not root, and could not signal root's processes.",
        file=CONFINEMENT,
        old="    os.setresuid(NOBODY, NOBODY, NOBODY)\n",
        new="",
        tests=(f"{TESTS}/test_confinement.py::test_only_files_below_the_root_can_be_made",),
    ),
    _image(
        "image-unpacked-without-rights",
        stops="What unpacks a layer keeps five capabilities.",
        file=CONFINEMENT,
        old="    prctl(PR_SET_NO_NEW_PRIVS, 1)\n    _drop_capabilities()\n",
        new="    prctl(PR_SET_NO_NEW_PRIVS, 1)\n",
        tests=(f"{TESTS}/test_confinement.py::test_only_files_below_the_root_can_be_made",),
    ),
    _image(
        "image-unpacked-without-network",
        stops="What unpacks a layer reaches no network.",
        file=CONFINEMENT,
        old="    unshare(CLONE_NEWNET | CLONE_NEWIPC)\n",
        new="",
        tests=(f"{TESTS}/test_confinement.py::test_only_files_below_the_root_can_be_made",),
    ),
    _image(
        "image-marked-elsewhere",
        stops="What unpacks a layer cannot have directories marked that are not the storage's.",
        file=CONFINEMENT,
        old="            if os.fstat(fds[0]).st_dev != device:\n                return None\n",
        new="",
        tests=(f"{TESTS}/test_confinement.py::test_nothing_on_another_file_system_is_marked",),
    ),
    _image(
        "image-worker-dies-with-the-daemon",
        stops="A worker that reads an archive does not outlive its daemon.",
        file="node/tfnz_node/images/worker.py",
        old="    die_with_parent(told.parent)\n",
        new="",
        tests=(
            f"{TESTS}/test_importer.py::test_a_worker_dies_with_the_daemon",
            f"{TESTS}/test_importer.py::test_a_worker_whose_daemon_is_gone_does_not_begin",
        ),
    ),
)
