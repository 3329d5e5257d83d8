"""Writes an image in the forms that tools exchange: a `docker save` archive, an OCI layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scripts.image_builder.tree import Entry, tar_header

CREATED = "2023-11-14T22:13:20Z"


@dataclass(frozen=True)
class Image:
    """Layers, lowest first, each an uncompressed tar; and the `config` object of the image's configuration."""

    name: str
    layers: Sequence[bytes]
    config: Mapping[str, object]

    def configuration(self) -> bytes:
        """Return the image's configuration; its digest is the image's identity."""
        return as_json(
            {
                "architecture": "amd64",
                "config": self.config,
                "created": CREATED,
                "history": [{"created": CREATED, "created_by": "build_images.py"} for _ in self.layers],
                "os": "linux",
                "rootfs": {"diff_ids": [digest(layer) for layer in self.layers], "type": "layers"},
            }
        )


def docker_archive(image: Image) -> bytes:
    """Return what `docker save` writes: manifest.json, the configuration and plain layers."""
    configuration = image.configuration()
    names = [f"{hexadecimal(layer)}/layer.tar" for layer in image.layers]
    config_name = f"{hexadecimal(configuration)}.json"
    manifest = [{"Config": config_name, "Layers": names, "RepoTags": [image.name]}]
    files = dict(zip(names, image.layers, strict=True))
    return tar_of({config_name: configuration, **files, "manifest.json": as_json(manifest)})


def oci_layout(image: Image) -> bytes:
    """Return an OCI image layout as one tar, its layers compressed by gzip."""
    configuration = image.configuration()
    layers = [gzip.compress(layer, mtime=0) for layer in image.layers]
    media = "application/vnd.oci.image"
    manifest = as_json(
        {
            "schemaVersion": 2,
            "mediaType": f"{media}.manifest.v1+json",
            "config": descriptor(configuration, f"{media}.config.v1+json"),
            "layers": [descriptor(layer, f"{media}.layer.v1.tar+gzip") for layer in layers],
        }
    )
    entry = {
        **descriptor(manifest, f"{media}.manifest.v1+json"),
        "platform": {"architecture": "amd64", "os": "linux"},
        "annotations": {"org.opencontainers.image.ref.name": image.name},
    }
    blobs = {f"blobs/sha256/{hexadecimal(blob)}": blob for blob in (configuration, manifest, *layers)}
    index = as_json({"schemaVersion": 2, "manifests": [entry]})
    return tar_of({"oci-layout": as_json({"imageLayoutVersion": "1.0.0"}), "index.json": index, **blobs})


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of plain files, in the order given."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = Entry(tarfile.REGTYPE, 0o644, content=content)
            archive.addfile(tar_header(name, entry), io.BytesIO(content))
    return output.getvalue()


def descriptor(blob: bytes, media_type: str) -> dict[str, object]:
    """Return how an OCI document refers to a blob."""
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


def as_json(value: object) -> bytes:
    """Return value as JSON, the same bytes every time."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def hexadecimal(blob: bytes) -> str:
    """Return the SHA-256 of blob in hexadecimal."""
    return hashlib.sha256(blob).hexdigest()


def digest(blob: bytes) -> str:
    """Return the SHA-256 of blob as image documents write it."""
    return f"sha256:{hexadecimal(blob)}"
