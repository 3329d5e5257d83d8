"""Runs the command."""

from tests.fuzz.command import main

main()
