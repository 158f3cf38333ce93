"""Arguments of the command line, and one place where errors become one plain line."""

import argparse
import sys
from pathlib import Path

from .errors import GenPropError

DTYPES = ("fp32", "bf16", "fp16")


def _propagate_arguments(parser):
    io = parser.add_argument_group("clip")
    io.add_argument("--source", type=Path, required=True, help="video (mp4, mov, webm, gif) or folder of images")
    io.add_argument("--keyframe", type=Path, required=True, help="the edited first frame (png, jpg)")
    io.add_argument(
        "--out", type=Path, required=True, help="folder for result.mp4, mask.mp4, comparison.png, metrics.json"
    )
    io.add_argument(
        "--truth", type=Path, help="ground truth video; with --truth-mask the scores and floors are measured"
    )
    io.add_argument("--truth-mask", type=Path, help="ground truth mask video, white where the edit changes the picture")
    model = parser.add_argument_group("model")
    model.add_argument("--base", default="mini", help="mini, an SVD folder (diffusers) or file (default: %(default)s)")
    model.add_argument("--adapters", help="GenProp adapters (.safetensors); the mini has its own")
    model.add_argument("--vae", help="another VAE file to use instead of the base's (TAESD)")
    model.add_argument("--dtype", choices=DTYPES, default="fp32", help="precision (default: %(default)s)")
    model.add_argument(
        "--offload",
        action="store_true",
        help="keep parts that are idle in the CPU's memory: less memory on the device, a little slower",
    )
    model.add_argument(
        "--device", default=None, help="torch device (default: the accelerator if there is one, else cpu)"
    )
    run = parser.add_argument_group("sampling")
    run.add_argument("--task", default="remove", choices=("remove", "edit", "track"), help="default: %(default)s")
    run.add_argument("--steps", type=int, default=25, help="denoising steps (default: %(default)s)")
    run.add_argument("--min-cfg", type=float, default=1.0, help="guidance at the first frame (default: %(default)s)")
    run.add_argument("--max-cfg", type=float, default=3.0, help="guidance at the last frame (default: %(default)s)")
    run.add_argument(
        "--strength", type=float, default=1.0, help="of the injections; 0 is plain SVD (default: %(default)s)"
    )
    run.add_argument("--width", type=int, help="working width in pixels (default: by the base, in the source's aspect)")
    run.add_argument("--height", type=int, help="working height in pixels")
    run.add_argument("--window", type=int, help="frames per pass (default: the base's, 8 for the mini)")
    run.add_argument("--fps", type=float, help="frame rate the base is told (default: the base's)")
    run.add_argument("--motion-bucket", type=float, help="amount of motion the base is told, 1 to 255 (default: 127)")
    run.add_argument("--noise-aug", type=float, default=0.02, help="noise added to the keyframe (default: %(default)s)")
    run.add_argument(
        "--decode-chunk",
        type=int,
        default=8,
        help="frames decoded together; fewer need less memory, and with SVD's own VAE change the result a little "
        "(default: %(default)s)",
    )
    run.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m genprop_core", description="GenProp on Stable Video Diffusion.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _propagate_arguments(commands.add_parser("propagate", help="carry the edit of one frame through a clip"))
    convert = commands.add_parser("convert", help="convert a base between a single file and a diffusers folder")
    convert.add_argument("src", type=Path)
    convert.add_argument("dst", type=Path)
    old = commands.add_parser("import-checkpoint", help="adapters from a checkpoint of the earlier implementation")
    old.add_argument("old", type=Path, metavar="OLD.pt", help="with sce_, injections_ and mpd_state_dict")
    old.add_argument("--out", type=Path, required=True, help="adapter file to write (.safetensors)")
    old.add_argument("--base", default="mini", help="the base it was trained on (default: %(default)s)")
    return parser


def main(argv=None) -> int:
    """Runs a command; returns the exit code. Errors a user can act on are one line on stderr."""
    arguments = build_parser().parse_args(argv)
    try:
        if arguments.command == "propagate":
            from .propagate import run

            run(arguments)
        elif arguments.command == "convert":
            from .convert import convert

            convert(arguments.src, arguments.dst)
        else:
            from .import_checkpoint import import_checkpoint

            print(*import_checkpoint(arguments.old, arguments.out, arguments.base).lines(), sep="\n")
    except GenPropError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: nothing was written", file=sys.stderr)
        return 130
    return 0
