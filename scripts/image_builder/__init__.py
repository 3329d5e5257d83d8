"""Builds the images of tests and examples from Debian packages; the standard library is all it needs."""
