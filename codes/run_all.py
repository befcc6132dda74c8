"""Run the numbered scripts 00 to 14, each only if something it depends on has changed.

A stage runs if its script, a module it imports, an input or one of its flags changed, or an output is missing; the
line printed for it says which. What it reads and writes stands in its own docstring. A failure stops the run with the
end of that stage's log (all are in artifacts/logs/); the next call goes on from there.

Run:    python codes/run_all.py --demo
        python codes/run_all.py --seeds 0 1 2 --set 05.epochs=20
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from ecg.artifacts import ROOT, UserError, user_errors
from ecg.execution import Folders, execute
from ecg.stages import DATABASE, PLANTED, assign, choose, find_stages, make_jobs, parse_assignment

CODES = Path(__file__).resolve().parent

# What --demo changes: {stage (number or pattern): {flag: value}}. --set has the last word.
DEMO: dict[str, dict[str, Any]] = {
    "00": {"demo": True, "records": 800},
    "0[5-9]": {"epochs": 8},
    "10": {"epochs": 8},
}


@dataclass(frozen=True)
class Settings:
    """Which stages to run, on what and how."""

    demo: bool = False
    """Synthetic PTB-XL and short trainings, in folders of their own: PTB-XL/demo and artifacts/demo."""
    data: Path | None = None
    """Folder with ptbxl_database.csv, scp_statements.csv and records100/; if one of them is missing, stage 00 fetches
    PTB-XL into it, else it is never changed. By default PTB-XL beside codes."""
    artifacts: Path | None = None
    """Folder that the stages read from and write to; each remembers what is fresh in it. By default artifacts."""
    start: Annotated[str | None, tyro.conf.arg(name="from", metavar="STAGE")] = None
    """Start with this stage (05 or 05_train_resnet1d) and run it even if it is fresh; later ones run if what they
    depend on changed, earlier ones are taken as they are."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STAGE...")] = ()
    """Run these stages, even if they are fresh, and no others."""
    dry_run: bool = False
    """Say which stages would run and why; run nothing."""
    seeds: tuple[int, ...] = (0,)
    """Train each network (05-10) once per seed; seeds other than 0 go to a folder seedN in the run's."""
    jobs: int = 1
    """Number of stages at work at the same time; they share the cores."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STAGE.FLAG=VALUE...")] = ()
    """Flags of single stages, such as 05.epochs=3 "0[6-9].epochs=2" "03.band=0.5 30" 03.strict=true."""


def run_all(settings: Settings, *, codes: Path = CODES, demo: Mapping[str, Mapping[str, Any]] = DEMO) -> int:
    """Run what is stale of the numbered scripts in the folder `codes`; return the exit code.

    `demo` has the flags that `--demo` gives to each stage. Whatever is misspelt is a `UserError` before anything runs.
    """
    if settings.start and settings.only:
        raise UserError("--from and --only: use one of them")
    if settings.jobs < 1 or not settings.seeds or min(settings.seeds) < 0:
        raise UserError("--jobs must be at least 1, and --seeds at least 0")
    below = "demo" if settings.demo else ""
    folders = Folders(
        codes=codes,
        data=(settings.data or ROOT / "PTB-XL" / below).absolute(),
        artifacts=(settings.artifacts or ROOT / "artifacts" / below).absolute(),
    )
    stages = find_stages(codes)
    defaults = [(stage, flag, value) for stage, flags in demo.items() for flag, value in flags.items()]
    jobs = make_jobs(
        stages,
        data=folders.data,
        artifacts=folders.artifacts,
        seeds=settings.seeds,
        flags=assign(stages, [*(defaults if settings.demo else []), *map(parse_assignment, settings.set)]),
        demo=settings.demo,
    )

    chosen, forced, reason = stages, [], ""
    if settings.only:
        chosen = forced = choose(stages, settings.only)
        reason = "--only"
    elif settings.start:
        forced = choose(stages, [settings.start])[:1]
        chosen, reason = stages[stages.index(forced[0]) :], f"--from {settings.start}"
    selected = [job for job in jobs if job.stage in chosen]

    written = {path for job in selected for path in job.writes}
    there = [tuple(path for path in job.matched if path in written or path.exists()) for job in selected]
    selected = [replace(job, matched=paths) for job, paths in zip(selected, there, strict=True)]
    for job in selected:
        missing = [p for p in (*job.reads, *job.folders) if p not in written and not p.exists()]
        if missing:
            makers = [other.stage.path.name for other in jobs if missing[0] in other.writes] or ["00_get_data.py"]
            raise UserError(f"{job.stage.path.name} needs {missing[0]}: run codes/{makers[0]} first")

    # A PTB-XL that lies there is never touched: only a synthetic one is made anew, and only by --demo.
    complete = all((folders.data / token.partition("/")[2]).exists() for token in DATABASE)
    synthetic = (folders.data / PLANTED.partition("/")[2]).exists()
    get_data = [job.name for job in selected if job.stage.number == "00"]
    done = get_data if complete and not (settings.demo and synthetic) else []
    notice = ""
    if get_data and not done and not settings.demo and not any(folders.data.glob("*.zip")):
        notice = f"{folders.data} holds no PTB-XL: stage 00 downloads it from PhysioNet, 1.7 GB"

    return execute(
        selected,
        folders,
        forced={job.name: reason for job in selected if job.stage in forced},
        done=done,
        parallel=settings.jobs,
        dry_run=settings.dry_run,
        notice=notice,
    )


if __name__ == "__main__":
    values = tyro.cli(Settings, description=__doc__)
    with user_errors():
        sys.exit(run_all(values))
