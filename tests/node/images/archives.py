"""Archives made to measure, honest and otherwise."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Any


class Tar:
    """A tar under construction; every method returns it."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, kind: bytes, data: bytes = b"", **fields: Any) -> Tar:
        header = tarfile.TarInfo(name)
        header.type, header.size, header.mtime = kind, len(data), 1_000_000_000
        header.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        for field, value in fields.items():
            setattr(header, field, value)
        self._tar.addfile(header, io.BytesIO(data))
        return self

    def file(self, name: str, data: bytes = b"", **fields: Any) -> Tar:
        return self.add(name, tarfile.REGTYPE, data, **fields)

    def directory(self, name: str, **fields: Any) -> Tar:
        return self.add(name, tarfile.DIRTYPE, **fields)

    def symlink(self, name: str, target: str, **fields: Any) -> Tar:
        return self.add(name, tarfile.SYMTYPE, linkname=target, **fields)

    def hard_link(self, name: str, target: str, **fields: Any) -> Tar:
        return self.add(name, tarfile.LNKTYPE, linkname=target, **fields)

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def as_json(value: Json) -> bytes:
    return json.dumps(value).encode()


def pack(files: Mapping[str, bytes]) -> bytes:
    tar = Tar()
    for name, data in files.items():
        tar.file(name, data)
    return tar.bytes()


def configuration(diff_ids: Sequence[str], config: Json = None, **fields: Json) -> bytes:
    document = {"architecture": "amd64", "os": "linux", "config": config or {}, **fields}
    return as_json({**document, "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}})


def docker_files(
    layers: Sequence[bytes], *, tags: Sequence[str] = ("app:1",), config: Json = None
) -> dict[str, bytes]:
    document = configuration([sha256(layer) for layer in layers], config)
    names = [f"layer{number}/layer.tar" for number in range(len(layers))]
    config_name = f"{sha256(document).removeprefix('sha256:')}.json"
    manifest = [{"Config": config_name, "RepoTags": list(tags), "Layers": names}]
    return {
        config_name: document,
        **dict(zip(names, layers, strict=True)),
        "manifest.json": as_json(manifest),
    }


@dataclass
class Layout:
    """An OCI layout under construction."""

    files: dict[str, bytes]
    index: list[Json]

    def blob(self, data: bytes, media_type: str = "") -> Json:
        digest = sha256(data)
        self.files[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = data
        return {"digest": digest, "size": len(data), "mediaType": media_type}

    def image(
        self,
        layers: Sequence[bytes],
        *,
        plain: Sequence[bytes] | None = None,
        platform: Json = None,
        name: str | None = None,
        config: Json = None,
        **fields: Json,
    ) -> Json:
        """Add an image; `plain` are the layers uncompressed, where they are not what is stored."""
        document = configuration([sha256(layer) for layer in plain or layers], config, **fields)
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(document, "application/vnd.oci.image.config.v1+json"),
            "layers": [self.blob(layer, "application/vnd.oci.image.layer.v1.tar") for layer in layers],
        }
        descriptor = self.blob(as_json(manifest), "application/vnd.oci.image.manifest.v1+json")
        if platform:
            descriptor["platform"] = platform
        if name:
            descriptor["annotations"] = {"org.opencontainers.image.ref.name": name}
        self.index.append(descriptor)
        return descriptor

    def bytes(self) -> bytes:
        head = {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": as_json({"schemaVersion": 2, "manifests": self.index}),
        }
        return pack({**head, **self.files})


def new_layout() -> Layout:
    return Layout({}, [])
