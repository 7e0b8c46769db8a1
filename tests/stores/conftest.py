"""The fixtures of the stores."""

from tests.servers.fixtures import *  # noqa: F403 - all of them
