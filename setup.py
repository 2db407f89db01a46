"""What setup.cfg cannot say: a panel that was built in the checkout goes into the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUILT = Path(__file__).parent / "web" / "dist"


class BuildWithPanel(build_py):
    """An editable install serves the panel from web/dist itself."""

    def run(self) -> None:
        super().run()
        if BUILT.is_dir() and not self.editable_mode:
            shutil.copytree(BUILT, Path(self.build_lib, "appliance", "gateway", "static"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithPanel})
