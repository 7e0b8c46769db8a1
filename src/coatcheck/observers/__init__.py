"""Observers: who is told when something happens to a session. One module per listener."""
