"""nftables commands as text, run by libnftables: one text is one transaction, all of it or nothing.

The netlink socket of one `Nftables` owns the tables that it makes with `flags owner`: nobody else can change or flush
them, and the kernel removes them when the socket is closed, whatever becomes of the process.
"""

from __future__ import annotations

import ctypes
import threading

LIBRARY = "libnftables.so.1"
NFT_CTX_OUTPUT_JSON = 1 << 4


class NftablesFailed(OSError):
    """The kernel or libnftables refused a transaction; the text says what."""


class NftablesMissing(OSError):
    """This host has no libnftables."""


class Nftables:
    """A connection to nftables in the network namespace of whoever makes it. Thread-safe; calls block.

    Raises:
        NftablesMissing: there is no libnftables.
    """

    def __init__(self) -> None:
        self._library = _load()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise NftablesFailed("libnftables could not be opened: there is no memory, or no netlink")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._lock = threading.Lock()

    def run(self, commands: str) -> str:
        """Run commands as one transaction; what they print.

        Raises:
            NftablesFailed: one was refused, and nothing was done.
        """
        with self._lock:
            if not self._context:
                raise NftablesFailed("the connection to nftables is closed")
            failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            output = bytes(self._library.nft_ctx_get_output_buffer(self._context) or b"")
            error = bytes(self._library.nft_ctx_get_error_buffer(self._context) or b"")
        if failed:
            raise NftablesFailed(
                error.decode(errors="replace").strip() or "nftables refused, and did not say why"
            )
        return output.decode(errors="replace")

    def run_json(self, commands: str) -> str:
        """The same, with what they print as JSON."""
        with self._lock:
            if self._context:
                self._library.nft_ctx_output_set_flags(self._context, NFT_CTX_OUTPUT_JSON)
        try:
            return self.run(commands)
        finally:
            with self._lock:
                if self._context:
                    self._library.nft_ctx_output_set_flags(self._context, 0)

    def close(self) -> None:
        """Give up the connection, and with it the tables that it owns. Idempotent."""
        with self._lock:
            if self._context:
                self._library.nft_ctx_free(self._context)
                self._context = None


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as exc:
        raise NftablesMissing(f"{LIBRARY} is not on this host") from exc
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library
