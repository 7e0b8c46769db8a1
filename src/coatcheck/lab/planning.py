"""What `coatcheck lab plan` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coatcheck.lab.errors import UsageError
from coatcheck.lab.model import FORMULAS, Answer, Quantity, Question, parse_amount, parse_bytes
from coatcheck.lab.results import Results


def question(users: str, requests: str, session: str, servers: int, write_share: float, shard_memory: str) -> Question:
    """What was asked, from the options as typed. Raises `UsageError`, which names the option and the next step."""
    amounts = {}
    for option, text in (("--users", users), ("--requests-per-second", requests)):
        try:
            amounts[option] = parse_amount(text)
        except (ValueError, IndexError):
            raise UsageError(option, text, "not an amount", "Use one such as 200000, 200k or 50M") from None
    for option, text in (("--session", session), ("--shard-memory", shard_memory)):
        try:
            amounts[option] = parse_bytes(text)
        except ValueError:
            raise UsageError(option, text, "not a size", "Use one such as 500B, 4kB or 16GB") from None
    if not amounts["--shard-memory"]:
        raise UsageError("--shard-memory", shard_memory, "too little", "Use one such as 16GB")
    if not 1 <= servers <= 100_000:
        raise UsageError("--servers", servers, "out of range", "Use 1 to 100000")
    if not 0 <= write_share <= 1:
        raise UsageError("--write-share", write_share, "out of range", "Use a share from 0 to 1")
    return Question(
        users=amounts["--users"],
        requests=amounts["--requests-per-second"],
        session=amounts["--session"],
        servers=servers,
        write_share=write_share,
        shard_memory=amounts["--shard-memory"],
    )


def show(asked: Question, answers: Sequence[Answer], results: Results, console: Console) -> None:
    """Print the plan, its formulas, its constants, and how far to trust it."""
    console.print(
        Text(
            f"{asked.users:,.0f} users, {asked.requests:,.0f} requests per second ({asked.write_share:.0%} of them change "
            f"something), sessions of {_bytes(asked.session)}, {asked.servers} web servers"
        )
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    headings = (
        "memory",
        "in each server",
        "network",
        "web cores",
        "store cores",
        "shards",
        "lost with a server",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for one in answers:
        table.add_row(
            one.architecture,
            _bytes(one.memory) + _band(one, "memory"),
            _bytes(one.per_server),
            f"{_bytes(one.network)}/s" + (_band(one, "network") if one.network else ""),
            f"{one.web_cores:,.0f}" + _band(one, "processor"),
            "-" if not one.constants.shared else f"{one.store_cores[0]:,.1f} to {one.store_cores[1]:,.1f}",
            f"{one.shards:,}",
            f"{one.lost_with_a_server:,.0f}",
        )
    console.print(table)
    for one in answers:
        console.print(Text(f"{one.architecture}: costs come from {one.driver}"))
    console.print(Text("\nFormulas", style="bold"))
    for formula in FORMULAS:
        console.print(Text(f"  {formula}"), soft_wrap=True)
    console.print(Text(f"\nConstants, from {results.folder} on {results.machine.cores} cores", style="bold"))
    for one in answers:
        console.print(Text(f"  {one.architecture}: {_constants(one)}"), soft_wrap=True)
    console.print(Text("\nChecked against measured points that no constant was fitted on", style="bold"))
    for one in answers:
        for check in one.checks:
            shown = [
                f"{each * 1e6:,.0f} µs" if check.quantity == "processor" else _bytes(each)
                for each in (check.predicted, check.measured)
            ]
            console.print(
                Text(
                    f"  {one.architecture}, {check.quantity}, {check.where}: predicted {shown[0]}, measured {shown[1]}, "
                    f"{check.error:.0%} off"
                )
            )
    console.print(Text(f"\n{_caution(asked, results)}", style="dim"))


def _band(one: Answer, quantity: Quantity) -> str:
    return f" ±{one.bands[quantity]:.0%}" if quantity in one.bands else " unchecked"


def _constants(one: Answer) -> str:
    made = one.constants
    held = ", ".join(f"{_bytes(size)} takes {taken:,.0f} B" for size, taken in made.held)
    words = [f"memory of a copy: a session of {held}"]
    if made.copies:
        words.append(f"network {made.change:,.0f} B per change and server told, {made.idle:,.0f} B/s idle")
    elif made.shared:
        words.append(f"network {made.read:,.0f} B per request besides the session, {made.change:,.0f} B per change")
    words.append(
        f"processor time {made.web_cpu * 1e6:,.0f} µs in a web server and {made.store_cpu * 1e6:,.0f} µs in the store per "
        f"request ({made.write_share:.0%} of them changes, {made.servers} servers), of which a change takes "
        f"{made.change_web_cpu * 1e6:,.0f} and {made.change_store_cpu * 1e6:,.0f} µs"
    )
    if made.shared:
        words.append(f"{made.crowd_store_cpu * 1e6:,.0f} µs in the store where 64 come at once")
        words.append(f"{made.read_store_cpu * 1e6:,.0f} µs in the store for reading alone")
    if made.copies:
        words.append(f"{made.peer_cpu * 1e6:,.0f} µs in each server that is told of a change")
    return "; ".join(words)


def _caution(asked: Question, results: Results) -> str:
    words = [
        "The band (±) is the largest error of these checks, by quantity; that of cores is for light traffic, as measured."
    ]
    measured = max([results.settings.servers, *results.scale.growth])
    if asked.servers > measured:
        words.append(f"No more than {measured} servers were measured: the further beyond, the less it is worth.")
    words.append(
        "The other machine's speed, replicas, TLS and whatever your application does come on top. A Valkey that was built "
        "with another allocator than that of this run may take up to a quarter more memory."
    )
    return " ".join(words)


def _bytes(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f} B"
