"""How large the adapters are at Stable Video Diffusion's full width, and what the SCE costs: no weights are needed.

For N = 1 to 4 copied down blocks: trainable parameters, their share of the UNet, the fp16 adapter file, and the SCE's
share of the arithmetic (multiplications and additions of convolutions, matrices and attention, counted by torch's
FlopCounterMode on tensors without memory).
"""

import argparse
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from genprop_core.adapters import GenPropAdapters
from genprop_core.config import AdapterConfig, BaseShape
from genprop_core.files import write_json

from .common import facts

SVD = BaseShape((320, 640, 1280, 1280), 2, (5, 10, 20, 20), 1024, 256)
BRANCHES = 2  # guidance runs the UNet with and without the condition at every step; a static SCE runs once in all


def skeleton(shape: BaseShape):
    """The UNet of a shape on the meta device."""
    from diffusers import UNetSpatioTemporalConditionModel

    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(**shape.unet_config())
    return unet.to("meta").requires_grad_(False)  # the mixing factors are made on the CPU whatever the device


def flops(function) -> int:
    """Floating-point operations of one call."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()


def latents(channels: int, frames: int, height: int, width: int) -> torch.Tensor:
    """[1,T,C,H/8,W/8] without memory."""
    return torch.empty(1, frames, channels, height // 8, width // 8, device="meta")


def row(unet, unet_flops: int, shape: BaseShape, num_blocks: int, video: tuple, steps: int) -> dict:
    """The numbers of one N. video: (frames, height, width)."""
    with torch.device("meta"):
        adapters = GenPropAdapters(AdapterConfig(shape, num_blocks), unet)
        clip, micro = torch.empty(1, 1, shape.cross_attention_dim), torch.empty(1, 3)
        task = torch.empty(1, dtype=torch.long)
        level = torch.empty(1)
    source = latents(4, *video)
    sce = flops(lambda: adapters.encode(source, source, clip, micro, task, c_noise=level))
    trainable, of_unet = (sum(p.numel() for p in group) for group in (adapters.trainable(), unet.parameters()))
    return {
        "num_blocks": num_blocks,
        "taps": sum(adapters.config.active_taps()),
        "trainable": trainable,
        "share_of_unet": trainable / of_unet,
        "file_bytes_fp16": 2 * sum(v.numel() for v in adapters.state_dict().values()),
        "sce_share_of_pass": sce / unet_flops,
        "static_share_of_run": sce / (unet_flops * BRANCHES * steps),
    }


def measure(shape: BaseShape = SVD, frames: int = 25, height: int = 576, width: int = 1024, steps: int = 25) -> dict:
    """All rows for a base of this shape, and the UNet's own size and cost of one pass over a window."""
    unet, video = skeleton(shape), (frames, height, width)
    with torch.device("meta"):
        clip, micro, level = torch.empty(1, 1, shape.cross_attention_dim), torch.empty(1, 3), torch.empty(1)
    unet_flops = flops(lambda: unet(latents(8, *video), level, clip, micro, return_dict=False))
    rows = [row(unet, unet_flops, shape, n, video, steps) for n in range(1, len(shape.block_out_channels) + 1)]
    shares = ("share_of_unet", "sce_share_of_pass", "static_share_of_run")
    return facts() | {
        "unet_parameters": sum(p.numel() for p in unet.parameters()),
        "unet_flops": unet_flops,
        "video": {"frames": frames, "width": width, "height": height},
        "steps": steps,
        "rows": rows,
        "ratios": {f"{share}_{r['num_blocks']}_blocks": r[share] for r in rows for share in shares},
    }


def table(report: dict) -> str:
    """The report as a Markdown table."""
    lines = [
        "| N | taps | trainable parameters | of the UNet | fewer than the UNet | file, fp16 | SCE, of a UNet pass "
        f"| SCE, of {report['steps']} steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in report["rows"]:
        lines.append(
            f"| {r['num_blocks']} | {r['taps']} | {r['trainable'] / 1e6:.1f} M | {r['share_of_unet']:.1%} "
            f"| {1 - r['share_of_unet']:.1%} | {r['file_bytes_fp16'] / 1e6:.0f} MB | {r['sce_share_of_pass']:.1%} "
            f"| {r['static_share_of_run']:.2%} |"
        )
    video = report["video"]
    lines.append("")
    lines.append(
        f"UNet: {report['unet_parameters'] / 1e6:.1f} M parameters, {report['unet_flops'] / 1e12:.1f} TFLOP for a pass "
        f"over {video['frames']} frames at {video['width']}x{video['height']}."
    )
    return "\n".join(lines)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapter_size", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=576)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args(argv)
    report = measure(SVD, arguments.frames, arguments.height, arguments.width, arguments.steps)
    print(table(report))
    if arguments.json:
        write_json(arguments.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
