"""Messages: any bytes are a frame of one side or are refused, and what was understood is understood again."""

from __future__ import annotations

from tfnz.protocol.errors import ProtocolError
from tfnz.protocol.frames import client_frames, encode, node_frames, pack_view, unpack_view
from tfnz.protocol.messages import ClientEnvelope, Resync


def run(data: bytes) -> None:
    for decoder in (client_frames, node_frames):
        try:
            frame = decoder.decode(data)
        except ProtocolError as exc:
            assert exc.message
            continue
        encoded = encode(frame)
        # By their bytes: a number that is none differs from itself.
        assert encode(decoder.decode(encoded)) == encoded
        if isinstance(frame, ClientEnvelope) and isinstance(frame.body, Resync):
            _unpack(frame.body)


def _unpack(resync: Resync) -> None:
    try:
        again = pack_view(unpack_view(resync, limit=len(resync.view)))
    except ProtocolError as exc:
        assert exc.message
        return
    assert pack_view(unpack_view(again, limit=len(again.view))) == again
