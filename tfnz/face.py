"""What all blocking classes share: their documentation, and the callbacks that users gave."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def described(core: type) -> Callable[[C], C]:
    """A decorator: members of the class that say nothing themselves say what their twins in `core` do."""

    def describe(face: C) -> C:
        for name, member in vars(face).items():
            twin = inspect.getattr_static(core, name, None)
            target = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if name.startswith("_") or twin is None or getattr(target, "__doc__", None):
                continue
            text = getattr(twin, "__doc__", None)
            if isinstance(text, str) and inspect.isroutine(target):
                target.__doc__ = text
        return face

    return describe


def find_callback(adopted: Any) -> Callable[..., Any] | None:
    """The function that a user gave, from the form that the core calls."""
    found: Callable[..., Any] | None = getattr(adopted, "__wrapped__", adopted)
    return found
