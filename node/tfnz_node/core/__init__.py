"""What the node decides, without I/O: life cycles, ownership, slots, limits and plans."""
