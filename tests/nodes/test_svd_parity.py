"""Our loaders' models against ComfyUI's own on the same official file: UNet, CLIP image encoder and VAE, in fp32."""
import subprocess
import sys
from pathlib import Path

import pytest
import svd_checkpoint
import torch
from safetensors.torch import load_file, save_file

from genprop_core.convert import convert
from genprop_core.diffusers_folder import load_diffusers_folder
from genprop_core.epsilon import set_groupnorm_eps
from genprop_core.single_file import load_single_file

pytestmark = pytest.mark.comfyui
OTHER = svd_checkpoint.Shape(
    (64, 128, 128), 2, 2, (True, False, True), 48, 256, (32, 64, 64), False, 128, 3, 256, 16, 224
)  # two layers, attention in the last level, a level without, two transformer layers


def inputs(shape, frames=3, size=8, clip_frames=2):
    g = torch.Generator().manual_seed(7)
    half = 2 ** (len(shape.vae_widths) - 1) if not shape.tiny_vae else 8
    return {
        "x": torch.randn(2, frames, 8, size, size, generator=g),
        "c_noise": torch.tensor([1.6, -0.4]),
        "clip": torch.randn(2, 1, shape.context, generator=g),
        "micro": torch.tensor([6.0, 127.0, 0.02]),
        "pixels": torch.randn(2, 3, shape.image, shape.image, generator=g),
        "frames": torch.rand(clip_frames, 3, 4 * half, 4 * half, generator=g) * 2 - 1,
        "latents": torch.randn(3, 4, 4, 4, generator=g),
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
    script = Path(__file__).with_name("comfy_svd.py")
    paths = [
        str(p) for p in (script, checkout, checkpoint, folder / "inputs.safetensors", folder / "outputs.safetensors")
    ]
    done = subprocess.run([sys.executable, *paths, how], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return load_file(folder / "outputs.safetensors")


def relative_errors(ours, theirs):
    return {k: ((ours[k].double() - theirs[k].double()).norm() / theirs[k].double().norm()).item() for k in theirs}


@pytest.mark.parametrize(
    "shape", [svd_checkpoint.TINY, svd_checkpoint.with_tiny_vae(), OTHER], ids=["tiny", "taesd", "other"]
)
def test_every_part_agrees_with_comfyui(shape, tmp_path, pytestconfig):
    file, folder = tmp_path / "svd.safetensors", tmp_path / "folder"
    svd_checkpoint.write_checkpoint(file, shape)
    given = inputs(shape)
    theirs = run_comfyui(pytestconfig.comfyui_checkout, file, given, tmp_path)
    assert all(t.isfinite().all() and t.std() > 1e-3 for t in theirs.values())
    ours = run_ours(load_single_file(file), given)
    assert max(relative_errors(ours, theirs).values()) < 1e-5, relative_errors(ours, theirs)
    convert(file, folder)
    ours = run_ours(load_diffusers_folder(folder), given)  # the VAE copy's quant_conv is back, unfolded
    assert max(relative_errors(ours, theirs).values()) < 1e-5, relative_errors(ours, theirs)


def test_epsilon_is_what_makes_the_unets_agree(tmp_path, pytestconfig):
    file = tmp_path / "svd.safetensors"

    def quiet(tensors):  # activations so small that the epsilon of the norms behind conv_in shows
        key = "model.diffusion_model.input_blocks.0.0."
        for leaf, scale in (("weight", 1e-3), ("bias", 0.0)):
            tensors[key + leaf] = tensors[key + leaf].map(lambda t, scale=scale: t * scale)

    svd_checkpoint.write_checkpoint(file, change=quiet)
    given = inputs(svd_checkpoint.TINY)
    theirs = run_comfyui(pytestconfig.comfyui_checkout, file, given, tmp_path)
    base = load_single_file(file)
    assert relative_errors(run_ours(base, given), theirs)["noise"] < 1e-5
    assert set_groupnorm_eps(base.unet, 1e-6) > 0  # diffusers' own value, in the blocks that have it and in others
    assert relative_errors(run_ours(base, given), theirs)["noise"] > 1e-4
