"""`tfnz image`: bring images to the location, list them, remove them."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import msgspec

from tfnz.protocol.messages import ImageInfo
from tfnz.protocol.sizes import format_size

from .archives import import_with_progress
from .output import format_age, print_json, print_table, say
from .settings import Settings, connection_options, embedded_options, json_option


@click.group()
def image() -> None:
    """Import, list and remove images."""


@image.command(
    name="import",
    epilog="""\b
Prints the image's digest, by which it can be run whatever its names come to mean. --json prints an object with the
keys digest, names, size_bytes, created_s, layers (how many) and config.

\b
Examples:
  tfnz image import build/images/busybox.tar
  docker save myapp:1.2 | tfnz image import -
  tfnz image import rootfs.tar.zst --name debian:12
""",
)
@click.argument("path", type=click.Path(exists=True, allow_dash=True))
@click.option(
    "--name",
    metavar="NAME",
    help="Give the image this name, such as web:1.2, instead of those the archive has.",
)
@json_option
@embedded_options
@connection_options
@click.pass_obj
def import_(settings: Settings, path: str, name: str | None, as_json: bool) -> None:
    """Import an image from an archive.

    PATH is a `docker save` archive, a tar of a root file system, or an OCI layout (a directory or a tar of one), each
    perhaps compressed; - reads an archive from standard input. Every layer is checked against its digest.
    """
    with settings.open() as location:
        source = sys.stdin.buffer if path == "-" else os.path.abspath(path)
        found = import_with_progress(location, source, name=name, show=True)
    if as_json:
        print_json(found)
        return
    click.echo(found.digest)
    named = f" as {', '.join(found.names)}" if found.names else " without a name"
    layers = "1 layer" if found.layers == 1 else f"{found.layers} layers"
    say(f"imported{named}: {layers}, {format_size(found.size_bytes)}")


@image.command(
    name="ls",
    epilog="""\b
An image with several names has a line for each. --json prints an array of objects with the keys digest, names,
size_bytes, created_s (seconds since 1970) and layers (how many).
""",
)
@json_option
@embedded_options
@connection_options
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the images that containers can be made of."""
    with settings.open() as location:
        images = location.images()
    if as_json:
        print_json([_without_config(found) for found in images])
        return
    rows = [
        (
            name,
            found.digest.removeprefix("sha256:")[:12],
            format_size(found.size_bytes),
            str(found.layers),
            format_age(found.created_s),
        )
        for found in images
        for name in (found.names or [""])
    ]
    print_table(("NAME", "DIGEST", "SIZE", "LAYERS", "AGE"), sorted(rows))


@image.command(
    name="rm",
    epilog="""\b
Layers that no other image uses go with it. An image that a container uses stays, and the command fails.
--json prints an object with the key removed, an array of the names as they were given.
""",
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@json_option
@embedded_options
@connection_options
@click.pass_obj
def remove(settings: Settings, names: tuple[str, ...], as_json: bool) -> None:
    """Remove images, by name or digest."""
    with settings.open() as location:
        for name in names:
            location.remove_image(name)
            if not as_json:
                click.echo(name)
    if as_json:
        print_json({"removed": list(names)})


def _without_config(found: ImageInfo) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(found).items() if name != "config"}
