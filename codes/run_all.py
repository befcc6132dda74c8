"""Run the numbered scripts 00 to 14, each only if something that can change its result has changed.

A stage runs if a flag, an input or the code it computes with changed, or an output is missing; the line printed for it
says which. A comment, a docstring or a help text is no such change. A failure stops the run with the end of that
stage's log (all are in artifacts/logs/); the next call resumes there.

Run:    python codes/run_all.py --demo
        python codes/run_all.py --seeds 0 1 2
        python codes/run_all.py --only 05 --name narrow --set 05.width=0.5
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ecg.artifacts import ROOT, UserError
from ecg.command_line import user_errors
from ecg.execution import execute
from ecg.freshness import Places
from ecg.plan import Job, assign, check_declared, choose, make_jobs
from ecg.stages import DATABASE, PLANTED, STAGES, Stage

CODES = Path(__file__).resolve().parent

# What --demo changes; --set can change it again.
DEMO = (
    "00.demo=true",
    "00.records=800",
    "0[5-9].width=0.5",
    "10.width=0.5",
    "0[5-9].epochs=9",
    "10.epochs=9",
    "0[5-9].batch_size=64",
    "10.batch_size=64",
    "13.records_per_class=6",
    "13.drawn_per_class=1",
)


@dataclass(frozen=True)
class Settings:
    """Which stages to run, on what and how."""

    demo: bool = False
    """Synthetic PTB-XL and short trainings, in folders of their own: PTB-XL/demo and artifacts/demo."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: PTB-XL)")] = None
    """Folder with PTB-XL. If it is incomplete, stage 00 fetches PTB-XL into it; otherwise it is only read."""
    artifacts: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: artifacts)")] = None
    """Folder that the stages read from and write to. It remembers what each stage was made of."""
    start: Annotated[str, tyro.conf.arg(name="from", metavar="STAGE", help_behavior_hint="")] = ""
    """Run this stage (05 or 05_train_resnet1d) even if it is fresh, and later ones if they are stale."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STAGE...", help_behavior_hint="")] = ()
    """Run these stages, even if they are fresh, and no others."""
    dry_run: bool = False
    """Say which stages would run and why; run nothing."""
    seeds: tuple[int, ...] = (0,)
    """Train each network (05-10) once per seed, 0 among them. Others get a folder seedN inside the run's."""
    name: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = ""
    """Name of the run of the one training that is chosen: it is trained beside the one without a name."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 1, with --demo 2)")] = None
    """Number of stages at work at the same time; they share the cores."""
    flags: Annotated[
        tuple[str, ...], tyro.conf.arg(name="set", metavar="STAGE.FLAG=VALUE...", help_behavior_hint="")
    ] = ()
    """Flags of single stages, such as 05.epochs=3 "0[6-9].epochs=2" "03.band=0.5 30" 03.strict=true."""


def run_all(
    settings: Settings,
    *,
    codes: Path = CODES,
    stages: Sequence[Stage] = STAGES,
    demo: Sequence[str] = DEMO,
) -> int:
    """Run what is stale of the numbered scripts in the folder `codes`; return the exit code.

    `demo` is what `--demo` puts before `--set`. Whatever is misspelt is a `UserError` before anything runs.
    """
    check(settings)
    check_declared(codes, stages)
    below = "demo" if settings.demo else ""
    places = Places(
        codes=codes,
        data=(settings.data or ROOT / "PTB-XL" / below).absolute(),
        artifacts=(settings.artifacts or ROOT / "artifacts" / below).absolute(),
    )
    chosen, forced = chosen_stages(settings, stages)
    named = named_run(settings, chosen)
    jobs = make_jobs(
        stages,
        places.artifacts,
        chosen=chosen,
        seeds=settings.seeds,
        flags=assign(stages, codes, [*(demo if settings.demo else ()), *settings.flags, *named]),
        typed=assign(stages, codes, [*settings.flags, *named]),
    )
    selected = [job for job in jobs if job.stage in chosen]
    check_inputs(selected, jobs, places)
    keep_data = has_data_to_keep(settings, places)
    if not keep_data and not settings.demo and any(job.stage.number == "00" for job in selected):
        announce_download(places)
    return execute(
        selected,
        places,
        forced={job.name: forced[job.stage] for job in selected if job.stage in forced},
        untouched=[job.name for job in selected if job.stage.number == "00" and keep_data],
        parallel=settings.jobs or (2 if settings.demo else 1),
        dry_run=settings.dry_run,
    )


def check(settings: Settings) -> None:
    """Raise a `UserError` for settings that contradict each other or are out of range."""
    if settings.start and settings.only:
        raise UserError("--from and --only: use one of them")
    if (settings.jobs is not None and settings.jobs < 1) or min(settings.seeds, default=0) < 0:
        raise UserError("--jobs must be at least 1, and --seeds at least 0")
    if 0 not in settings.seeds:
        raise UserError("--seeds needs 0 among them: it is the one that stages 12 and 13 look at")


def chosen_stages(settings: Settings, stages: Sequence[Stage]) -> tuple[list[Stage], dict[Stage, str]]:
    """Return the stages that --only or --from choose, and {stage: reason} of those that run even if they are fresh."""
    if settings.only:
        chosen = choose(stages, settings.only)
        return chosen, dict.fromkeys(chosen, "--only")
    if settings.start:
        first = choose(stages, [settings.start])[0]
        return list(stages[stages.index(first) :]), {first: f"--from {settings.start}"}
    return list(stages), {}


def named_run(settings: Settings, chosen: Sequence[Stage]) -> list[str]:
    """Return what --name is for --set."""
    if not settings.name:
        return []
    trainings = [stage for stage in chosen if stage.names_run]
    if len(trainings) != 1:
        raise UserError("--name is that of one run: choose one training, for example with --only 05")
    return [f"{trainings[0].number}.name={settings.name}"]


def check_inputs(selected: Sequence[Job], jobs: Sequence[Job], places: Places) -> None:
    """Raise a `UserError` if a job needs what is not there and none before it writes; say which script would."""
    written = {each.path for job in selected for each in job.writes}
    for job in selected:
        for each in job.reads:
            if not each.is_required or each.path in written or places.locate(each.path).exists():
                continue
            makers = [other.stage.script for other in jobs if any(made.path == each.path for made in other.writes)]
            cure = f": run codes/{makers[0]} first" if makers else ", which no stage writes"
            raise UserError(f"{job.stage.script} needs {places.locate(each.path)}{cure}")


def has_data_to_keep(settings: Settings, places: Places) -> bool:
    """Return whether there is a PTB-XL: only a synthetic one is ever made again, and only by --demo."""
    is_synthetic = places.locate(PLANTED).exists()
    is_complete = all(places.locate(path).exists() for path in DATABASE)
    return is_complete and not (settings.demo and is_synthetic)


def announce_download(places: Places) -> None:
    if not any(places.data.glob("*.zip")):
        print(f"{places.data} holds no PTB-XL: stage 00 downloads it from PhysioNet, 1.7 GB", flush=True)


if __name__ == "__main__":
    values = tyro.cli(Settings, description=__doc__)
    with user_errors():
        sys.exit(run_all(values))
