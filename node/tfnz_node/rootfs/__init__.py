"""The containers' root file systems."""
