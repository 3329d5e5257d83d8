"""The node daemon: everything of 20ft that runs on a host."""
