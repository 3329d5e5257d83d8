"""What can be wrong with a host or its files: told in one line, without a traceback."""

from __future__ import annotations

from tfnz.protocol.errors import TfnzError

from .config import ConfigError
from .kernel.tools import ToolFailed
from .keys import KeyDamaged
from .store.base import StoreError

HOST_ERRORS = (TfnzError, ConfigError, StoreError, KeyDamaged, ToolFailed, OSError)
