"""The key that all servers of a cluster share: it encrypts what they say, and proves that they belong together."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from coatcheck.errors import ConfigurationError

_HEADER = """\
# The key of a coatcheck cluster. Whoever has it can read and change every session: copy it to the servers of this
# cluster, readable for their user alone, and nowhere else.
"""
_LABEL = "secret:"


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """A CURVE key pair. Every server of the cluster has the same, shows it and accepts no other.

    Attributes:
        public, secret: 40 characters each, in ZeroMQ's Z85.
    """

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> ClusterKey:
        """A fresh one, from the operating system's random source."""
        return cls(*zmq.curve_keypair())

    @classmethod
    def read(cls, path: Path) -> ClusterKey:
        """The key in a file.

        Raises:
            ConfigurationError: there is no such file, or no key in it.
        """
        next_step = "Make one with `coatcheck replicated keys FILE`, and copy it to every server"
        try:
            text = path.read_text("ascii")
        except (OSError, ValueError) as error:
            raise ConfigurationError("keys", str(path), f"it cannot be read ({error})", next_step) from None
        try:
            [secret] = [line.removeprefix(_LABEL).strip() for line in text.splitlines() if line.startswith(_LABEL)]
            return cls(zmq.curve_public(secret.encode()), secret.encode())
        except (ValueError, zmq.ZMQError):
            raise ConfigurationError("keys", str(path), "there is no cluster key in it", next_step) from None

    def write(self, path: Path) -> None:
        """Keep it in a new file that only its owner can read.

        Raises:
            FileExistsError: there is something already. It is left as it is.
        """
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{_HEADER}{_LABEL} {self.secret.decode()}\n")
