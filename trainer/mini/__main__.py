"""`python -m trainer.mini STAGE --minutes M`: trains the mini from scratch, stage by stage. Each stage resumes."""
import argparse


def main():
    parser = argparse.ArgumentParser(prog="python -m trainer.mini", description=__doc__)
    parser.add_argument("stage", choices=["vae", "base", "adapters"])
    parser.add_argument("--minutes", type=float, required=True, help="time for the stage in all, resumes included")
    parser.add_argument("--work", default="output/mini", help="folder for states, caches and logs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.stage == "vae":
        from .vae import train
    elif arguments.stage == "base":
        from .base import train
    else:
        from .adapters import train
    print(train(arguments.work, arguments.minutes, arguments.seed))


if __name__ == "__main__":
    main()
