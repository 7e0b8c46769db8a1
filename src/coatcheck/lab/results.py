"""The outcome of a run, as kept in `results.json`, and the folder it is kept in."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from coatcheck.lab import checker, claims, history, samples, verdicts
from coatcheck.lab.architectures import ARCHITECTURES, BASELINE, Architecture
from coatcheck.lab.claims import Claim, Measured
from coatcheck.lab.errors import HistoryFault, LabError, NoRun, UsageError
from coatcheck.lab.experiments import EXPERIMENTS
from coatcheck.lab.measures import figures, tails
from coatcheck.lab.scale import Scale
from coatcheck.lab.scenario import Scenario
from coatcheck.lab.settings import Settings
from coatcheck.lab.valkey import without_password

SCHEMA = "coatcheck-lab-results/3"
FILE = "results.json"
LATEST = "latest"

_CASES = (
    "idle",
    "create",
    "change-on-disk",
    "change",
    "read",
    "store",
    "restart",
    "stored",
    "busy",
    "calm",
)  # backwards: the last comes first

_PACKAGES = ("coatcheck", "starlette", "uvicorn", "aiohttp", "redis", "hiredis", "httptools", "uvloop")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where and with what a run took place.

    Attributes:
        cores: processor cores that this process may use.
        system: operating system and processor type.
        python: version of Python.
        packages: versions of the Python packages that matter, of those installed.
        programs: what HAProxy and Valkey say about their versions.
    """

    cores: int
    system: str
    python: str
    packages: dict[str, str]
    programs: dict[str, str]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one architecture showed.

    Attributes:
        architecture, title: see `coatcheck.lab.architectures.Architecture`.
        history: the file that the figures come from, from the run's folder.
        figures: see `coatcheck.lab.checker.Figures`.
        verdicts: the claims, and what the figures say about them.
        warnings: why the latencies should not be trusted, if so.
    """

    architecture: str
    title: str
    history: str
    figures: checker.Figures
    verdicts: list[verdicts.Verdict]
    warnings: list[str]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run.

    Attributes:
        schema: name and version of this format. It changes when a field changes its meaning or goes away.
        complete: whether all that was asked for is here. False while the run goes on, or if it was stopped.
        held: whether what each architecture is said to do with carts was put to the test and held, and none of the six
            claims was refuted.
        started: when, in UTC (ISO 8601).
        folder: the run's folder, as it was named when it was written.
        settings: what was asked for. Passwords are blotted out.
        scenario: what people did, as its file said then.
        scale: how much was measured.
        machine: where and with what.
        architectures: the experiment with the carts: one outcome for each architecture, in the order run.
        experiments: the figures of all others.
        claims: the six claims, and what all this says about them. Empty if only the carts were looked at.
    """

    schema: str
    complete: bool
    held: bool
    started: str
    folder: str
    settings: Settings
    scenario: Scenario
    scale: Scale
    machine: Machine
    architectures: list[Outcome]
    experiments: list[Measured]
    claims: list[Claim]


def this_machine(programs: dict[str, str]) -> Machine:
    """A description of this machine. `programs` is taken over as it is."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cores=cores,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages=packages,
        programs=programs,
    )


def outcome(architecture: Architecture, folder: Path) -> Outcome:
    """Judge the history of `architecture` in a run's `folder`. Raises `HistoryFault` if it cannot be judged."""
    file = Path(architecture.name) / history.FILE
    entries = history.read(folder / file)
    figures = checker.check(entries)
    started = entries[0]
    assert isinstance(started, history.Started)  # the checker has made sure
    if started.architecture != architecture.name:
        raise HistoryFault(f"{folder / file} is the history of {started.architecture!r}")
    return Outcome(
        architecture=architecture.name,
        title=architecture.title,
        history=str(file),
        figures=figures,
        verdicts=verdicts.judge(architecture, figures, len(started.servers)),
        warnings=verdicts.warnings(figures),
    )


def measured(folder: Path) -> list[Measured]:
    """The figures of all files of samples below a run's `folder`. Raises `HistoryFault` for one that is damaged."""
    found: dict[tuple[str, str, str], list[tuple[int, str, list[samples.Entry]]]] = {}
    names = [*ARCHITECTURES, BASELINE.name]
    for file in sorted(folder.rglob("*-*.jsonl")):
        entries = samples.read(file)
        began = samples.began(entries)
        if began.experiment not in EXPERIMENTS or began.architecture not in names:
            raise HistoryFault(
                f"{file} is about {began.experiment!r} with {began.architecture!r}, which nobody knows here"
            )
        case = file.stem.removeprefix(f"{began.experiment}-{began.round}").removeprefix("-")
        key = (began.experiment, began.architecture, case)
        found.setdefault(key, []).append((began.round, str(file.relative_to(folder)), entries))
    ordered = sorted(found, key=lambda key: (list(EXPERIMENTS).index(key[0]), _natural(key[2]), names.index(key[1])))
    made = []
    for key in ordered:
        rounds = sorted(found[key], key=lambda one: one[0])
        by_round = [figures(entries) for _, _, entries in rounds]
        made.append(
            Measured(
                experiment=key[0],
                architecture=key[1],
                case=key[2],
                rounds=by_round,
                files=[name for _, name, _ in rounds],
                tails=tails([entries for _, _, entries in rounds]),
                warnings=verdicts.generator_warnings(by_round),
            )
        )
    return made


