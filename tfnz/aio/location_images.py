"""The images of a location."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import IO

from tfnz.protocol.errors import Disconnected, ImageNotFound
from tfnz.protocol.messages import (
    ImageInfo,
    ImageList,
    ImportImage,
    InspectImage,
    ListImages,
    RemoveImage,
    RequestBody,
)
from tfnz.protocol.messages import Result as Answer

from .archives import read_archive
from .callbacks import Callback
from .requests import REQUEST_TIMEOUT_S, expect
from .session import Session
from .transfers import parts_from, parts_of, upload


class LocationImages:
    """A location as a place for images, and a way to ask its entry node."""

    _session: Session | None
    _entry: str

    async def images(self, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> list[ImageInfo]:
        """The images that the node has, without their configurations; `image` tells one."""
        return expect(ImageList, await self._request(ListImages(), "a list of images", timeout_s)).images

    async def image(self, name: str, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> ImageInfo:
        """What is known of one image, its configuration included.

        Raises:
            ImageNotFound: the node has none of this name or digest.
        """
        images = expect(ImageList, await self._request(InspectImage(name), f"image {name}", timeout_s)).images
        if not images:
            raise ImageNotFound(f"there is no image {name!r}: import it first")
        return images[0]

    async def import_image(
        self,
        source: str | os.PathLike[str] | IO[bytes],
        name: str | None = None,
        progress: Callback | None = None,
        *,
        timeout_s: float | None = None,
    ) -> ImageInfo:
        """Give the node an image.

        Args:
            source: the path of a root file system tar, a ``docker save`` archive or an OCI layout (also as a
                directory); or such an archive as an open binary file, which is left open.
            name: what to call it; by default as the archive does.
            progress: called now and then with the number of bytes sent, and how many there are, or None.
            timeout_s: how long it may take; None is for as long as the session lives.

        Returns:
            The image; the first, if the archive has several.

        Raises:
            ImageInvalid: the archive is malformed, or its digests lie.
            PathNotFound: there is no such file.
            DiskFull: it does not fit.
        """
        if isinstance(source, str | os.PathLike):
            archive, total = read_archive(source)
            parts, what = parts_from(archive), f"import {os.fspath(source)!r}"
        else:
            total, parts, what = None, parts_of(source), "import an image"
        session = self._alive()
        answer = await upload(
            session,
            self._entry,
            lambda stream: ImportImage(stream, name),
            _reporting(parts, progress, total),
            what=what,
            timeout_s=timeout_s,
        )
        return expect(ImageList, answer).images[0]

    async def remove_image(self, name: str, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """Have the node forget an image.

        Raises:
            ImageNotFound: there is none.
            ImageInUse: a container uses it.
        """
        await self._request(RemoveImage(name), f"removal of image {name}", timeout_s)

    def _alive(self) -> Session:
        if self._session is None:
            raise Disconnected("this Location is not connected: await it, or enter it with `async with`")
        return self._session

    async def _request(self, body: RequestBody, what: str, timeout_s: float | None) -> Answer:
        return await self._alive().request(self._entry, body, what=what, timeout_s=timeout_s)


async def _reporting(
    parts: AsyncIterator[bytes], progress: Callback | None, total: int | None
) -> AsyncIterator[bytes]:
    """`parts`, and `progress` told of them."""
    sent = 0
    async for part in parts:
        yield part
        sent += len(part)
        if progress is not None:
            result = progress(sent, total)
            if asyncio.iscoroutine(result):
                await result
