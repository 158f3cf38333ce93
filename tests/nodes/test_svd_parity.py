"""Our loaders' models against ComfyUI's own on the same official file: UNet, CLIP image encoder and VAE, in fp32."""
import pytest
import svd_checkpoint
from svd_parity import inputs, relative_errors, run_comfyui, run_ours

from genprop_core.convert import convert
from genprop_core.diffusers_folder import load_diffusers_folder
from genprop_core.epsilon import set_groupnorm_eps
from genprop_core.single_file import load_single_file

pytestmark = pytest.mark.comfyui
OTHER = svd_checkpoint.Shape(
    (64, 128, 128), 2, 2, (True, False, True), 48, 256, (32, 64, 64), False, 128, 3, 256, 16, 224
)  # two layers, attention in the last level, a level without, two transformer layers


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
