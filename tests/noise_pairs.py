"""A work folder of the mini with pairs of noise in its cache: what a stage asks for, in a second."""

import torch

from genprop_core.files import save_tensors
from trainer.mini import cache
from trainer.mini.export import unpack

COUNT = 50


def noise_batch(count=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    names = {"source": (8, 4, 16, 16), "target": (8, 4, 16, 16), "image": (4, 16, 16), "clip": (1, 64)}
    return {k: torch.randn(count, *shape, generator=g) for k, shape in names.items()}


def work_folder(folder):
    """The shipped VAE and base, and COUNT pairs."""
    unpack(folder)
    torch.manual_seed(0)
    rows = {k: v.half() for k, v in noise_batch(COUNT).items() if k in ("source", "target")}
    rows["mask"] = torch.zeros(COUNT, 8, 1, 16, 16, dtype=torch.half)
    for side in ("source", "target"):
        rows[f"key_{side}"] = torch.randn(COUNT, 2, 4, 16, 16).half()
        rows[f"clip_{side}"] = torch.randn(COUNT, 2, 64).half()
    made_by = {"vae": cache.digest_of_vae(folder)}
    for shard in range(0, COUNT, cache.SHARD):
        part, name = slice(shard, shard + cache.SHARD), f"{shard:06d}.safetensors"
        save_tensors(folder / "cache" / name, {k: v[part].contiguous() for k, v in rows.items()}, made_by)
        shape = (cache.SHARD, 8, 3, 128, 128)
        pictures = {side: torch.randint(0, 256, shape, dtype=torch.uint8) for side in cache.SIDES}
        save_tensors(folder / "cache" / (cache.PICTURES + name), pictures, made_by)
    return folder
