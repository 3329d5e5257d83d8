"""Runs the command."""

from tests.soak.command import main

main()
