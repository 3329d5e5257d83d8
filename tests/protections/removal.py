"""What one removal of a protection is: which, why it is there, how it is taken away, and whose tests must notice."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path


class Input(enum.StrEnum):
    """Whose input a protection is against."""

    RESOURCES = "resources"
    CONTAINERS = "containers"
    CLIENTS = "clients"
    IMAGES = "images"
    PROTOCOLS = "protocols"
    CONFINEMENT = "confinement"
    NETWORK = "network"
    KILLS = "kills"


@dataclass(frozen=True)
class Edit:
    """A change of one text.

    Attributes:
        file: relative to the root of the checkout.
        old: is there exactly once.
        new: what is there without the protection.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Removal:
    """A protection that is taken away.

    Attributes:
        name: short, of words and dashes.
        input: the class of inputs that it is against.
        stops: in one sentence, what it stops.
        edits: what takes it away; several where each of them alone is enough to protect.
        tests: ids as pytest has them; one of these at least must fail then.
    """

    name: str
    input: Input
    stops: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


def apply(removal: Removal, checkout: Path) -> None:
    """Take the protection away in a copy of the checkout.

    Raises:
        ValueError: what is to be changed is not there, or more than once.
    """
    for edit in removal.edits:
        path = checkout / edit.file
        text = path.read_text()
        if (count := text.count(edit.old)) != 1:
            raise ValueError(f"{removal.name}: {edit.file} has {count} times {edit.old!r}; once is meant")
        path.write_text(text.replace(edit.old, edit.new))


def taken_away(
    name: str, input: Input, stops: str, file: str, old: str, new: str, tests: tuple[str, ...]
) -> Removal:
    """A removal that changes one text."""
    return Removal(name, input, stops, (Edit(file, old, new),), tests)
