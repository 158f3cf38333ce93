"""The same quantities from our models and from ComfyUI's, on one official SVD file."""
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SCRIPT = Path(__file__).parent / "nodes" / "comfy_svd.py"


def inputs(shape, batch=2, frames=3, size=8):
    """What both sides are given. size: of the latents; the VAE gets pictures of 8 * size a side."""
    g = torch.Generator().manual_seed(7)
    return {
        "x": torch.randn(batch, frames, 8, size, size, generator=g),
        "c_noise": torch.tensor([1.6, -0.4])[:batch],
        "clip": torch.randn(batch, 1, shape.context, generator=g),
        "micro": torch.tensor([6.0, 127.0, 0.02]),
        "pixels": torch.randn(2, 3, shape.image, shape.image, generator=g),
        "frames": torch.rand(2, 3, 8 * size, 8 * size, generator=g) * 2 - 1,
        "latents": torch.randn(frames, 4, size, size, generator=g),
    }


def run_ours(base, given):
    """The same quantities from our models, as tests/nodes/comfy_svd.py names them."""
    with torch.no_grad():
        micro = given["micro"].repeat(len(given["x"]), 1)
        noise = base.unet(given["x"], given["c_noise"], given["clip"], micro, return_dict=False)[0]
        embeds = base.image_encoder(given["pixels"]).image_embeds
        encoded = base.vae.encode(given["frames"])
        if type(base.vae).__name__ == "AutoencoderTiny":  # its latents are the scaled ones
            encoded, decoded = encoded.latents / 0.18215, base.vae.decode(given["latents"] * 0.18215).sample
        else:
            encoded = encoded.latent_dist.mode()
            decoded = base.vae.decode(given["latents"], num_frames=len(given["latents"])).sample
    return {"noise": noise, "embeds": embeds, "encoded": encoded, "decoded": decoded}


def run_comfyui(checkout, checkpoint, given, folder, how="parts"):
    """Runs ComfyUI in a process of its own, so that its `nodes` module and ours never meet."""
    save_file(given, folder / "inputs.safetensors")
    files = [str(p) for p in (checkout, checkpoint, folder / "inputs.safetensors", folder / "outputs.safetensors")]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *files, how], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return load_file(folder / "outputs.safetensors")


def relative_errors(ours, theirs):
    return {k: ((ours[k].double() - theirs[k].double()).norm() / theirs[k].double().norm()).item() for k in theirs}
