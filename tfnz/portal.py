"""How blocking code uses the asynchronous core: a thread that runs its loop, and one that runs callbacks.

`Portal.call` hands a coroutine to the loop and waits for its result, in a mailbox. While it waits, the core may post
work to the mailbox: callbacks that the caller's own action has caused, and reading and writing of files. All other
callbacks run on the callback thread, one at a time; they may make any blocking call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from .aio.callbacks import in_callback
from .aio.worker import calling_thread
from .protocol.errors import ConnectionFailed, Disconnected, InternalError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How long calls of other threads may go on after the session's end, and how long `stop` waits for both threads.
_STOP_TIMEOUT_S = 2.0


class _Work:
    """A function to be run on some thread, and who on the loop waits for its result."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Any] = self._loop.create_future()

    def run(self) -> None:
        """Run it. What interrupts this thread, such as KeyboardInterrupt, also goes on here."""
        try:
            result = self._function()
        except StopIteration as exc:  # no future takes it, as no coroutine may raise it
            error = RuntimeError("what was called back raised StopIteration")
            error.__cause__ = exc
            self._tell(self.done.set_exception, error)
        except Exception as exc:
            self._tell(self.done.set_exception, exc)
        except BaseException:
            self._tell(self.done.set_result, None)
            raise
        else:
            self._tell(self.done.set_result, result)

    def _tell(self, tell: Callable[[Any], None], value: Any) -> None:
        def tell_if_wanted() -> None:
            if not self.done.done():
                tell(value)

        try:
            self._loop.call_soon_threadsafe(tell_if_wanted)
        except RuntimeError:
            pass  # the loop has ended meanwhile: nobody waits


