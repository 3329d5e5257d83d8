"""Requests about images: import, list, inspect, remove."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfnz.protocol.errors import Disconnected, ImageInUse, QuotaExceeded
from tfnz.protocol.messages import (
    Done,
    ImageInfo,
    ImageList,
    ImportImage,
    InspectImage,
    ListImages,
    RemoveImage,
)
from tfnz_node.core.flow import SinkStopped, Source
from tfnz_node.gateway.session import Session
from tfnz_node.images.record import ImageRecord

from .containers import find_image, see_through
from .context import Node
from .describe import describe_config

if TYPE_CHECKING:
    from tfnz_node.images.importer import ImageImport

#: How many images an account may import at once.
IMPORTS_PER_ACCOUNT = 4


async def import_archive(node: Node, session: Session, request: ImportImage) -> ImageList:
    """Feed the archive to a worker as it arrives; what it has verified becomes known under its names."""
    # Here, for a daemon that is restarted is waited for, and does not need it.
    from tfnz_node.images.importer import start_import

    source = session.input(request.stream)
    if source is None:
        raise Disconnected("the session has ended")
    with _counted(node, session.account):
        running = await start_import(
            node.host.storage.root, request.name, trash=node.catalogue.trash, limits=node.import_limits
        )
        # One that ends before the archive has refused it: nobody waits for a slow client then.
        running.call_when_ended(source.stop)
        try:
            await _feed(running, source)
            # Not before: what is stored the worker looks at once it has all of the archive.
            with node.catalogue.importing():
                result = await running.finish()
                records = [node.catalogue.add(record) for record in result.images]
        except BaseException:
            await asyncio.shield(running.cancel())
            raise
        finally:
            source.stop()
            # Also what others have left to be deleted while it counted on layers, or what it has stored in vain.
            node.catalogue.discard_unused_layers(_layers_in_use(node))
    return ImageList([_describe(record, describe_config(record.config)) for record in records])


async def _feed(running: ImageImport, source: Source) -> None:
    """Pass on the archive, to its end or to that of the worker."""
    try:
        while data := await source.read():
            await running.write(data)
            source.consumed(len(data))
    except SinkStopped:
        if not running.has_ended:  # the session is over
            raise


@contextlib.contextmanager
def _counted(node: Node, account: str) -> Iterator[None]:
    """An import is a process, with memory and disk of the node's: nobody may start them by the hundred."""
    if node.imports[account] >= IMPORTS_PER_ACCOUNT:
        raise QuotaExceeded(
            f"the account has {node.imports[account]} imports under way, as many as it may: wait for one of them"
        )
    node.imports[account] += 1
    try:
        yield
    finally:
        node.imports[account] -= 1
        node.imports += Counter()  # forgets accounts that have none


async def list_all(node: Node, session: Session, request: ListImages) -> ImageList:
    """All images, without their configurations, which may be large."""
    return ImageList([_describe(record, {}) for record in node.catalogue.images()])


async def inspect(node: Node, session: Session, request: InspectImage) -> ImageList:
    image = find_image(node, request.image)
    return ImageList([_describe(image, describe_config(image.config))])


async def remove(node: Node, session: Session, request: RemoveImage) -> Done:
    """Remove a name of an image, and with its last name the image; layers that others use stay.

    Raises:
        ImageNotFound: there is none.
        ImageInUse: a container was made from it; whose is not told.
    """
    removal = node.catalogue.plan_removal(request.image)
    if removal.deleted is not None:
        digest = removal.deleted.digest
        users = sum(1 for container in node.registry if container.spec.image_digest == digest)
        if users:
            containers = "1 container" if users == 1 else f"{users} containers"
            raise ImageInUse(f"image {request.image!r} is in use by {containers}: end what uses it first")
    node.catalogue.remove(request.image)
    if removal.deleted is not None:
        await see_through(_clear(node, removal.deleted))
    return Done()


async def _clear(node: Node, image: ImageRecord) -> None:
    """Delete what is there of an image that is nobody's any more: roots made in advance, and then layers."""
    try:
        await node.host.pool.forget(image.digest)
    finally:
        await node.catalogue.delete_unused_layers(_layers_in_use(node))


def _layers_in_use(node: Node) -> Iterator[Path]:
    return (layer for container in node.registry for layer in container.spec.layers)


def _describe(record: ImageRecord, config: dict[str, Any]) -> ImageInfo:
    return ImageInfo(
        digest=record.digest,
        names=record.names,
        size_bytes=record.size_bytes,
        created_s=record.created_s,
        layers=len(record.layers),
        config=config,
    )
