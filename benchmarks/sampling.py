"""What the adapters cost: the denoising loop with a static or fused SCE against plain SVD's, on the mini."""

import argparse
import statistics
import sys
from pathlib import Path

import torch

from genprop_core.adapters import GenPropAdapters
from genprop_core.assets import SAMPLE
from genprop_core.files import write_json
from genprop_core.pipeline import GenProp, PropagateSettings, as_float
from genprop_core.sampler import SamplerSettings, sample, unit_noise
from genprop_core.video_io import read_image, read_video

from .timing import interleave, ratio


def measure(steps: int, rounds: int) -> dict:
    """Seconds and ratios of the loop (one window of the sample clip, guidance on), encode and decode apart."""
    from genprop_core import conditioning as cond

    model = GenProp.from_files("mini")
    fused = GenPropAdapters.from_unet(model.base.unet, sce="fused").eval()
    source = as_float(read_video(SAMPLE / "source.mp4").frames.movedim(-1, 1))
    keyframe = as_float(read_image(SAMPLE / "keyframe.png").movedim(-1, 0))
    condition = model.condition(source, keyframe, PropagateSettings(), 0)
    noise, settings = unit_noise(condition.image_latents.shape, 0), SamplerSettings(steps=steps)

    def loop(adapters):
        return lambda: sample(model.base.unet, adapters, condition, noise, settings)

    latents = loop(model.adapters)()[0]
    with torch.no_grad():
        seconds = interleave(
            {
                "plain": loop(None),
                "static": loop(model.adapters),
                "fused": loop(fused),
                "encode": lambda: model.condition(source, keyframe, PropagateSettings(), 0),
                "decode": lambda: cond.decode_latents(model.base.vae, latents[0]),
            },
            rounds,
        )
    return {
        "steps": steps,
        "rounds": rounds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "checkpoint": model.file.digest,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratios": {
            "static_over_plain": ratio(seconds, "static", "plain"),
            "fused_over_static": ratio(seconds, "fused", "static"),
        },
    }


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument(
        "--rounds", type=int, default=7, help="counted rounds; medians are taken (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    report = measure(arguments.steps, arguments.rounds)
    for name, value in report["seconds"].items():
        print(f"{name:10} {value:8.3f} s")
    for name, value in report["ratios"].items():
        print(f"{name:20} {value:6.3f}")
    if arguments.json:
        write_json(arguments.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
