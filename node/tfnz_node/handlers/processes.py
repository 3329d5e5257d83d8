"""Requests about further processes of a container."""

from __future__ import annotations

from tfnz.protocol.errors import InvalidArgument
from tfnz.protocol.ids import new_id
from tfnz.protocol.messages import (
    DestroyProcess,
    Done,
    ProcessDone,
    ProcessStarted,
    ResizeProcess,
    RunProcess,
    SignalProcess,
    StartProcess,
)
from tfnz_node.core.plan import plan_process, plan_run
from tfnz_node.gateway.session import Session
from tfnz_node.sandbox.jobs import Terminal

from .context import Node
from .streams import open_streams


async def start(node: Node, session: Session, request: StartProcess) -> ProcessStarted:
    container = node.container(session, request.container)
    pty = request.pty or request.login_shell
    terminal = None
    if pty:
        terminal = Terminal(rows=request.size.rows, columns=request.size.columns, raw=not request.interactive)
    process_id = new_id()
    await container.start_process(
        process_id,
        plan_process(request, container.spec.main.env),
        open_streams(session, request.streams),
        terminal=terminal,
        timeout_s=request.timeout_s,
    )
    return ProcessStarted(process_id)


async def run(node: Node, session: Session, request: RunProcess) -> ProcessDone:
    container = node.container(session, request.container)
    plan = plan_run(request, container.spec.main.env)
    streams = open_streams(session, request.streams)
    return ProcessDone(await container.run_to_end(plan, streams, timeout_s=request.timeout_s))


async def signal(node: Node, session: Session, request: SignalProcess) -> Done:
    await node.container(session, request.container).signal_process(request.process, request.number)
    return Done()


async def resize(node: Node, session: Session, request: ResizeProcess) -> Done:
    job = node.container(session, request.container).processes.find(request.process).job
    if job.pty_master is None:
        raise InvalidArgument(f"process {request.process} was started without a terminal")
    job.resize(rows=request.size.rows, columns=request.size.columns)
    return Done()


async def destroy(node: Node, session: Session, request: DestroyProcess) -> Done:
    await node.container(session, request.container).processes.destroy(request.process)
    return Done()