def _natural(case: str) -> tuple[int, str]:
    """`n2` before `n10`, and `calm` before `busy`."""
    digits = "".join(filter(str.isdigit, case))
    return (int(digits) if digits else -_CASES.index(case) if case in _CASES else 0, case)


def collect(
    folder: Path,
    settings: Settings,
    machine: Machine,
    started: str,
    outcomes: list[Outcome],
    *,
    complete: bool,
    scenario: Scenario | None = None,
    scale: Scale | None = None,
) -> Results:
    """Put a run's results together; the figures of all experiments but that with the carts are made here.

    `scenario` and `scale` are those of a run that was kept; a new one has those that its settings name.
    """
    if settings.redis_url is not None:
        settings = msgspec.structs.replace(settings, redis_url=without_password(settings.redis_url))
    complete = complete and [one.architecture for one in outcomes] == list(settings.only)
    experiments = measured(folder) if complete else []
    carts = {one.architecture: (one.figures, one.verdicts) for one in outcomes}
    judged = claims.judge(claims.Evidence(carts, experiments)) if experiments else []
    return Results(
        schema=SCHEMA,
        complete=complete,
        held=complete
        and all(verdict.answer == "holds" for one in outcomes for verdict in one.verdicts)
        and all(claim.answer != "does not hold" for claim in judged),
        started=started,
        folder=str(folder),
        settings=settings,
        scenario=settings.described if scenario is None else scenario,
        scale=settings.scale if scale is None else scale,
        machine=machine,
        architectures=outcomes,
        experiments=experiments,
        claims=judged,
    )


def to_json(results: Results) -> bytes:
    """`results` as JSON, to be read by people too."""
    return msgspec.json.format(msgspec.json.encode(results, enc_hook=_path_as_text), indent=2) + b"\n"


def write(results: Results, folder: Path) -> None:
    """Keep `results` as `results.json` in `folder`; the file is never half written."""
    scratch = folder / (FILE + ".new")
    scratch.write_bytes(to_json(results))
    scratch.replace(folder / FILE)


def recompute(folder: Path) -> Results:
    """The results of a kept run, with all figures and verdicts made anew from its histories.

    Only what was run, where and when is taken from `results.json`.

    Raises:
        NoRun: there is no run in `folder`.
        LabError: it is of another version.
        HistoryFault: a history is damaged.
    """
    try:
        kept = msgspec.json.decode((folder / FILE).read_bytes(), type=Results, dec_hook=_path_from_text)
    except OSError:
        raise NoRun(f"{folder} holds no finished run. Run `coatcheck lab`, or name the folder of a run.") from None
    except msgspec.DecodeError as problem:
        raise LabError(
            f"{folder / FILE} cannot be read: {problem}. It may be of another version of coatcheck."
        ) from None
    if kept.schema != SCHEMA:
        raise LabError(f"{folder / FILE} has format {kept.schema!r}, this coatcheck reads {SCHEMA!r}.")
    unknown = [one.architecture for one in kept.architectures if one.architecture not in ARCHITECTURES]
    if unknown:
        raise LabError(f"{folder / FILE} is about {unknown[0]!r}, which this coatcheck does not know.")
    gone = [file for one in kept.experiments for file in one.files if not (folder / file).exists()]
    if gone:
        raise HistoryFault(
            f"{folder / gone[0]} is missing, and {len(gone) - 1} more: a report without them would say less"
        )
    outcomes = [outcome(ARCHITECTURES[one.architecture], folder) for one in kept.architectures]
    return collect(
        folder,
        kept.settings,
        kept.machine,
        kept.started,
        outcomes,
        complete=kept.complete,
        scenario=kept.scenario,
        scale=kept.scale,
    )


def new_folder(runs: Path) -> Path:
    """Make the folder of a new run, named by the time (UTC). Raises `UsageError` if that is not possible in `runs`."""
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for attempt in range(1, 100):
        folder = runs / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue  # another run began in the same second
        except OSError as problem:
            reason = f"no run can be kept there ({problem.strerror})"
            raise UsageError("--runs", runs, reason, "Name a folder that can be written to") from None
        return folder
    raise LabError(f"{runs} has too many runs named {name}")


def point_latest_at(folder: Path) -> None:
    """Make `latest` a link to this run, which has come to its end."""
    link = folder.parent / LATEST
    scratch = folder.parent / f".{LATEST}-{os.getpid()}"
    try:
        scratch.symlink_to(folder.name)
        scratch.replace(link)
    except OSError:  # a file system without links, or something else named `latest`; the run itself is not harmed
        scratch.unlink(missing_ok=True)


def _path_as_text(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def _path_from_text(kind: type, value: Any) -> Any:
    if issubclass(kind, Path):
        return kind(value)
    raise NotImplementedError
