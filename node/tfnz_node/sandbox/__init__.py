"""Sandboxes: starting init processes, talking to them, and the confinement around them."""
