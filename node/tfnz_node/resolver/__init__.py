"""The resolver of containers: names of those that they may connect to, and of the outside as far as they may."""
