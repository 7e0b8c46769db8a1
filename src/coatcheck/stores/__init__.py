"""Stores: where sessions live. `interface` is the contract, `opening` finds a store by its URL."""
