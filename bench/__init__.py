"""Measurements of 20ft and of its peers, on the same machine and in the same run."""
