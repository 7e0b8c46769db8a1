"""The fixtures of the pages' tests."""

from tests.servers.fixtures import valkey

__all__ = ["valkey"]
