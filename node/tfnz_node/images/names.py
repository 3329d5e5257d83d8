"""Image names: their grammar, and the one spelling of each that is stored.

A name is `repository[:tag]`; without a tag it means `latest`. The prefixes `docker.io/library/` and `docker.io/`
(also in their old spelling, `index.docker.io`) are dropped, because that is how archives made by other tools write the
names that people type as `busybox`. Other registries stay part of the name. Text that is both a name and the beginning
of a digest is taken as a name where an image has it.
"""

from __future__ import annotations

import re

from tfnz.protocol.errors import InvalidArgument

MAX_NAME_LENGTH = 255
MIN_DIGEST_PREFIX = 8

_NAME = re.compile(
    r"(?P<repository>(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PREFIX = re.compile(rf"(?:sha256:)?(?P<hex>[0-9a-f]{{{MIN_DIGEST_PREFIX},64}})")


def parse_name(name: str) -> str:
    """Return the stored spelling of an image name: `busybox` becomes `busybox:latest`.

    Raises:
        InvalidArgument: the text is no image name.
    """
    matched = _NAME.fullmatch(name) if len(name) <= MAX_NAME_LENGTH else None
    if matched is None or is_digest(name):
        raise InvalidArgument(
            f"{name[:MAX_NAME_LENGTH]!r} is not an image name; "
            "write lower-case letters, digits and . _ - /, then perhaps :tag, as in app/web:1.2"
        )
    repository = matched["repository"]
    for prefix in ("docker.io/library/", "index.docker.io/library/", "docker.io/", "index.docker.io/"):
        if repository.startswith(prefix):
            repository = repository.removeprefix(prefix)
            break
    return f"{repository}:{matched['tag'] or 'latest'}"


def is_digest(text: str) -> bool:
    """Tell whether text is a whole digest, `sha256:` and 64 hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def parse_digest_prefix(text: str) -> str | None:
    """Return the hexadecimal digits of a digest or of the beginning of one; None when text is neither."""
    matched = _PREFIX.fullmatch(text)
    return matched["hex"] if matched else None
