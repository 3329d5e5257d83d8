"""Frames as bytes: one message each, bounded, decoded into typed structs or refused."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from .errors import ProtocolError
from .messages import ClientFrame, NodeFrame

#: Nothing larger is sent or accepted. Pre-boot files travel inside a request, and set this size.
MAX_FRAME = 36 * 1024 * 1024
#: All that may arrive on a connection before its session is open.
MAX_HELLO = 4096

Frame = TypeVar("Frame")


class _Codec(Generic[Frame]):
    """Encodes anything; decodes one side's frames."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Frame], sender: str) -> None:
        self._decoder = decoder
        self._sender = sender

    def decode(self, data: bytes) -> Frame:
        """The frame in `data`.

        Raises:
            ProtocolError: it is too large, not MessagePack, or not a frame this side may send.
        """
        if len(data) > MAX_FRAME:
            raise ProtocolError(f"a frame of {len(data)} bytes from the {self._sender} exceeds {MAX_FRAME}")
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
            raise ProtocolError(f"a frame from the {self._sender} makes no sense: {exc}") from exc


client_frames: _Codec[ClientFrame] = _Codec(msgspec.msgpack.Decoder(ClientFrame), "client")
node_frames: _Codec[NodeFrame] = _Codec(msgspec.msgpack.Decoder(NodeFrame), "node")

_encoder = msgspec.msgpack.Encoder()


def encode(frame: ClientFrame | NodeFrame) -> bytes:
    """The bytes of a frame.

    Raises:
        ProtocolError: it would be larger than a peer accepts.
    """
    data = _encoder.encode(frame)
    if len(data) > MAX_FRAME:
        raise ProtocolError(f"a {type(frame).__name__} of {len(data)} bytes exceeds the limit of {MAX_FRAME}")
    return data
