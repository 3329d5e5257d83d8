"""From a request to the handler of its noun."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tfnz.protocol import messages as m
from tfnz.protocol.errors import NodeNotFound
from tfnz_node.gateway.session import Session

from . import connections, containers, files, firewall, images, nodes, processes
from .context import Node

#: Every request of the protocol, and who serves it. A test proves it total.
HANDLERS: dict[type[m.RequestBody], Callable[[Node, Session, Any], Awaitable[m.Result]]] = {
    m.SpawnContainer: containers.spawn,
    m.StartContainer: containers.start,
    m.RebootContainer: containers.reboot,
    m.SignalContainer: containers.signal_main,
    m.ResizeContainer: containers.resize,
    m.DestroyContainer: containers.destroy,
    m.ListContainers: containers.list_all,
    m.WatchContainer: containers.watch,
    m.AllowConnection: firewall.allow,
    m.DisallowConnection: firewall.disallow,
    m.ListConnections: firewall.list_all,
    m.SetEgress: firewall.set_egress,
    m.StartProcess: processes.start,
    m.RunProcess: processes.run,
    m.SignalProcess: processes.signal,
    m.ResizeProcess: processes.resize,
    m.DestroyProcess: processes.destroy,
    m.PutFile: files.put_file,
    m.FetchFile: files.fetch_file,
    m.PutTree: files.put_tree,
    m.FetchTree: files.fetch_tree,
    m.OpenConnection: connections.open_one,
    m.ImportImage: images.import_archive,
    m.ListImages: images.list_all,
    m.InspectImage: images.inspect,
    m.RemoveImage: images.remove,
    m.GetNodeStatus: nodes.status,
    m.EndSession: nodes.end_session,
}


async def dispatch(node: Node, session: Session, request: m.Request) -> m.Result:
    """Serve a request that is meant for this node.

    Raises:
        NodeNotFound: it is meant for another. There is one node today; tomorrow the entry passes it on from here.
        TfnzError: whatever the handler has to say.
    """
    if request.node not in ("", node.name):
        raise NodeNotFound(f"there is no node {request.node[:80]!r} here; this is {node.name!r}")
    return await HANDLERS[type(request.body)](node, session, request.body)
