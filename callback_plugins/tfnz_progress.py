"""How `tfnz deploy` shows what Ansible does: a line for each change, and why it failed if it did."""

from __future__ import annotations

import json
import sys
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: tfnz_progress
type: stdout
short_description: A line for each change, and one for a failure
description:
  - For the command C(tfnz deploy). Changes go to standard error, a line each.
  - A failure is one JSON object on standard output.
options: {}
"""


def find_reason(result: dict[str, Any]) -> str:
    """What a failed task had to say, without what Ansible puts before it."""
    words = str(result.get("msg") or result.get("stderr") or "it did not say why")
    for prefix in ("Task failed: ", "Module failed: ", "Action failed: "):
        words = words.removeprefix(prefix)
    return words


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible has no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "tfnz_progress"

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.is_changed():
            sys.stderr.write(f"  {result.task.name}\n")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        # The items of a loop have told already, each for itself.
        if not ignore_errors and "results" not in result.result:
            self._tell(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._tell(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._tell(result)

    def _tell(self, result: Any) -> None:
        found = {"task": result.task.name, "reason": find_reason(result.result)}
        sys.stdout.write(json.dumps(found | {"journal": result.result.get("journal", [])}) + "\n")
