"""The lab: builds each way of keeping sessions from real parts, on this machine, and measures it.

How a run goes, in the order in which to read the modules:

`command` (the options) → `settings` (checked) → `run` (one architecture after the other) → `programs`, `processes`,
`haproxy`, `valkey`, `shop` (the parts) → `plan` and `shoppers` (the traffic) → `history` (everything that happened)
→ `checker` (all figures, from the history alone) → `verdicts` → `report`.
"""
