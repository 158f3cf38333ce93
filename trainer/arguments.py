"""The trainer's settings: one parser, grouped and with units; a TOML file gives the same names."""

import argparse
import re
from pathlib import Path

from genprop_core.config import SCE_FORMS
from genprop_core.errors import GenPropError, Parser

from . import config_file

# of fresh adapters
FORM = {"sce": "static", "num_blocks": 2, "injection_norm": "off", "selection": "on", "show_source": "on"}
SWITCHES = ("injection_norm", "selection", "show_source")
REQUIRED = ("train_data_dir", "val_data_dir", "output_dir", "val_out_dir")
SWITCH = {"action": argparse.BooleanOptionalAction, "default": False}  # --no-NAME: off, though --config says on
OF_VALIDATION = ("val_data_dir", "val_out_dir")  # not required without it


def _number(kind, low, high=None, above=False):
    """An argparse type: a number of at least (or above) `low`, at most `high`."""

    def convert(text):
        value = kind(text)
        if value < low or (above and value == low) or (high is not None and value > high):
            limits = f"{'above' if above else 'at least'} {low}" + ("" if high is None else f", at most {high}")
            raise argparse.ArgumentTypeError(f"expected a number {limits}, got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


COUNT, WHOLE = _number(int, 1), _number(int, 0)
POSITIVE, WEIGHT, SHARE = _number(float, 0, above=True), _number(float, 0), _number(float, 0, 1)


def resolution(text: str) -> tuple[int, ...]:
    """ "576" -> (576,), the shorter side; "1024x576" -> (1024, 576), width and height. In pixels, multiples of 8."""
    if not re.fullmatch(r"\d+(x\d+)?", text.lower()):
        raise argparse.ArgumentTypeError(f"expected one number or WIDTHxHEIGHT in pixels, got {text}")
    sides = tuple(int(v) for v in text.lower().split("x"))
    if any(v < 8 or v % 8 for v in sides):
        raise argparse.ArgumentTypeError(
            f"expected a size divisible by 8 (by 64 for SVD), got {text}; "
            f"try {'x'.join(str(max(64, round(v / 64) * 64)) for v in sides)}"
        )
    return sides


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="trainer/train.py",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Trains GenProp's adapters on your clips. The base model stays frozen.",
    )
    parser.add_argument("--config", metavar="FILE.toml", help="file with any of these settings; the command line wins")

    group = parser.add_argument_group("data (folders with original_videos/, edited_videos/ and masks/)")
    group.add_argument("--train_data_dir", metavar="DIR", help="clips to learn from (required)")
    group.add_argument("--val_data_dir", metavar="DIR", help="clips to validate on (required with validation)")
    group.add_argument("--output_dir", metavar="DIR", help="checkpoints, adapters.safetensors and logs (required)")
    group.add_argument("--val_out_dir", metavar="DIR", help="validation videos, sheets, metrics (required with it)")
    group.add_argument("--num_frames", type=_number(int, 2), default=8, help="frames of a training window")
    group.add_argument(
        "--resolution",
        type=resolution,
        default="576",
        metavar="N|WxH",
        help="pixels: the shorter side, or width and height; multiples of 64 for SVD, of 32 for the mini",
    )
    group.add_argument(
        "--keyframes_max",
        type=COUNT,
        default=1,
        help="a window shows 1 to this many edited frames, its first always among them",
    )
    group.add_argument(
        "--corrupt_source",
        choices=["blur", "black", "none"],
        default="none",
        help="hide the source inside the mask, for use with a second pass",
    )
    group.add_argument(
        "--worn_keyframes",
        type=SHARE,
        default=0.0,
        help="share of windows whose keyframe has errors in the mask, as one made by an earlier window; for long clips",
    )
    group.add_argument(
        "--handed_every",
        type=WHOLE,
        default=0,
        metavar="N",
        help="every N-th step starts from keyframes as the adapters themselves make them, at the end of a window, in "
        "two steps without guidance, as the mini is sampled: rougher than what SVD hands on; for long clips; 0: never",
    )
    group.add_argument("--corrupt_probability", type=SHARE, default=0.5, help="share of windows so treated, 0 to 1")
    group.add_argument("--reverse", type=SHARE, default=0.0, help="share of windows played backwards, 0 to 1")
    group.add_argument(
        "--cache_dir",
        metavar="DIR|none",
        help="latents, encoded once per clip; default OUTPUT_DIR/cache; none encodes at every step",
    )
    group.add_argument("--num_workers", type=WHOLE, default=2, help="processes that read data, per training process")

    group = parser.add_argument_group("model")
    group.add_argument("--base", default="mini", help="mini, a diffusers SVD folder, or a single .safetensors file")
    group.add_argument(
        "--sce",
        choices=SCE_FORMS,
        help="static, for fresh adapters: the source is encoded once per window; fused: at every noise level",
    )
    group.add_argument("--num_blocks", type=COUNT, help="down blocks that the SCE copies; 2 for fresh adapters")
    group.add_argument(
        "--selection",
        choices=["on", "off"],
        help="a map of what to keep, made by the SCE, says where what is injected; on for fresh adapters",
    )
    group.add_argument(
        "--show_source",
        choices=["on", "off"],
        help="where the source is kept, the UNet is shown it in the keyframe's place; on for fresh adapters",
    )
    group.add_argument(
        "--injection_norm",
        choices=["on", "off"],
        help="a GroupNorm before what is injected; off for fresh adapters: it loses the contrast of a frame",
    )
    group.add_argument(
        "--init_adapters",
        metavar="FILE",
        help="adapters (.safetensors) to start from, instead of fresh ones; the five settings above are the file's",
    )
    group.add_argument(
        "--injection_weight", type=WEIGHT, default=1.0, help="factor on what is injected; the saved file has it"
    )

    group = parser.add_argument_group("optimisation")
    group.add_argument("--epochs", type=COUNT, default=10, help="passes over the clips, one window of each per pass")
    group.add_argument("--max_steps", type=COUNT, help="optimiser steps in all, instead of --epochs; those of "
                       "--config give way to --epochs on the command line")  # fmt: skip
    group.add_argument("--batch_size", type=COUNT, default=1, help="windows per process and forward pass")
    group.add_argument("--gradient_accumulation_steps", type=COUNT, default=4, help="forward passes per optimiser step")
    group.add_argument("--lr", type=POSITIVE, default=5e-5, help="peak learning rate")
    group.add_argument(
        "--new_layers_lr", type=POSITIVE, default=1.0, help="factor on --lr for what is not copied from the base"
    )
    group.add_argument(
        "--warmup_steps", type=WHOLE, help="optimiser steps of linear warm-up; default 100, at most a tenth of the run"
    )
    group.add_argument(
        "--lr_scheduler",
        choices=["cosine", "linear", "constant"],
        default="cosine",
        help="what follows the warm-up; cosine and linear end at 0",
    )
    group.add_argument("--weight_decay", type=WEIGHT, default=0.01, help="of AdamW")
    group.add_argument("--max_grad_norm", type=POSITIVE, default=1.0, help="gradients are clipped to this norm")
    group.add_argument("--ema_decay", type=SHARE, default=0.999, help="of the averaged weights that are saved for use")
    group.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], default="no", help="no is fp32")
    group.add_argument("--gradient_checkpointing", **SWITCH, help="less memory, about a third more time")
    group.add_argument("--seed", type=WHOLE, default=42, help="of everything random")

    group = parser.add_argument_group("loss and noise")
    group.add_argument("--lambda_mask", type=WEIGHT, default=2.0, help="weight of the loss inside the mask")
    group.add_argument(
        "--beta_grad", type=WEIGHT, default=1.0, help="weight of the gradient loss; 0 skips its second SCE pass"
    )
    group.add_argument(
        "--gamma_mpd", type=WEIGHT, default=1.0, help="weight of the losses of mask decoder and selection"
    )
    group.add_argument("--grad_every", type=COUNT, default=1, help="optimiser steps from one gradient loss to the next")
    group.add_argument(
        "--copy_share",
        type=SHARE,
        default=0.08,
        help="share of the run, at its start, that learns to copy the source before the losses of the mask count",
    )
    group.add_argument(
        "--ramp_share", type=SHARE, default=0.25, help="share of the run over which these losses then rise"
    )
    group.add_argument(
        "--selective",
        type=SHARE,
        default=1.0,
        help="what they rise to; 1 is the paper's weights, the mini that ships had 0.4",
    )
    group.add_argument("--mask_loss", choices=["bce_dice", "bce", "mse"], default="bce_dice", help="mse is the paper's")
    group.add_argument(
        "--cond_dropout", type=SHARE, default=0.1, help="share of windows without image condition, 0 to 1"
    )
    group.add_argument("--sigma_mean", type=float, default=0.7, help="mean of ln sigma, the training noise levels")
    group.add_argument("--sigma_std", type=POSITIVE, default=1.6, help="standard deviation of ln sigma")

    group = parser.add_argument_group("validation (with the averaged weights)")
    group.add_argument("--val_interval", type=WHOLE, default=1, help="epochs between validations; 0 is never")
    group.add_argument("--num_inference_steps", type=COUNT, default=25, help="sampling steps")
    group.add_argument("--guidance_scale", type=_number(float, 1), default=3.0, help="guidance at the last frame")
    group.add_argument("--val_num_frames", type=_number(int, 2), help="frames of each clip; default --num_frames")
    group.add_argument(
        "--val_decode_chunk", type=COUNT, default=2, help="frames decoded at once: fewer need less memory"
    )
    group.add_argument("--fast_validation", **SWITCH, help="at most 4 clips and at most 8 steps")

    group = parser.add_argument_group("saving and resuming")
    group.add_argument("--save_interval", type=COUNT, default=1, help="epochs between checkpoints")
    group.add_argument(
        "--save_steps", type=WHOLE, default=0, help="optimiser steps between further checkpoints; 0 is none"
    )
    group.add_argument("--keep", type=COUNT, default=3, help="checkpoints to keep, the newest")
    group.add_argument(
        "--resume_from_checkpoint",
        metavar="PATH|latest",
        help="a checkpoint folder; latest is the newest of --output_dir, or a start where there is none",
    )
    group.add_argument(
        "--reset_optimizer", **SWITCH, help="start at step 0 from the checkpoint's averaged weights alone"
    )

    group = parser.add_argument_group("logging")
    group.add_argument(
        "--tracker",
        choices=["tensorboard", "wandb", "none"],
        default="tensorboard",
        help="beside log.jsonl, which is always written",
    )
    group.add_argument("--wandb_project", default="genprop", help="with --tracker wandb")
    group.add_argument("--wandb_entity", help="with --tracker wandb")
    group.add_argument(
        "--dry_run",
        **SWITCH,
        help="print the memory table for these settings and stop; --base svd needs no file here",
    )
    return parser


