"""Where the programs, the sources and the artefact cache are."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
BIN = TARGET / "release"
HEARTHD = BIN / "hearthd"
HEARTH = BIN / "hearth"
EXAMPLES = REPOSITORY / "functions-examples"
FUNCTIONS = REPOSITORY / "tests" / "functions"
CACHE = Path(os.environ.get("HEARTH_CACHE") or Path.home() / ".cache" / "hearth")
GUEST = REPOSITORY / "tests" / "guest"


def newest(kind: str, name: str) -> Path:
    """The artefact of that name that was built or found last."""
    folder = CACHE / kind
    return folder / (folder / f"current-{name}").read_text().strip() / name


def missing() -> list[str]:
    """Programs that `make build` should have made and did not."""
    programs = ("hearth", "hearthd", "hearth-sandbox", "hearth-rootfs")
    return [str(BIN / name) for name in programs if not os.access(BIN / name, os.X_OK)]
