"""Stories: the life of a container, or of two, from spawn to end; a lane of a client tells one after another."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from tests.soak.client import digest, list_tree, make_content
from tests.soak.model import DESTROYED, End, Life, Model, exited, signalled
from tests.soak.player import CallFailed, ClientGone, NoAnswer, Player
from tests.soak.restarts import Outcome, judge_error
from tests.soak.stage import Stage
from tfnz.protocol.exits import Cause

#: What is to happen soon has not happened by then, even on a machine that is very busy.
SOON_S: Final = 120.0
#: By this word in its command line a main process is found on the host.
MAIN: Final = "soak-main"
#: Prints until there is a file /end, then ends as $1 says. $0 is a pause, in microseconds.
PRINT: Final = """
i=0
while [ ! -e /end ]; do
  for _ in 1 2 3 4 5; do echo "#$i"; i=$((i+1)); done
  usleep $0
done
echo "#end"
eval "$1"
"""
#: Prints until it is told to end by SIGTERM, or by a file whose name is $1; its code is $0.
COUNT: Final = """
trap 'echo "#end"; exit $0' TERM
i=0
while [ ! -e "$1" ]; do echo "#$i"; i=$((i+1)); usleep 50000; done
echo "#end"
exit $0
"""
#: Serves port 80 to its peer, and echoes at port 7.
SERVE: Final = """
(while :; do nc -l -p 7 -e cat; done) &
while :; do echo served | timeout 5 nc -l -p 80; done
"""
#: How a main process ends by itself: what it does, how that is told, and what else it is spawned with.
ENDINGS: Final[dict[str, tuple[str, End, dict[str, Any]]]] = {
    "code": ("exit 3", exited(3), {}),
    "success": ("exit 0", exited(0), {}),
    "kill": ("kill -9 $$", signalled(signal.SIGKILL), {}),
    "terminate": ("kill -TERM $$", signalled(signal.SIGTERM), {}),
    "memory": ("exec tail /dev/zero", End(Cause.OUT_OF_MEMORY), {"memory": "24M"}),
}
PATHS: Final = ("/a", "/b", "/srv/deep/er/c")
BOOT_FILE: Final = "/boot/file"
TREE: Final = "/tree"


class StoryOver(Exception):
    """It cannot go on: its container has ended, or its session is over."""


class Lane:
    """One of the threads of a client.

    Args:
        chance: of its own, so that what it chooses does not depend on what others do.
    """

    def __init__(self, stage: Stage, player: Player, number: int, chance: random.Random) -> None:
        self._stage = stage
        self._player = player
        self.chance = chance
        self.name = f"{player.name}-{number}"
        self._stories = 0
        self._session = 0
        self._settled = 0.0
        self._lives: list[Life] = []

    def run(self) -> None:
        """Tell stories until the run is over. A fault of ours is told like one of the node's."""
        try:
            self._run()
        except BaseException as exc:
            self._stage.violate(self.name, f"the lane failed: {type(exc).__name__}: {exc}")
            raise

    def _run(self) -> None:
        after = 0
        while not self._stage.over.is_set():
            with self._stage.gate.passing():
                session = self._player.await_session(after)
                if session is None:
                    if not self._stage.over.is_set():
                        self._stage.violate(self._player.name, "it is without a session for long")
                    return
                self._session = session
                try:
                    self._tell()
                except (StoryOver, ClientGone, Interrupted):
                    # When it is because of the session, there will be another.
                    after = session if not self._usable() else session - 1
                except NoAnswer as exc:
                    self._stage.violate(self._lives[-1] if self._lives else self.name, str(exc))
                    after = session - 1
                finally:
                    self._conclude()

    def _usable(self) -> bool:
        try:
            self._player.call(self._session, "list", {})
        except (ClientGone, CallFailed, NoAnswer):
            return False
        return True

    # --- stories

    def _tell(self) -> None:
        self._stories += 1
        self._lives = []
        if self.chance.random() < 0.15:
            self._tell_of_timeout()
            return
        ending = self.chance.choice([*ENDINGS, "destroy", "destroy gently", "destroy"])
        story = Story(self, ending)
        story.begin()
        for _ in range(self.chance.randrange(2, 12)):
            story.do_something()
        story.end()

    def _tell_of_timeout(self) -> None:
        """A container whose time runs out, whatever is done to it."""
        timed_out = End(Cause.TIMED_OUT)
        life = self.begin("timed", ends=[timed_out])
        options = {"timeout_s": round(self.chance.uniform(0.5, 3.0), 2), "pty": False}
        self.spawn(life, main_command("exit 3"), {}, options)
        for _ in range(self.chance.randrange(3)):
            self.attempt("put", life, path="/a", seed=1, size=1000)
        self.expect_end(life)

    # --- calls

    def now(self) -> float:
        """Seconds since the run began."""
        return self._stage.now()

    def begin(
        self, kind: str, *, parent: Life | None = None, prints: bool = True, ends: Iterable[End] = ()
    ) -> Life:
        """Enter a container or process into the model, before it is asked for."""
        name = f"{self._player.prefix}{self.name}.{self._stories}.{len(self._lives)}-{kind}"
        with self._stage.holding() as model:
            life = model.begin(name, self._player.name, parent=parent, prints=prints, ends=ends)
        self._lives.append(life)
        return life

    def spawn(
        self, life: Life, command: list[str], files: dict[str, list[int]], options: dict[str, Any]
    ) -> None:
        """Make a container. One that may have been made or not is gone, and so the story is over."""
        arguments = {"command": command, "files": files, "env": {"SOAK": life.name}, **options}
        made = self._make("spawn", life, arguments)
        life.ip = made["ip"]

    def process(self, life: Life, container: Life, command: list[str]) -> bool:
        """Start a process; whether that was done."""
        try:
            self._make("process", life, {"container": container.name, "command": command})
        except Interrupted:
            return False
        return True

    def _make(self, operation: str, life: Life, arguments: dict[str, Any]) -> Any:
        try:
            return self.call(operation, life, life.parent or life, **arguments)
        except (Interrupted, StoryOver, ClientGone):
            with self._stage.holding() as model:
                model.refuse(life)
            raise

    def attempt(self, operation: str, life: Life, **arguments: Any) -> bool:
        """Make a call; whether it is known to have been done."""
        try:
            self.call(operation, life, **arguments)
        except Interrupted:
            return False
        return True

    def insist(self, operation: str, life: Life, **arguments: Any) -> Any:
        """Make a call until no restart interrupts it."""
        while True:
            try:
                return self.call(operation, life, **arguments)
            except Interrupted:
                pass

    def call(self, operation: str, life: Life, about: Life | None = None, **arguments: Any) -> Any:
        """Make a call, and judge what comes of it.

        Args:
            about: whose end would explain that it fails.

        Raises:
            Interrupted: a restart of the daemon came between: it may have been done, or not.
            StoryOver: what it is about has ended, or its session is over.
            ClientGone: the client was killed.
        """
        about = about or life
        begun = self._stage.now()
        with self._stage.holding() as model:
            model.note(life, f"{operation} {_describe(arguments)}")
        try:
            value = self._player.call(self._session, operation, {"name": life.name, **arguments})
        except ClientGone:
            self._stage.count(operation, Outcome.KILLED)
            raise
        except CallFailed as exc:
            outcome = self._judge(operation, life, about, exc)
            self._settled = max(self._settled, self._stage.now())
            self._stage.count(operation, outcome or Outcome.DONE)
            if outcome is Outcome.INTERRUPTED:
                raise Interrupted from exc
            raise StoryOver from exc
        self._settled = max(self._settled, begun)
        self._stage.count(operation, Outcome.DONE)
        return value

    def _judge(self, operation: str, life: Life, about: Life, failure: CallFailed) -> Outcome | None:
        ended = self._stage.now()
        with self._stage.holding() as model:
            model.note(life, f"{operation} failed: {failure}")
            outcome = judge_error(
                operation,
                failure.error,
                restarted=self._stage.restarts.between(self._settled, ended),
                may_end=about.may_end() or life.may_end(),
                session_ends=model.session_ends(self._player.name)
                or not self._player.is_current(self._session),
            )
            if outcome is None:
                model.violate(life, f"{operation} failed for no reason: {failure}")
        return outcome

    def check(self, life: Life, condition: bool, what: str) -> None:
        """Something that the answer to a call must say."""
        if not condition:
            self._stage.violate(life, what)

    def change(self, change: Callable[[Model], None]) -> None:
        """Tell the model."""
        with self._stage.holding() as model:
            change(model)

    def allow_end(self, life: Life, *ends: End, complete: bool = False) -> None:
        """From now on it may end so; see `Model.may_end`."""
        self.change(lambda model: model.may_end(life, *ends, complete=complete))

    def read(self, life: Life, path: str, found: str | None) -> None:
        """Tell what a file was found to be."""
        self.change(lambda model: model.read(life, path, found))

    def expect_end(self, *lives: Life) -> None:
        """Wait until the ends of these were told, or must have been."""
        for life in lives:
            self._stage.wait(partial(_is_told, life), SOON_S)
            with self._stage.holding() as model:
                model.check_ended(life)

    def await_lines(self, life: Life, number: int) -> None:
        """Wait until it has printed so much, or has ended."""
        lines = life.lines
        assert lines is not None
        heard = self._stage.wait(
            lambda _: lines.heard >= number or lines.finished or life.may_end() or life.abandoned, SOON_S
        )
        self.check(life, heard, f"it says nothing more after line #{lines.heard - 1}")

    # --- the end of a story

    def _conclude(self) -> None:
        """Whatever has come between, everything ends: by itself, or because it is destroyed."""
        for life in self._lives:
            if life.parent is None and not life.over and not life.abandoned and not life.unborn:
                self.allow_end(life, DESTROYED)
                try:
                    self.insist("destroy", life)
                except (StoryOver, ClientGone):
                    pass
                except NoAnswer as exc:
                    self._stage.violate(life, str(exc))
        self.expect_end(*self._lives)
        self._player.tell("forget", {"names": [life.name for life in self._lives]})
        self.change(lambda model: model.forget(self._lives))
        self._lives = []


