"""Names of things: 22-character identifiers, and tags chosen by people."""

from __future__ import annotations

import re
import secrets

from .errors import InvalidArgument

#: No 0, 1, I, O or l, so that an id read aloud or from a bad print is still itself.
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
ID_LENGTH = 22  # 57**22 > 2**128
MAX_TAG_LENGTH = 63

_ID = re.compile(f"[{ALPHABET}]{{{ID_LENGTH}}}")
_TAG = re.compile(r"[0-9a-z][0-9a-z._-]*")


def new_id() -> str:
    """A fresh identifier that nobody can guess."""
    number = secrets.randbelow(len(ALPHABET) ** ID_LENGTH)  # at once: each draw is a system call
    letters = []
    for _ in range(ID_LENGTH):
        number, index = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[index])
    return "".join(letters)


def is_id(text: str) -> bool:
    """Whether `text` has the form of an identifier."""
    return _ID.fullmatch(text) is not None


def parse_tag(tag: str) -> str:
    """`tag` in the form it is kept: lower case.

    Raises:
        InvalidArgument: it is empty, longer than 63 characters, has other characters than ``0-9 a-z - _ .``,
            begins with punctuation, or could be mistaken for an identifier.
    """
    if is_id(tag):
        raise InvalidArgument(f"tag {tag!r} looks like an identifier; choose a name of another length")
    lowered = tag.lower()
    if not _TAG.fullmatch(lowered) or len(lowered) > MAX_TAG_LENGTH:
        raise InvalidArgument(
            f"tag {tag[:80]!r} is not valid: use 1 to {MAX_TAG_LENGTH} of the characters a-z 0-9 - _ . "
            "and begin with a letter or digit"
        )
    return lowered
