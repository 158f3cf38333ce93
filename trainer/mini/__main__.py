"""`python -m trainer.mini STAGE --minutes M`: trains the mini from scratch, stage by stage. Each stage resumes."""

import argparse
import sys

from genprop_core.errors import GenPropError, exit_code
from genprop_core.offload import Placement

# of the minutes of `all`; the cache and packing come on top
SHARES = {"vae": 17, "cache": 0, "base": 240, "adapters": 240, "rollouts": 0, "long": 45, "decoder": 42, "pack": 0}
SELECTIVE = {"adapters": 0.25}  # of what `all` trains


def main(argv=None) -> int:
    """Runs a stage; returns the exit code. What a user can put right is one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m trainer.mini", description=__doc__)
    parser.add_argument("stage", choices=["all", *SHARES, "export", "unpack", "ablation"],
                        help="all: vae to pack, one after the other; pack: what was trained, "
                        "to be tried with --base and --adapters; export: in the place of what ships")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=60, help="time for the stage, or for all stages but "
                        "cache and rollouts, resumes included (default: %(default)s)")  # fmt: skip
    parser.add_argument("--steps", type=int, default=1000, help="of every variant (stage ablation)")
    parser.add_argument("--only", metavar="WORDS", help="variants with one of these words in their names, by commas")
    parser.add_argument("--clips", type=int, default=16, help="held-out clips to score a variant on (stage ablation)")
    parser.add_argument("--pairs", type=int, default=2000, help="pairs to encode (stage cache)")
    parser.add_argument("--long_clips", type=int, default=100, help="clips to make and encode (stage rollouts)")
    parser.add_argument(
        "--work", default="output/mini", help="folder for states, caches and logs (default: %(default)s)"
    )
    parser.add_argument(
        "--start", metavar="FILE", help="weights to go on from instead of from scratch (stages base and adapters); "
        "adapters to make clips with, to go on from, or to draw with, instead of the work folder's (stages rollouts, "
        "long and decoder)",
    )
    parser.add_argument("--selective", type=float, help="what the losses of the mask rise to (default: 0.06 in "
                        "stage adapters, 0.4 in stage long, 0.25 and 0.4 in all)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="torch device to encode and train on (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="of a step: crops (vae: 16 by default) or clips (base: 4, "
                        "adapters and long: 2) or frames (decoder: 4)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=0, help="processes that draw clips (stage cache) "
                        "or make them (stage rollouts, on a CPU: one per core)")  # fmt: skip
    arguments = parser.parse_args(argv)
    if not arguments.minutes > 0:
        parser.error(f"--minutes must be above 0, got {arguments.minutes:g}")
    if arguments.batch is not None and arguments.batch < 1:
        parser.error(f"--batch must be at least 1, got {arguments.batch}")
    return exit_code(lambda: _run(arguments), "the same command goes on from what was saved")


def _run(arguments):
    device = Placement(arguments.device).device  # one that this machine has
    if arguments.stage == "all":
        _all(arguments, device)
    else:
        _stage(arguments, device)


def _all(arguments, device):
    """Every stage with its share of the minutes. Run again, it goes on in the stage where it was stopped."""
    if arguments.start is not None:
        raise GenPropError("The stage all trains from scratch: leave out --start, or run base and adapters one by one.")
    for stage, share in SHARES.items():
        print(f"{stage}:", flush=True)
        selective = SELECTIVE.get(stage) if arguments.selective is None else arguments.selective
        own = {"stage": stage, "minutes": arguments.minutes * share / sum(SHARES.values()), "selective": selective}
        _stage(argparse.Namespace(**vars(arguments) | own), device)


def _stage(arguments, device):
    if arguments.stage == "cache":
        from .cache import build

        build(arguments.work, arguments.pairs, device, arguments.workers)
        return
    if arguments.stage == "rollouts":
        from .rollouts import build as roll

        roll(arguments.work, arguments.long_clips, arguments.start, device, arguments.workers)
        return
    if arguments.stage == "pack":
        from .export import latest_adapters, pack

        print(f"to try it, add: --base {pack(arguments.work)} --adapters {latest_adapters(arguments.work)}")
        return
    if arguments.stage == "export":
        from .export import export

        export(arguments.work)
        return
    if arguments.stage == "unpack":
        from .export import unpack

        unpack(arguments.work)
        return
    if arguments.stage == "ablation":
        from .ablation import run

        print(run(arguments.work, arguments.steps, arguments.seed, arguments.clips, only=arguments.only, device=device))
        return
    if arguments.stage == "vae":
        from .vae import train
    elif arguments.stage == "base":
        from .base import train
    elif arguments.stage == "adapters":
        from .adapters import train
    elif arguments.stage == "long":
        from .long import train
    else:
        from .decoder import train
    extra = {"device": device} | ({} if arguments.batch is None else {"batch_size": arguments.batch})
    if arguments.stage != "vae":
        extra["start"] = arguments.start
    if arguments.stage in ("adapters", "long") and arguments.selective is not None:
        extra["selective"] = arguments.selective
    print(train(arguments.work, arguments.minutes, arguments.seed, **extra))


if __name__ == "__main__":
    sys.exit(main())
