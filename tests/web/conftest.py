"""The fixtures of the web stories."""

from tests.servers.fixtures import *  # noqa: F403 - all of them
