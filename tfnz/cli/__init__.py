"""The `tfnz` command: containers, images, accounts and nodes from a shell."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