def parse(argv=None) -> argparse.Namespace:
    """The settings of a command line (sys.argv by default). Raises GenPropError for a bad setting or config file.

    Settings in `--config` go first, so the command line wins: also --epochs there over max_steps in the file.
    """
    import sys

    argv = sys.argv[1:] if argv is None else [str(a) for a in argv]
    parser = build_parser()
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    first.add_argument("--epochs")
    given = first.parse_known_args(argv)[0]
    of_file = {} if given.config is None else config_file.read(given.config, parser)
    if given.epochs is not None:
        of_file.pop("max_steps", None)
    args = parser.parse_args([*of_file.values(), *argv])
    required = [name for name in REQUIRED if args.val_interval or name not in OF_VALIDATION]
    missing = [f"--{name}" for name in required if getattr(args, name) is None and not args.dry_run]
    if missing:
        raise GenPropError(
            f"Expected {', '.join(f'--{name}' for name in required)}, got none of {', '.join(missing)}. "
            "Give them on the command line or in --config; --help says what they are."
        )
    if args.reset_optimizer and args.resume_from_checkpoint is None:
        raise GenPropError(
            "Expected --resume_from_checkpoint with --reset_optimizer, which starts a new run from its weights, "
            "got none. Give a checkpoint or latest, or leave --reset_optimizer out."
        )
    if args.val_num_frames is None:
        args.val_num_frames = args.num_frames
    if args.cache_dir is None and args.output_dir is not None:
        args.cache_dir = str(Path(args.output_dir) / "cache")
    args.cache_dir = None if args.cache_dir == "none" else args.cache_dir
    return args
