"""Run the numbered scripts 00 to 14, each only if something it depends on has changed.

A stage runs if its script, a module it imports, an input or one of its flags changed, or an output is missing; the
line printed for it says which. What it reads and writes stands in its own docstring. A failure stops the run with the
end of that stage's log (all are in artifacts/logs/); the next call goes on from there.

Run:    python codes/run_all.py --demo
        python codes/run_all.py --seeds 0 1 2 --set 05.epochs=20
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ecg.artifacts import ROOT, UserError, user_errors
from ecg.execution import Folders, execute
from ecg.stages import DATABASE, PLANTED, assign, choose, find_stages, make_jobs

CODES = Path(__file__).resolve().parent

# What --demo changes; --set has the last word.
DEMO = (
    *("00.demo=true", "00.records=800"),
    *("0[5-9].epochs=9", "10.epochs=9", "0[5-9].batch_size=64", "10.batch_size=64"),
    *("13.records_per_class=6", "13.drawn_per_class=1"),
)


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
    """Train each network (05-10) once per seed, 0 among them; others go to a folder seedN in the run's."""
    jobs: int = 1
    """Number of stages at work at the same time; they share the cores."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STAGE.FLAG=VALUE...")] = ()
    """Flags of single stages, such as 05.epochs=3 "0[6-9].epochs=2" "03.band=0.5 30" 03.strict=true."""


def run_all(settings: Settings, *, codes: Path = CODES, demo: Sequence[str] = DEMO) -> int:
    """Run what is stale of the numbered scripts in the folder `codes`; return the exit code.

    `demo` is what `--demo` puts before `--set`. Whatever is misspelt is a `UserError` before anything runs.
    """
    if settings.start and settings.only:
        raise UserError("--from and --only: use one of them")
    if settings.jobs < 1 or min(settings.seeds, default=0) < 0:
        raise UserError("--jobs must be at least 1, and --seeds at least 0")
    if 0 not in settings.seeds:
        raise UserError("--seeds needs 0 among them: it is the one that stages 12 and 13 look at")
    below = "demo" if settings.demo else ""
    folders = Folders(
        codes=codes,
        data=(settings.data or ROOT / "PTB-XL" / below).absolute(),
        artifacts=(settings.artifacts or ROOT / "artifacts" / below).absolute(),
    )
    stages = find_stages(codes)
    flags = assign(stages, [*(demo if settings.demo else ()), *settings.set])
    jobs = make_jobs(stages, seeds=settings.seeds, flags=flags, demo=settings.demo)

    chosen, forced, reason = stages, [], ""
    if settings.only:
        chosen = forced = choose(stages, settings.only)
        reason = "--only"
    elif settings.start:
        forced = choose(stages, [settings.start])[:1]
        chosen, reason = stages[stages.index(forced[0]) :], f"--from {settings.start}"
    selected = [job for job in jobs if job.stage in chosen]
    decided = {job.name: reason for job in selected if job.stage in forced}

    written = {token for job in selected for token in job.writes}
    for job in selected:
        for token in job.stage.required:
            if token not in written and not folders.locate(token).exists():
                makers = [f": run codes/{j.stage.path.name} first" for j in jobs if token in j.writes]
                cure = makers[0] if makers else ", which no stage writes"
                raise UserError(f"{job.stage.path.name} needs {folders.locate(token)}{cure}")

    # A PTB-XL that lies there is never touched: only a synthetic one is made anew, and only by --demo.
    complete = all(folders.locate(token).exists() for token in DATABASE)
    for job in selected:
        if job.stage.number == "00" and complete and not (settings.demo and folders.locate(PLANTED).exists()):
            decided[job.name] = ""
        elif job.stage.number == "00" and not settings.demo and not any(folders.data.glob("*.zip")):
            print(f"{folders.data} holds no PTB-XL: stage 00 downloads it from PhysioNet, 1.7 GB", flush=True)

    return execute(selected, folders, decided=decided, parallel=settings.jobs, dry_run=settings.dry_run)


if __name__ == "__main__":
    values = tyro.cli(Settings, description=__doc__)
    with user_errors():
        sys.exit(run_all(values))