class _Mailbox:
    """What a thread that has made a call waits at: for work, and in the end for the outcome."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[_Work | tuple[bool, Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open = True
        self.finished = False
        self.task: asyncio.Task[None] | None = None

    def post(self, work: _Work) -> bool:
        """Have the waiting thread do `work`; False when it does not wait any more."""
        with self._lock:
            if self._open:
                self._items.put(work)
            return self._open

    def finish(self, *, failed: bool, outcome: Any) -> None:
        self._items.put((failed, outcome))

    def wait(self) -> Any:
        """The outcome, once it is there; work is done meanwhile."""
        while True:
            item = self._items.get()
            if isinstance(item, _Work):
                item.run()
                continue
            failed, outcome = item
            self.finished = True
            if failed:
                raise outcome
            return outcome

    def close(self) -> list[_Work]:
        """Accept no more work; what was not begun."""
        with self._lock:
            self._open = False
        left = []
        while not self._items.empty():
            item = self._items.get()
            if isinstance(item, _Work):
                left.append(item)
        return left


_mailbox: ContextVar[_Mailbox | None] = ContextVar("tfnz_mailbox", default=None)


class Portal:
    """One loop's thread, and its callback thread. Both are daemons: a program that ends does not wait for them.

    Args:
        make_face: makes the blocking object for one of the core's.
    """

    def __init__(self, make_face: Callable[[Any, Portal], Any]) -> None:
        self._make_face = make_face
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may say something while its thread does
        self._closed = False
        self._rest: asyncio.Future[Any] | None = None
        self._loop = asyncio.new_event_loop()
        self._callbacks: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run_loop, name="tfnz loop", daemon=True),
            threading.Thread(target=self._run_callbacks, name="tfnz callbacks", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # --- calls

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine of the core. An interrupt of this thread cancels it.

        Raises:
            Disconnected: the session is closed.
            ConnectionFailed: this process was forked from the one that the session belongs to.
        """
        try:
            self.check_process()
        except BaseException:
            coroutine.close()
            raise
        if threading.current_thread() is self._threads[0]:
            coroutine.close()
            raise InternalError("a blocking call on the loop's own thread would wait for itself for ever")
        mailbox = _Mailbox()
        try:
            if not self._post(lambda: self._begin(coroutine, mailbox)):
                return _finish_without_loop(coroutine)
            outcome: T = mailbox.wait()
            return outcome
        except asyncio.CancelledError:
            raise Disconnected("the session was closed during this call") from None
        except BaseException:
            if not mailbox.finished:  # this thread was interrupted, perhaps before the loop knew of the call
                self._post(lambda: _abandon(coroutine, mailbox))
            raise
        finally:
            for work in mailbox.close():  # the interrupt came before the work's turn
                self._callbacks.put(work)

    def post(self, function: Callable[[], object]) -> None:
        """Have the loop call `function` soon; after its end that is not done, and does not matter."""
        self.check_process()
        self._post(function)

    def _post(self, function: Callable[[], object]) -> bool:
        """Have the loop call `function`; False when it has ended and will not. What it accepts, it also does."""
        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(function)
            return not self._closed

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that made it, not a forked child."""
        return os.getpid() == self._pid

    def check_process(self) -> None:
        """Raises ConnectionFailed in a forked child: threads don't survive a fork, and the session is not its own."""
        if not self.is_ours:
            raise ConnectionFailed(
                f"this Location belongs to process {self._pid}, and this is its forked child {os.getpid()}: "
                "a child must make a Location of its own"
            )

    def _begin(self, coroutine: Coroutine[Any, Any, Any], mailbox: _Mailbox) -> None:
        mailbox.task = self._loop.create_task(self._do(coroutine, mailbox))

    async def _do(self, coroutine: Coroutine[Any, Any, Any], mailbox: _Mailbox) -> None:
        _mailbox.set(mailbox)
        calling_thread.set(self._run_for_caller)
        try:
            mailbox.finish(failed=False, outcome=await coroutine)
        except BaseException as exc:
            mailbox.finish(failed=True, outcome=exc)
            if not isinstance(exc, Exception | asyncio.CancelledError):
                raise

    # --- callbacks and other work

    async def _run_for_caller(self, function: Callable[[], Any]) -> Any:
        """The result of `function`, run by the thread whose call this task serves, or by the callback thread."""
        work = _Work(function)
        mailbox = _mailbox.get()
        if mailbox is None or not mailbox.post(work):
            self._callbacks.put(work)
        return await work.done

    def adopt(self, callback: Callable[..., Any] | None) -> Callable[..., Awaitable[Any]] | None:
        """`callback` in the form that the core calls; it is given blocking objects, on the right thread."""
        if callback is None:
            return None
        function = callback

        async def call(*arguments: Any) -> Any:
            faces = [self.face(argument) for argument in arguments]
            return await self._run_for_caller(lambda: _call_marked(function, faces))

        call.__wrapped__ = callback  # type: ignore[attr-defined]  # as functools.wraps would set it
        return call

    def face(self, core: Any) -> Any:
        """The blocking object for one of the core's, always the same; other values are themselves."""
        face = getattr(core, "_face", None)
        if face is None:
            face = self._make_face(core, self)
            if face is not core:
                face = vars(core).setdefault("_face", face)  # another thread may just have made one
        return face

    # --- threads

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            with self._lock:
                self._closed = True
            self._loop.run_until_complete(_finish_tasks(self._rest))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()
            self._callbacks.put(None)

    def _run_callbacks(self) -> None:
        while (work := self._callbacks.get()) is not None:
            try:
                work.run()
            except BaseException:  # SystemExit and the like: a thread has nobody to tell
                log.exception("a callback tried to end the program")

    def stop(self, rest: asyncio.Future[Any] | None = None) -> None:
        """End both threads, once the calls of others have returned; calling it again does nothing.

        Args:
            rest: callbacks that are still to be called, which are given all the time they take.
        """
        self.check_process()
        self._post(lambda: self._stop(rest))
        if not in_callback.get():
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            for thread in self._threads:
                if thread is not threading.current_thread():
                    thread.join(max(0.0, deadline - time.monotonic()))

    def _stop(self, rest: asyncio.Future[Any] | None) -> None:
        if not self._closed:  # a second stop would cut short the finishing after the first
            self._rest = rest
            self._loop.stop()


async def _finish_tasks(rest: asyncio.Future[Any] | None) -> None:
    """Let calls of other threads return, which they do now that the session is over; if not, cancel them."""
    await asyncio.sleep(0)  # calls that were posted before the end begin
    here = asyncio.current_task()
    if tasks := asyncio.all_tasks() - {here, rest}:
        await asyncio.wait(tasks, timeout=_STOP_TIMEOUT_S)
    left = asyncio.all_tasks() - {here, rest}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    if rest is not None:
        await asyncio.wait({rest})


def _abandon(coroutine: Coroutine[Any, Any, Any], mailbox: _Mailbox) -> None:
    """Nobody waits for a call any more. What was posted before this has begun, and what has not never will."""
    if mailbox.task is not None:
        mailbox.task.cancel()
    else:
        coroutine.close()


def _call_marked(function: Callable[..., Any], arguments: list[Any]) -> Any:
    token = in_callback.set(True)
    try:
        return function(*arguments)
    finally:
        in_callback.reset(token)


def _finish_without_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that need not wait, such as the exit of what has ended before the session."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    except RuntimeError as exc:  # it asked for the loop
        raise Disconnected("the session is closed: make a new Location") from exc
    finally:
        coroutine.close()
    raise Disconnected("the session is closed: make a new Location")
