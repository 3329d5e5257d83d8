"""The node's door: sockets, authentication, sessions and their streams."""
