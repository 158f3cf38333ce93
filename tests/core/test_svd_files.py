"""A base's folder as users have it: in shards, in half precision, behind links, under another name."""
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from svd_checkpoint import write_checkpoint
from svd_states import assert_equal, states

from genprop_core.components import version_from_name
from genprop_core.diffusers_folder import load_diffusers_folder, open_diffusers_folder
from genprop_core.single_file import load_single_file


def test_sharded_only(svd, copy):
    for sub, stem in (("unet", "diffusion_pytorch_model"), ("image_encoder", "model")):
        (copy / sub / f"{stem}.safetensors").unlink()
        tensors = load_file(svd[1] / sub / f"{stem}.safetensors")
        names = [f"{stem}-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
        weight_map = {key: names[i % 3] for i, key in enumerate(sorted(tensors))}
        for name in names:
            save_file({k: tensors[k] for k in tensors if weight_map[k] == name}, copy / sub / name)
        index = {"metadata": {}, "weight_map": weight_map}
        (copy / sub / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    assert_equal(states(load_diffusers_folder(copy)), states(load_diffusers_folder(svd[1])))
    (copy / "unet" / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        ValueError, match="Expected a .safetensors file at .*00002-of-00003.safetensors, but there is none"
    ):
        load_diffusers_folder(copy)
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="Expected diffusion_pytorch_model.safetensors.index.json beside the shards"):
        load_diffusers_folder(copy)


def test_index_may_not_point_elsewhere(copy):
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = {"weight_map": {"conv_in.weight": "../../secret.safetensors"}}
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"Expected plain file names in .*, got \.\./\.\./secret"):
        load_diffusers_folder(copy)


def test_fp16_variant_only(svd, copy):
    for sub, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("image_encoder", "model"),
    ):
        tensors = load_file(svd[1] / sub / f"{stem}.safetensors")
        (copy / sub / f"{stem}.safetensors").unlink()
        save_file({k: t.half() for k, t in tensors.items()}, copy / sub / f"{stem}.fp16.safetensors")
    half = states(load_diffusers_folder(copy, torch.float16))
    whole = states(load_diffusers_folder(svd[1], torch.float16))
    assert_equal(half, whole)
    stem = copy / "unet" / "diffusion_pytorch_model"
    os.rename(f"{stem}.fp16.safetensors", f"{stem}-00001-of-00001.fp16.safetensors")
    index = {"weight_map": {k: "diffusion_pytorch_model-00001-of-00001.fp16.safetensors" for k in half["unet"]}}
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    assert_equal(states(load_diffusers_folder(copy, torch.float16)), whole)


def test_links(svd, link, tmp_path):
    """To a file, and to a folder whose files are links themselves."""
    for file in svd[1].rglob("*.*"):
        (tmp_path / "links" / file.relative_to(svd[1])).parent.mkdir(parents=True, exist_ok=True)
        link(tmp_path / "links" / file.relative_to(svd[1]), file)
    link(tmp_path / "linked", tmp_path / "links")
    link(tmp_path / "a.safetensors", svd[0])
    assert_equal(states(load_diffusers_folder(tmp_path / "linked")), states(load_diffusers_folder(svd[1])))
    assert_equal(states(load_single_file(tmp_path / "a.safetensors")), states(load_single_file(svd[0])))


def test_read_only_folders(svd, copy, tmp_path):
    write_checkpoint(tmp_path / "models" / "a.safetensors")
    for folder in (tmp_path / "models", copy / "unet", copy):
        os.chmod(folder, 0o555)
    try:
        assert_equal(states(load_diffusers_folder(copy)), states(load_diffusers_folder(svd[1])))
        assert_equal(states(load_single_file(tmp_path / "models" / "a.safetensors")), states(load_single_file(svd[0])))
    finally:
        for folder in (tmp_path / "models", copy, copy / "unet"):
            os.chmod(folder, 0o755)


@pytest.mark.parametrize(
    "name,version",
    [("svd.safetensors", "svd"), ("svd_xt.safetensors", "svd_xt"), ("svd_xt_1_1.safetensors", "svd_xt_1_1"),
     ("stable-video-diffusion-img2vid", "svd"), ("stable-video-diffusion-img2vid-xt", "svd_xt"),
     ("stable-video-diffusion-img2vid-xt-1-1", "svd_xt_1_1"), ("mini.safetensors", None),
     ("models--stabilityai--stable-video-diffusion-img2vid-xt/snapshots/9e43909", "svd_xt")],
)  # fmt: skip
def test_version_by_name(name, version, tmp_path):
    assert version_from_name(tmp_path / name) == version


def test_frames_by_config_then_by_name_of_full_size(svd, copy):
    assert load_single_file(svd[0]).num_frames is None
    config = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").unlink()
    (copy / "unet" / "config.json").write_text(json.dumps({**config, "num_frames": 14}))
    assert open_diffusers_folder(copy).num_frames == 14
    os.rename(copy, copy.with_name("svd_xt"))
    parts = open_diffusers_folder(copy.with_name("svd_xt"))
    assert parts.num_frames == 14 and parts.version is None  # a name says nothing about a base of other widths
