"""``python -m tfnz_node`` is the command ``tfnz-node``."""

from tfnz_node.cli import main

if __name__ == "__main__":
    main()
