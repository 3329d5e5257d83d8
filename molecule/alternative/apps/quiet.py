"""An application for the scenario that does not tell when it is ready, and shows what it was given."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tfnz import Location

with Location() as location:
    found = {"arguments": sys.argv[1:], "greeting": os.environ["GREETING"], "nodes": len(location.nodes)}
    Path(os.environ["STATE_DIRECTORY"], "found.json").write_text(json.dumps(found))
    signal.pause()
