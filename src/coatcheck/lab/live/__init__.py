"""The live view: real servers, and a page on which one sees what happens to people's carts, and can break things.

`command` → `stage` (the real parts, in the main thread, which alone may start and stop processes) ↔ `world` (people, and what
is seen of the parts) ↔ `serving` (the page, its stream of events, and its buttons).
"""
