"""Arguments of the command line, and the command that they start."""

import argparse
from pathlib import Path

from .errors import exit_code

DTYPES = ("fp32", "bf16", "fp16")
SWITCH = ("on", "off")


def _propagate_arguments(parser):
    io = parser.add_argument_group("clip")
    io.add_argument("--source", type=Path, help="video (mp4, mov, webm, gif) or folder of images")
    io.add_argument(
        "--keyframe",
        action="append",
        metavar="[INDEX:]FILE",
        help="an edited frame (png, jpg) and which frame it is, counted from 0; the first without an index; "
        "may be given several times",
    )
    io.add_argument(
        "--out",
        type=Path,
        help="folder for result.mp4, mask.mp4, overlay.mp4, comparison.png, confidence.png and metrics.json",
    )
    io.add_argument(
        "--manifest",
        type=Path,
        help="many clips: a .csv or .jsonl file with source, keyframe and other options of a clip per row; every row "
        "is done once, finished rows are skipped at the next start (start it by `accelerate launch` to share the work)",
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
    run.add_argument("--task", default="remove", choices=("remove", "edit", "track"),
                     help="what the edit does; only with remove is what is behind it taken from frames in which it is "
                     "in sight (default: %(default)s)")  # fmt: skip
    run.add_argument("--steps", type=int, help="denoising steps (default: the base's, 25 for SVD and 2 for the mini)")
    run.add_argument("--min-cfg", type=float, default=1.0, help="guidance at the first frame (default: %(default)s)")
    run.add_argument(
        "--max-cfg", type=float, help="guidance at the last frame (default: the base's, 3 for SVD and 1 for the mini)"
    )
    run.add_argument(
        "--sigma-min",
        type=float,
        help="noise level of the last step (default: the base's, 0.002 for SVD and 0.2 for the mini)",
    )
    run.add_argument(
        "--guide",
        choices=("edit", "everywhere"),
        default="edit",
        help="guidance where the picture is edited, or everywhere, as plain SVD has it (default: %(default)s)",
    )
    run.add_argument(
        "--strength", type=float, default=1.0, help="of the injections; 0 is plain SVD (default: %(default)s)"
    )
    run.add_argument("--width", type=int, help="working width in pixels, together with --height (default: by the base, "
                     "in the source's aspect)")  # fmt: skip
    run.add_argument("--height", type=int, help="working height in pixels, together with --width")
    run.add_argument("--window", type=int, help="frames per pass (default: the base's, 8 for the mini)")
    run.add_argument("--fps", type=float, help="frame rate the base is told (default: the base's)")
    run.add_argument("--motion-bucket", type=float, help="amount of motion the base is told; 127 is usual (default)")
    run.add_argument("--noise-aug", type=float, default=0.02, help="noise added to the keyframe (default: %(default)s)")
    run.add_argument(
        "--decode-chunk",
        type=int,
        default=8,
        help="frames decoded together; fewer need less memory, and with SVD's own VAE change the result a little "
        "(default: %(default)s)",
    )
    run.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _clip_arguments(parser):
    clip = parser.add_argument_group("long clips and real sizes")
    clip.add_argument("--overlap", type=int, help="frames that neighbouring windows share (default: window / 4)")
    clip.add_argument(
        "--shots", choices=SWITCH, default="on", help="find scene cuts and cross none (default: %(default)s)"
    )
    clip.add_argument(
        "--composite", choices=SWITCH, default="on", help="outside the mask keep the source's pixels (%(default)s)"
    )
    clip.add_argument("--grow", type=int, default=4, help="pixels to grow the mask by (default: %(default)s)")
    clip.add_argument("--feather", type=int, default=4, help="pixels over which it then fades (default: %(default)s)")
    clip.add_argument(
        "--clean-plate",
        choices=SWITCH,
        default="on",
        help="with --task remove: where what is behind is in sight in another frame, before or after, take it from "
        "there (default: %(default)s)",
    )
    clip.add_argument(
        "--look-ahead",
        choices=SWITCH,
        default="on",
        help="with --task remove: follow the removed thing through the source, so that it is not taken for what is to "
        "stay when it was hidden, nor another moving thing for it (default: %(default)s)",
    )
    clip.add_argument(
        "--inner-keyframes",
        choices=SWITCH,
        default="off",
        help="a window that holds several keyframes shows each frame the nearest; for adapters trained with "
        "--keyframes_max above 1 (default: %(default)s)",
    )
    clip.add_argument(
        "--guide-later",
        choices=SWITCH,
        default="off",
        help="guidance in windows that start from a made frame too: steps of twice the time, and deeper colours "
        "window by window (default: %(default)s)",
    )
    clip.add_argument(
        "--lossless",
        nargs="?",
        choices=SWITCH,
        const="on",
        default="off",
        help="write result.mp4 and mask.mp4 without loss, to compare or to work on: large files that few players show "
        "(default: %(default)s)",
    )
    clip.add_argument(
        "--mask",
        type=Path,
        help="your own mask, white where the edit is: an image for all frames; or a video or a folder with one for "
        "each, which tell the model as well where it is",
    )
    clip.add_argument(
        "--mask-mode",
        choices=("replace", "join"),
        default="replace",
        help="your mask takes the predicted one's place, or is joined with it (default: %(default)s)",
    )
    clip.add_argument(
        "--second-pass",
        nargs="?",
        choices=("off", "black", "blur"),
        const="black",
        default="off",
        help="make every window twice, the second time with the region hidden from the encoder (default: %(default)s)",
    )
    clip.add_argument(
        "--colour-match",
        choices=("off", "offset", "gain", "smooth", "local"),
        default="local",
        help="how windows after the first, and between two keyframes, are matched to the source's colours "
        "(default: %(default)s)",
    )
    clip.add_argument("--refine", choices=SWITCH, default="off", help="let the mask follow the picture's edges")
    clip.add_argument(
        "--crop",
        choices=("auto", "off"),
        default="off",
        help="auto works on a region around a small edit, which is then larger for the model (default: %(default)s)",
    )


def clip_options(parser):
    """Adds every option of `propagate`."""
    _propagate_arguments(parser)
    _clip_arguments(parser)
    return parser


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m genprop_core", description="GenProp on Stable Video Diffusion.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    clip_options(commands.add_parser("propagate", help="carry the edit of one frame, or of several, through a clip"))
    frame = commands.add_parser("frame", help="one frame of a clip as a picture, to be edited")
    frame.add_argument("source", type=Path, help="video or folder of images")
    frame.add_argument("index", type=int, help="which frame, counted from 0")
    frame.add_argument("out", type=Path, help="picture to write (png)")
    convert = commands.add_parser("convert", help="convert a base between a single file and a diffusers folder")
    convert.add_argument("src", type=Path)
    convert.add_argument("dst", type=Path)
    old = commands.add_parser("import-checkpoint", help="adapters from a checkpoint of the earlier implementation")
    old.add_argument("old", type=Path, metavar="OLD.pt", help="with sce_, injections_ and mpd_state_dict")
    old.add_argument("--out", type=Path, help="adapter file to write (default: OLD.safetensors beside OLD.pt)")
    old.add_argument("--base", default="mini", help="the base it was trained on (default: %(default)s)")
    return parser


def main(argv=None) -> int:
    """Runs a command; returns the exit code. Errors a user can act on are one line on stderr."""
    arguments = build_parser().parse_args(argv)
    many = getattr(arguments, "manifest", None) is not None
    stopped = "the same command goes on with the rows that are left" if many else "nothing was written"
    return exit_code(lambda: _run(arguments), stopped)


def _run(arguments) -> int | None:
    """The chosen command; an exit code where it has one of its own."""
    if arguments.command == "propagate" and arguments.manifest is not None:
        from .manifest import run_manifest

        return run_manifest(arguments)
    if arguments.command == "propagate":
        from .propagate import run

        run(arguments)
    elif arguments.command == "frame":
        from .video_io import read_frame, write_image

        write_image(arguments.out, read_frame(arguments.source, arguments.index))
        print(f"written: {arguments.out}")
    elif arguments.command == "convert":
        from .convert import convert

        convert(arguments.src, arguments.dst)
    else:
        from .import_checkpoint import import_checkpoint, new_name

        out = arguments.out or new_name(arguments.old)
        print(*import_checkpoint(arguments.old, out, arguments.base).lines(), f"written: {out}", sep="\n")
