"""The wheel has with it what `tfnz deploy` gives to Ansible; all else about it is in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
#: Set by who builds the SDK and the daemon for hosts, which deploy nothing.
WITHOUT = "TFNZ_WITHOUT_DEPLOYMENT"


class BuildWithDeployment(build_py):  # type: ignore[misc]  # setuptools has no types
    """Builds the packages, and lays the deployment out in one of them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode or os.environ.get(WITHOUT):
            return
        sys.path.insert(0, str(ROOT))
        from scripts.deployment import lay_out_deployment

        folder = Path(self.build_lib, "tfnz", "deployment")
        shutil.rmtree(folder, ignore_errors=True)  # of a build before this one
        lay_out_deployment(folder, ROOT)


setup(cmdclass={"build_py": BuildWithDeployment})
