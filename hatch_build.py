"""Build hook: compiles the CPU attention kernel into the package where there is a C compiler; without one the package is pure Python."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelBuildHook(BuildHookInterface):
    """Runs `hushlm.entropy.kernels.build` by its path: nothing of ours is installed yet, and torch is not needed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        path = Path(self.root, "src", "hushlm", "entropy", "kernels", "build.py")
        specification = importlib.util.spec_from_file_location("kernel_build", path)
        assert specification is not None
        assert specification.loader is not None
        kernel_build = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(kernel_build)
        if reason := kernel_build.build():
            kernel_build.LIBRARY.unlink(missing_ok=True)
            self.app.display_warning(f"The attention kernel was not compiled, attention will run in plain torch: {reason}.")
            return
        # The library calls nothing of Python's: any version of it will do, on this platform.
        build_data["artifacts"].append(kernel_build.LIBRARY.relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
