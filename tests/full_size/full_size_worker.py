"""Run by the tests in a process of its own: the headless pipeline, or a training step, at full width.

python full_size_worker.py headless BASE INPUTS FOLDER: makes fresh and random adapters in FOLDER, propagates with
both, and writes FOLDER/NAME.safetensors with latents, mask and frames. python full_size_worker.py train BASE: two
training steps. python full_size_worker.py command ARGUMENT ...: the command line. All print peak anonymous memory and
seconds as JSON.
"""
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS, SEED, FRAMES, SIZE = 2, 11, 4, 128
TRAINED_SIZE = 64


def headless(base, inputs, folder):
    """fresh: adapters as the trainer starts with; random: every zero and every neutral parameter moved."""
    from random_mini import random_adapters
    from safetensors.torch import load_file, save_file

    from genprop_core.adapters import GenPropAdapters
    from genprop_core.base import load_base
    from genprop_core.checkpoint import load_adapters, save_adapters
    from genprop_core.pipeline import GenProp, PropagateSettings
    from genprop_core.sampler import SamplerSettings

    clock, seconds = time.monotonic(), {}

    def lap(name):
        nonlocal clock
        seconds[name], clock = time.monotonic() - clock, time.monotonic()

    loaded = load_base(base)
    assert loaded.defaults.num_frames == 25
    lap("load")
    for name, make in (("fresh", GenPropAdapters.from_unet), ("random", random_adapters)):
        save_adapters(folder / f"{name}_adapters.safetensors", make(loaded.unet), loaded.fingerprint(), {})
    lap("adapters")
    given = load_file(inputs)
    settings = PropagateSettings(
        SamplerSettings(steps=STEPS), width=SIZE, height=SIZE, seed=SEED, decode_chunk=FRAMES, window=FRAMES
    )
    for name in ("plain", "fresh", "random"):
        file = None if name == "plain" else load_adapters(folder / f"{name}_adapters.safetensors")
        out = GenProp(loaded, file).propagate(given["source"], given["keyframe"], settings)
        mask = {} if out.mask is None else {"mask": out.mask}
        save_file({"latents": out.latents, "frames": out.frames, **mask}, folder / f"{name}.safetensors")
        lap(name)
    return {"seconds": seconds}


def train(base):
    """Fresh adapters, two steps: the first moves the injections, the second must reach everything before them."""
    import torch

    from genprop_core import conditioning as cond
    from genprop_core.adapters import GenPropAdapters, Injection
    from genprop_core.attach import attach
    from genprop_core.base import load_base
    from trainer import gradient_checkpointing
    from trainer.step import StepSettings, draw, loss_terms, stack

    clock = time.monotonic()
    loaded = load_base(base)
    g = torch.Generator().manual_seed(SEED)
    source, target = (torch.rand(FRAMES, 3, TRAINED_SIZE, TRAINED_SIZE, generator=g) * 2 - 1 for _ in range(2))
    mask = torch.zeros(FRAMES, 1, TRAINED_SIZE, TRAINED_SIZE)
    mask[:, :, 16:48, 16:48] = 1
    key = cond.repeat_over_frames(cond.encode_frames(loaded.vae, target[:1], scaled=False), FRAMES)
    scaled = [cond.encode_frames(loaded.vae, v, scaled=True)[None] for v in (source, target)]
    condition = cond.Condition(key, cond.clip_embedding(loaded.image_encoder, target[:1]),
                               cond.micro_conditions(7, 127, 0.02), torch.tensor([0]), scaled[0], key)  # fmt: skip
    unet = loaded.unet
    del loaded  # VAE and image encoder are not needed again
    loading = time.monotonic() - clock
    adapters = GenPropAdapters.from_unet(unet)
    gradient_checkpointing.enable(unet, adapters.sce)
    optimizer = torch.optim.AdamW(adapters.trainable(), 1e-4)
    convs = [m.conv.weight for m in adapters.injections if isinstance(m, Injection)]
    steps = []
    for step in range(2):
        clock = time.monotonic()
        random = stack([draw(SEED + step, (FRAMES, 4, TRAINED_SIZE // 8, TRAINED_SIZE // 8), StepSettings())])
        random["drop"] = torch.zeros(1, dtype=torch.bool)
        with attach(unet, adapters.config.num_blocks) as taps:
            terms = loss_terms(unet, taps, adapters, condition, scaled[1], cond.mask_to_latents(mask)[None], random,
                               StepSettings())  # fmt: skip
            optimizer.zero_grad()
            terms["total"].backward()  # within `attach`: checkpointed blocks are computed again here
        gradients = {n: p.grad for n, p in adapters.named_parameters() if p.requires_grad}
        optimizer.step()
        steps.append(
            {
                "seconds": time.monotonic() - clock,
                "loss": {k: float(v.detach()) for k, v in terms.items()},
                "trainable": len(gradients),
                "absent": [n for n, v in gradients.items() if v is None],
                "not_finite": [n for n, v in gradients.items() if v is not None and not v.isfinite().all()],
                "zero": [n for n, v in gradients.items() if v is not None and not v.any()],
                "in_base": [n for n, p in unet.named_parameters() if p.grad is not None],
                "convs_at_zero": sum(not c.any() for c in convs),
            }
        )
    return {"steps": steps, "loading": loading, "parameters": sum(p.numel() for p in adapters.trainable())}


def command(*arguments):
    """`python -m genprop_core` with these arguments."""
    from genprop_core import cli

    clock = time.monotonic()
    assert cli.main([str(a) for a in arguments]) == 0
    return {"seconds": {"all": time.monotonic() - clock}}


def main(task, *arguments):
    sys.path += [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "nodes")]
    from peak_memory import Watch

    with Watch() as memory:
        if task == "command":
            report = command(*arguments)
        else:
            report = {"headless": headless, "train": train}[task](*[Path(a) for a in arguments])
    print(json.dumps({**report, "peak": memory.peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
