"""Real servers and a man in the middle, for tests. Everything listens on 127.0.0.1 and is ended by its own process id."""
