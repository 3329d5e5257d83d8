"""A program that sends and one that receives: the same two measure every network, in containers and out of them.

It is given to ``python3 -c`` as text, so it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time

PORT = 5000
#: How long the one who connects waits for the other to listen.
PATIENCE_S = 20.0
BLOCK_BYTES = 1 << 20
#: Before each byte there and back.
REST_S = 0.002


def serve(port: int) -> None:
    """Take connections for ever. The first byte of each says what is wanted: an echo, or the count of what came."""
    with socket.create_server(("", port)) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=[connection], daemon=True).start()


def answer(connection: socket.socket) -> None:
    """Do what one connection asks for."""
    with connection, contextlib.suppress(ConnectionError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if connection.recv(1) == b"e":
            while byte := connection.recv(1):
                connection.send(byte)
        else:
            connection.sendall(str(drain(connection)).encode())


def drain(connection: socket.socket) -> int:
    """How much comes until the other side ends."""
    room, total = memoryview(bytearray(BLOCK_BYTES)), 0
    while count := connection.recv_into(room):
        total += count
    return total


def connect(host: str, port: int) -> socket.socket:
    """A connection, once somebody listens."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            connection = socket.create_connection((host, port), PATIENCE_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection


def send(host: str, port: int, size_bytes: int) -> list[float]:
    """The seconds until the other side has so much; one number."""
    block = memoryview(bytes(BLOCK_BYTES))
    with connect(host, port) as connection:
        connection.sendall(b"s")
        started, left = time.perf_counter(), size_bytes
        while left:
            connection.sendall(block[:left])
            left -= min(left, BLOCK_BYTES)
        connection.shutdown(socket.SHUT_WR)
        arrived = int(connection.recv(100))
        elapsed = time.perf_counter() - started
    if arrived != size_bytes:
        raise RuntimeError(f"of {size_bytes} bytes {arrived} arrived")
    return [elapsed]


def go_and_return(host: str, port: int, times: int) -> list[float]:
    """The seconds of each byte there and back; the first does not count."""
    taken = []
    with connect(host, port) as connection:
        connection.sendall(b"e")
        for _ in range(times + 1):
            time.sleep(REST_S)
            started = time.perf_counter()
            connection.send(b"x")
            if connection.recv(1) != b"x":
                raise RuntimeError("the echo is another")
            taken.append(time.perf_counter() - started)
    return taken[1:]


def main(arguments: list[str]) -> None:
    """``serve``, ``send HOST BYTES`` or ``go_and_return HOST TIMES``; the seconds are printed as JSON."""
    if arguments[0] == "serve":
        serve(PORT)
    ask = send if arguments[0] == "send" else go_and_return
    print(json.dumps(ask(arguments[1], PORT, int(arguments[2]))))


if __name__ == "__main__":
    main(sys.argv[1:])
