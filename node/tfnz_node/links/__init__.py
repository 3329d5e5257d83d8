"""The links between containers, the host and other nodes: addresses and routes, once containers have a network."""
