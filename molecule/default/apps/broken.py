"""A release that never becomes ready."""

import sys

print("cannot find my marbles", flush=True)
sys.exit(3)