class Interrupted(Exception):
    """A restart of the daemon has come between, and the call may have been done or not."""


class Story:
    """A container that prints, sometimes with a peer that serves it, and what is done to them."""

    def __init__(self, lane: Lane, ending: str) -> None:
        self._lane = lane
        self._chance = lane.chance
        self._ending = ending
        self._first: dict[str, str] = {}
        self._peer: Life | None = None
        self._background: list[tuple[Life, str, int]] = []
        self._tokens = 0

    def begin(self) -> None:
        chance = self._chance
        words, _, options = ENDINGS.get(self._ending, ("exit 3", exited(3), {}))
        files = {BOOT_FILE: [chance.randrange(2**32), chance.randrange(20_000)]}
        self._first = {path: digest(make_content(*content)) for path, content in files.items()}
        self._box = self._lane.begin("box")
        self._box.files = {path: {one} for path, one in self._first.items()}
        asleep = chance.random() < 0.2
        options = {
            "pty": chance.random() < 0.5,
            "sleep": asleep,
            "memory": "64M",
            "pids": 64,
            "tag": self._box.name.replace(".", "-") if chance.random() < 0.3 else None,
            **options,
        }
        self._tag = options["tag"]
        self._lane.spawn(self._box, main_command(words, chance.randrange(100_000, 400_000)), files, options)
        if asleep:
            self._put(PATHS[0])
            self._lane.call("start", self._box)
        self._box.starting = False
        if chance.random() < 0.4:
            self._peer = self._lane.begin("peer", prints=False)
            self._lane.spawn(
                self._peer, ["sh", "-c", SERVE, MAIN], {}, {"pty": False, "memory": "64M", "pids": 64}
            )
            self._peer.starting = False

    def do_something(self) -> None:
        """One of the things that can be done to it now."""
        deeds: list[tuple[Callable[[], None], int]] = [
            (self._run, 4),
            (self._put_or_fetch, 6),
            (self._put_or_fetch_tree, 2),
            (self._run_process, 3),
            (self._signal_process, 2),
            (self._write_to_process, 2),
            (self._begin_or_end_background, 3),
            (self._reboot, 2),
            (self._list, 1),
            (self._wait_for_lines, 2),
        ]
        if self._peer is not None:
            deeds += [(self._permit_or_forbid, 5), (self._echo, 4)]
        [deed] = self._chance.choices([deed for deed, _ in deeds], [weight for _, weight in deeds])
        deed()

    def end(self) -> None:
        """It ends as was chosen at its beginning."""
        box, lane = self._box, self._lane
        if self._chance.random() < 0.5:
            self._read_all()
        if self._ending in ENDINGS:
            _, end, _ = ENDINGS[self._ending]
            lane.allow_end(box, end, complete=True)
            lane.insist("put", box, path="/end", seed=0, size=0)
            lane.expect_end(box)
            return
        gentle = self._ending == "destroy gently"
        ends = [DESTROYED, signalled(signal.SIGTERM)] if gentle else [DESTROYED]
        lane.allow_end(box, *ends)
        lane.insist("destroy", box, grace_s=5.0 if gentle else 0.0)
        if box.possible == {DESTROYED}:
            lane.check(box, box.over or box.abandoned, "destroy has returned before its end was told")
        lane.expect_end(box)

    # --- commands and processes

    def _run(self) -> None:
        box, token = self._box, self._new_token()
        code = self._chance.randrange(200)
        script = f'cat; echo "$SOAK {token}"; echo wrong >&2; exit {code}'
        try:
            answer = self._lane.call("run", box, command=["sh", "-c", script], input=token)
        except Interrupted:
            return
        expected = {"code": code, "stdout": f"{token}{box.name} {token}\n", "stderr": "wrong\n"}
        self._lane.check(box, answer == expected, f"run answered {answer}, expected {expected}")

    def _run_process(self) -> None:
        """One that ends soon, by itself."""
        code, lines = self._chance.randrange(200), self._chance.randrange(1, 400)
        process = self._begin_process(exited(code))
        script = f'i=0; while [ $i -lt {lines} ]; do echo "#$i"; i=$((i+1)); done; echo "#end"; exit {code}'
        if self._lane.process(process, self._box, ["sh", "-c", script]):
            self._lane.expect_end(process)

    def _signal_process(self) -> None:
        code = self._chance.randrange(200)
        process = self._begin_process()
        if not self._lane.process(process, self._box, ["sh", "-c", COUNT, str(code), "/never"]):
            return
        # Until it has said something it has no handler.
        self._lane.await_lines(process, 2)
        self._lane.allow_end(process, exited(code), complete=True)
        try:
            self._lane.insist("signal", process, number=signal.SIGTERM)
        except StoryOver:
            # The signal was sent before a restart, and it has ended; or all of it has.
            if self._box.may_end():
                raise
        self._lane.expect_end(process)

    def _write_to_process(self) -> None:
        code = self._chance.randrange(200)
        process = self._begin_process(exited(code))
        if not self._lane.process(process, self._box, ["sh", "-c", f"cat; exit {code}"]):
            return
        lines = [f"#{number}" for number in range(self._chance.randrange(1000))] + ["#end"]
        while lines:
            count = self._chance.randrange(1, 300)
            self._lane.call("stdin", process, data="".join(f"{line}\n" for line in lines[:count]))
            lines = lines[count:]
        self._lane.call("close_stdin", process)
        self._lane.expect_end(process)

    def _begin_or_end_background(self) -> None:
        """One that goes on while other things are done."""
        if self._background and self._chance.random() < 0.6:
            process, path, code = self._background.pop()
            if process.over:
                return
            self._lane.allow_end(process, exited(code), complete=True)
            self._lane.insist("put", self._box, path=path, seed=0, size=0)
            self._lane.expect_end(process)
            return
        path, code = f"/stop-{self._new_token()}", self._chance.randrange(200)
        process = self._begin_process()
        if self._lane.process(process, self._box, ["sh", "-c", COUNT, str(code), path]):
            self._background.append((process, path, code))

    def _begin_process(self, *complete: End) -> Life:
        process = self._lane.begin("process", parent=self._box)
        self._lane.allow_end(process, *complete, complete=True)
        return process

    # --- its life

    def _reboot(self) -> None:
        box, lane, reset = self._box, self._lane, self._chance.random() < 0.5
        assert box.lines is not None
        box.lines.allow_restart()
        box.starting = True
        box.reboots += 1
        ends = [process for process, _, _ in self._background]
        for process in ends:
            lane.allow_end(process, End(Cause.CONTAINER_ENDED))
        if reset:
            lane.change(lambda model: model.may_reset(box, self._first))
        done = lane.attempt("reboot", box, reset=reset)
        box.starting = False
        if done:
            if reset:
                lane.change(lambda model: model.was_reset(box, self._first))
            lane.expect_end(*ends)
            self._background = []

    def _list(self) -> None:
        """The session has what it has made, and nothing else that would be this lane's."""
        answer = self._lane.call("list", self._box)
        mine = set(answer.values())
        if self._tag is not None:
            here = self._tag in mine or self._box.may_end()  # it may have been killed meanwhile
            self._lane.check(self._box, here, f"its tag {self._tag} is not among {sorted(map(str, mine))}")

    def _wait_for_lines(self) -> None:
        assert self._box.lines is not None
        self._lane.await_lines(self._box, self._box.lines.heard + 10)

    # --- files

    def _put_or_fetch(self) -> None:
        path = self._chance.choice(PATHS)
        if self._chance.random() < 0.6:
            self._put(path)
        else:
            self._fetch(self._chance.choice([path, BOOT_FILE]))

    def _put(self, path: str) -> None:
        seed, size = self._chance.randrange(2**32), self._choose_size()
        self._write("put", {path: digest(make_content(seed, size))}, path=path, seed=seed, size=size)

    def _fetch(self, path: str) -> None:
        try:
            found = self._lane.call("fetch", self._box, path=path)
        except Interrupted:
            return
        self._lane.read(self._box, path, found)

    def _put_or_fetch_tree(self) -> None:
        seed, count = self._chance.randrange(2**32), self._chance.randrange(1, 20)
        if self._chance.random() < 0.6:
            files = {f"{TREE}/{path}": digest(content) for path, content in list_tree(seed, count).items()}
            self._write("put_tree", files, path=TREE, seed=seed, count=count)
            return
        try:
            found = self._lane.call("fetch_tree", self._box, path=TREE)
        except Interrupted:
            return
        known = {path for path in self._box.files if path.startswith(f"{TREE}/")}
        for path in known | {f"{TREE}/{path}" for path in found}:
            one = found.get(path.removeprefix(f"{TREE}/"))
            self._lane.read(self._box, path, one)

    def _write(self, operation: str, files: dict[str, str], **arguments: Any) -> None:
        box = self._box
        self._lane.change(lambda model: model.may_write(box, files))
        if self._lane.attempt(operation, box, **arguments):
            self._lane.change(lambda model: model.wrote(box, files))

    def _read_all(self) -> None:
        for path in (*PATHS, BOOT_FILE):
            self._fetch(path)

    def _choose_size(self) -> int:
        return self._chance.choice([0, 1, 4096, self._chance.randrange(100_000), 1_000_000, 3_000_000])

    # --- the network

    def _permit_or_forbid(self) -> None:
        peer, box, lane = self._peer, self._box, self._lane
        assert peer is not None
        permit = self._chance.random() < 0.6
        peer.reachable |= {permit}
        lane.call("allow" if permit else "disallow", peer, box, peer=box.name)
        peer.reachable = {permit}
        reached = self._try_to_reach(peer)
        deadline = lane.now() + SOON_S
        while permit and not reached and lane.now() < deadline:
            # A restart shuts the network for a moment, and a link that was set down is mended soon.
            reached = self._try_to_reach(peer)
        lane.change(lambda model: model.connected(peer, reached))

    def _try_to_reach(self, peer: Life) -> bool:
        script = f"nc -w 1 {peer.ip} 80 </dev/null"
        answer = self._lane.insist("run", self._box, command=["sh", "-c", script])
        if peer.may_end():
            raise StoryOver
        return bool(answer["stdout"] == "served\n")

    def _echo(self) -> None:
        peer = self._peer
        assert peer is not None
        seed, size = self._chance.randrange(2**32), self._chance.randrange(1, 300_000)
        try:
            heard = self._lane.call("echo", peer, port=7, seed=seed, size=size)
        except Interrupted:
            return
        self._lane.check(
            peer, heard == digest(make_content(seed, size)), "other bytes come back through a tunnel"
        )

    def _new_token(self) -> str:
        self._tokens += 1
        return f"{self._tokens}-{self._chance.randrange(10**9)}"


def main_command(ending: str, pause_us: int = 200_000) -> list[str]:
    """A main process that prints, and ends so."""
    return ["sh", "-c", PRINT, str(pause_us), ending, MAIN]


def _describe(arguments: dict[str, Any]) -> str:
    """Arguments of a call, not too long."""
    return " ".join(f"{key}={value!r:.60}" for key, value in arguments.items())


def _is_told(life: Life, _: Model) -> bool:
    """Whether its end was told, or never will be."""
    return life.over or life.abandoned or life.unborn


def start_lanes(lanes: Iterable[Lane]) -> list[threading.Thread]:
    threads = [threading.Thread(target=lane.run, name=lane.name, daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    return threads
