"""Holding descriptors for the daemon that comes after this one."""
