"""Runs the command."""

from tests.protections.command import main

main()
