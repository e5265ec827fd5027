"""Programs of this build as a user without any privilege, who may open /dev/kvm: as somebody runs
them who is in its group.

That user can't reach what root built into a folder of its own. So the programs see it, and a
/dev/kvm of that user's, at other places, in a mount namespace that ends with them: nothing of this
machine is changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import layout

#: Nobody, and nobody's group.
USER = 65534

_ENTER = r"""
set -e
stage=$1 bin=$2 cache=$3 user=$4
shift 4
mount -t tmpfs -o mode=755 stage "$stage"
mkdir "$stage/bin" "$stage/cache"
mount --bind "$bin" "$stage/bin"
mount --bind "$cache" "$stage/cache"
read -r major minor < <(stat -c '%Hr %Lr' /dev/kvm)
mknod -m 660 "$stage/kvm" c "$major" "$minor"
chown "0:$user" "$stage/kvm"
mount --bind "$stage/kvm" /dev/kvm
exec setpriv --reuid="$user" --regid="$user" --clear-groups "$@"
"""


class Unprivileged:
    """A place where both root and that user can get at files, and how programs are started there."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="unprivileged-"))
        self.folder.chmod(0o755)
        self._stage = self.folder / "stage"
        self._stage.mkdir()
        #: With what root built at the places where the user sees it.
        self.environment = {"HEARTH_CACHE": str(self._stage / "cache"), "HOME": str(self.folder)}

    def command(self, program: str) -> list[str]:
        """Starts a program of this build; its arguments follow."""
        enter = ["unshare", "--mount", "--propagation", "private", "bash", "-c", _ENTER, "enter"]
        places = [self._stage, layout.BIN, layout.CACHE, USER, self._stage / "bin" / program]
        return [*enter, *map(str, places)]

    def run(self, program: str, *words: str | Path) -> subprocess.CompletedProcess:
        """Runs one to its end."""
        return subprocess.run(
            [*self.command(program), *map(str, words)],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def own(self, *paths: Path) -> None:
        """Gives files to that user."""
        for path in paths:
            path.mkdir(parents=True, exist_ok=True)
            subprocess.run(["chown", "-R", f"{USER}:{USER}", path], check=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder)
