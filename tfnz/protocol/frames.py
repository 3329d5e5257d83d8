"""Frames as bytes: one message each, bounded, decoded into typed structs or refused."""

from __future__ import annotations

import re
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from .errors import InvalidArgument, ProtocolError
from .messages import ClientFrame, ClientView, NodeFrame, RequestBody, Resync

#: Nothing larger is sent or accepted. Pre-boot files travel inside a request, and set this size.
MAX_FRAME = 36 * 1024 * 1024
#: All that may arrive on a connection before its session is open.
MAX_HELLO = 4096

#: A frame as it arrives. One in a bytearray is as good as another: whoever has received it leaves it alone.
FrameBytes: TypeAlias = bytes | bytearray

Frame = TypeVar("Frame")


class _Codec(Generic[Frame]):
    """Encodes anything; decodes one side's frames."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Frame], sender: str) -> None:
        self._decoder = decoder
        self._sender = sender

    def decode(self, data: FrameBytes) -> Frame:
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


_requests: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(RequestBody)
_WHERE = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)


def encode_request(body: RequestBody) -> msgspec.Raw:
    """A request as it stands in its frame, where it can take the place of `body`: so it is encoded but once.

    It is one that a peer will accept; one that it cannot even decode would cost the whole session.

    Raises:
        InvalidArgument: a value is of the wrong type, too long or out of range; the message names the field.
    """
    try:
        encoded = _encoder.encode(body)
        _requests.decode(encoded)
    except msgspec.ValidationError as exc:
        match = _WHERE.fullmatch(str(exc))
        assert match is not None  # it matches anything
        raise InvalidArgument(
            f"{match[2] or type(body).__name__} cannot be used: {match[1].lower()}"
        ) from exc
    except (TypeError, OverflowError, UnicodeEncodeError) as exc:
        raise InvalidArgument(f"{type(body).__name__} has a value that cannot be sent: {exc}") from exc
    return msgspec.Raw(encoded)


def decode_request(body: RequestBody | msgspec.Raw) -> RequestBody:
    """What `encode_request` has encoded; what it has not, as it is."""
    if not isinstance(body, msgspec.Raw):
        return body
    decoded: RequestBody = _requests.decode(body)
    return decoded


_views = msgspec.msgpack.Decoder(ClientView)


def pack_view(view: ClientView) -> Resync:
    """What a client knows, as it is said."""
    return Resync(_encoder.encode(view))


def unpack_view(resync: Resync, *, limit: int) -> ClientView:
    """What a client has said that it knows.

    Args:
        limit: how many bytes that can be at the most, for this client.

    Raises:
        ProtocolError: it is more, or no view.
    """
    if len(resync.view) > limit:
        raise ProtocolError(
            f"the client knows {len(resync.view)} bytes, and its session has no more than {limit}"
        )
    try:
        return _views.decode(resync.view)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        raise ProtocolError(f"what the client knows makes no sense: {exc}") from exc
