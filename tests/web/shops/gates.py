"""What slow requests wait for, in whichever process they are."""

from __future__ import annotations

from pathlib import Path


class Gates:
    """Gates by name, in a folder that the test and its servers share.

    Args:
        folder: which; a server is told by `SHOP_GATES`.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)

    def arrive(self, name: str) -> None:
        (self._folder / f"{name}.arrived").touch()

    def has_arrived(self, name: str) -> bool:
        """Whether a request waits, or has waited, at this gate."""
        return (self._folder / f"{name}.arrived").exists()

    def open(self, name: str) -> None:
        (self._folder / f"{name}.open").touch()

    def is_open(self, name: str) -> bool:
        return (self._folder / f"{name}.open").exists()
