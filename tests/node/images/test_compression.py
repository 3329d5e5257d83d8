"""Tests of decompression: every format, several members, damage, truncation and bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable

import pytest
import zstandard

from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.compression import Source, open_decompressed

FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
CONTENT = bytes(range(256)) * 3000


def drain(source: Source) -> bytes:
    pieces = []
    while data := source.read(10_000):
        assert len(data) <= 10_000
        pieces.append(data)
    return b"".join(pieces)


@pytest.fixture(params=FORMATS)
def compress(request: pytest.FixtureRequest) -> Callable[[bytes], bytes]:
    return FORMATS[request.param]


def test_content_comes_back(compress: Callable[[bytes], bytes]) -> None:
    assert drain(open_decompressed(io.BytesIO(compress(CONTENT)), "it")) == CONTENT


def test_members_follow_each_other(compress: Callable[[bytes], bytes]) -> None:
    archive = compress(CONTENT) + compress(b"more") + compress(b"") + compress(CONTENT)
    assert drain(open_decompressed(io.BytesIO(archive), "it")) == CONTENT + b"more" + CONTENT


@pytest.mark.parametrize("content", [b"", b"x", b"plain" * 1000])
def test_what_is_not_compressed_is_left_alone(content: bytes) -> None:
    assert drain(open_decompressed(io.BytesIO(content), "it")) == content


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_truncation_is_noticed(name: str) -> None:
    archive = FORMATS[name](CONTENT)
    for length in range(6, len(archive), max(1, len(archive) // 50)):
        with pytest.raises(ImageInvalid, match="it is damaged: .*truncated"):
            drain(open_decompressed(io.BytesIO(archive[:length]), "it"))


def test_damage_is_noticed(compress: Callable[[bytes], bytes]) -> None:
    archive = bytearray(compress(CONTENT))
    archive[len(archive) // 2 : len(archive) // 2 + 8] = b"\xa5" * 8
    assert outcome(bytes(archive)) != CONTENT


def outcome(archive: bytes) -> bytes | str:
    try:
        return drain(open_decompressed(io.BytesIO(archive), "it"))
    except ImageInvalid as exc:
        return exc.message


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_what_follows_must_be_another_member_or_zeros(name: str) -> None:
    archive = FORMATS[name](CONTENT)
    assert drain(open_decompressed(io.BytesIO(archive + bytes(5000)), "it")) == CONTENT
    with pytest.raises(ImageInvalid, match="it is damaged"):
        drain(open_decompressed(io.BytesIO(archive + b"rubbish" * 100), "it"))


def test_a_bomb_comes_in_the_pieces_it_is_read_in(compress: Callable[[bytes], bytes]) -> None:
    source = open_decompressed(io.BytesIO(compress(bytes(50 << 20))), "it")
    for _ in range(100):
        assert 0 < len(source.read(1000)) <= 1000


def test_an_archive_cannot_ask_for_much_memory() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    xz = lzma.compress(b"x", filters=filters)
    with pytest.raises(ImageInvalid, match=r"[Mm]emory"):
        drain(open_decompressed(io.BytesIO(xz), "it"))
    parameters = zstandard.ZstdCompressionParameters(window_log=29)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    zstd = compressor.compress(b"x" * 1000) + compressor.flush()
    with pytest.raises(ImageInvalid, match=r"[Mm]emory|window"):
        drain(open_decompressed(io.BytesIO(zstd), "it"))
