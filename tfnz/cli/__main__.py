"""Makes `python -m tfnz.cli` the same as `tfnz`."""

from __future__ import annotations

from .main import main

if __name__ == "__main__":
    main()
