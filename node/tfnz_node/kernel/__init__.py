"""Thin faces of the Linux kernel, under the kernel's own names; imports nothing but the standard library."""
