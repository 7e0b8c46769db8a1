"""`coatcheck replicated`: what an all-to-all cluster needs before it can run."""

from __future__ import annotations

import sys
from pathlib import Path

import cyclopts

from coatcheck.stores.replicated.keys import ClusterKey

app = cyclopts.App(help="Keys for web servers that hold all sessions among themselves (replicated://).")


@app.command
def keys(file: Path) -> int:
    """Make the key that all servers of one cluster share, and keep it in a new file.

    Copy the file to every server, readable for the server's user alone, and add ?keys=FILE to the store's URL.
    """
    try:
        ClusterKey.new().write(file)
    except FileExistsError:
        print(f"{file} exists already and is left as it is. Name another file, or remove it", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{file} cannot be written: {error.strerror}. Name another file", file=sys.stderr)
        return 1
    print(f"Made {file}. Copy it to every server of this cluster, and add ?keys={file} to the store's URL.")
    return 0
