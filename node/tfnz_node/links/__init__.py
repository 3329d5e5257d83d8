"""The links of containers to the host and to other nodes: addresses and routes, when they have a network."""
