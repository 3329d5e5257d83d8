"""Services that a test starts in a container, all in one program: each port has manners of its own."""

from __future__ import annotations

from typing import Final

from tfnz import Container, Location

ECHO: Final = 7
GREET: Final = 8
COUNT: Final = 9
PRODUCE: Final = 10
STAND_STILL: Final = 11
RESET: Final = 12
ONLY_HERE: Final = 13
ALL_ADDRESSES: Final = 14
ANSWER_AND_CLOSE: Final = 15
PATH: Final = "/run/app.sock"

_SOURCE: Final = """
import os, socket, struct, sys, threading, time

def echo(c):
    while data := c.recv(1 << 18):
        c.sendall(data)

def greet(c):
    c.sendall(b"220 ready\\n")
    echo(c)

def count(c):
    total = 0
    while data := c.recv(1 << 20):
        total += len(data)
    c.sendall(b"%d" % total)

def produce(c):
    left = int(c.recv(100))
    block = bytes(1 << 20)
    while left:
        left -= c.send(block[:left])
    c.shutdown(socket.SHUT_WR)
    c.recv(1)

def stand_still(c):
    time.sleep(10000)

def reset(c):
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

def answer_and_close(c):
    c.recv(1)
    c.sendall(b"too much")

def serve(server, manners):
    def one(c):
        try:
            with c:
                manners(c)
        except OSError:
            pass
    while True:
        c, _ = server.accept()
        threading.Thread(target=one, args=(c,), daemon=True).start()

def listen(address, manners):
    if isinstance(address, str):
        server = socket.socket(socket.AF_UNIX)
        server.bind(address)
        server.listen(100)
    else:
        server = socket.create_server(address, backlog=1000)
    threading.Thread(target=serve, args=(server, manners), daemon=True).start()

threading.stack_size(128 * 1024)
os.path.exists("/run/app.sock") and os.unlink("/run/app.sock")
os.makedirs("/run", exist_ok=True)
for port, manners in enumerate((echo, greet, count, produce, stand_still, reset), 7):
    listen(("127.0.0.1", port), manners)
listen((sys.argv[1], 13), echo)
listen(("0.0.0.0", 14), echo)
listen(("127.0.0.1", 15), answer_and_close)
listen("/run/app.sock", echo)
print("serving", flush=True)
sys.stdin.read()
"""


def start_services(location: Location, **options: object) -> Container:
    """A container in which all of them listen."""
    container = location.node().spawn(
        "python",
        ["sleep", "100000"],
        pids=4000,
        memory="2G",
        **options,  # type: ignore[arg-type]
    )
    container.put("/srv/services.py", _SOURCE)
    run_services(container)
    return container


def run_services(container: Container) -> None:
    """Start the program, and return when it serves."""
    process = container.spawn(["python3", "/srv/services.py", container.ip])
    assert next(iter(process)) == b"serving\n"
