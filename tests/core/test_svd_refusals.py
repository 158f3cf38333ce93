"""What is not SVD is refused in one line that says what it is and what to do."""
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from svd_checkpoint import CLIP, COPY, UNET, VAE, write_checkpoint

from genprop_core.convert import convert
from genprop_core.diffusers_folder import load_diffusers_folder
from genprop_core.errors import GenPropError
from genprop_core.single_file import load_single_file

ONE = torch.ones(4, 4)
SD15 = {"cond_stage_model.transformer.text_model.final_layer_norm.weight": ONE, VAE + "quant_conv.weight": ONE}
SDXL = {"conditioner.embedders.1.model.ln_final.weight": ONE, "conditioner.embedders.0.transformer.a": ONE}
FOREIGN = {
    "SD 1.5": ({**SD15, UNET + "input_blocks.0.0.weight": ONE}, "is Stable Diffusion 1.5. Use an SVD checkpoint"),
    "SD 2": ({"cond_stage_model.model.ln_final.weight": ONE}, "is Stable Diffusion 2. Use"),
    "SDXL": ({**SDXL, UNET + "input_blocks.0.0.weight": ONE}, "is SDXL. Use an SVD checkpoint"),
    "refiner": ({"conditioner.embedders.0.model.ln_final.weight": ONE}, "is the SDXL refiner"),
    "LoRA by kohya": ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": ONE}, "is a LoRA, not a model"),
    "LoRA by diffusers": ({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": ONE}, "is a LoRA, not a model"),
    "adapters": ({"sce.conv_in.weight": ONE}, "is a file of GenProp adapters. Give it as the adapters"),
    "motion module": ({"down_blocks.0.motion_modules.0.a": ONE}, "is an AnimateDiff motion module"),
    "diffusers UNet": ({"down_blocks.0.resnets.0.a": ONE}, "is a diffusers UNet without the rest. Give the whole"),
    "VAE": ({"encoder.conv_in.weight": ONE}, "is a VAE without the rest"),
    "CLIP": ({"vision_model.embeddings.class_embedding": ONE}, "is a CLIP image encoder without the rest"),
    "other": ({"blocks.0.weight": ONE}, r"has no key of one \(its first is blocks.0.weight\)"),
    "empty": ({}, r"has no key of one \(its first is none at all\)"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("svd") / "base.safetensors"
    write_checkpoint(path)
    return path


@pytest.fixture
def folder(file, tmp_path):
    convert(file, tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture
def broken(file, tmp_path):
    """Writes a changed copy of the checkpoint and returns its path."""

    def write(change):
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, tmp_path / "broken.safetensors")
        return tmp_path / "broken.safetensors"

    return write


def refused(path, match, load=load_single_file):
    with pytest.raises(GenPropError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


@pytest.mark.parametrize("name", FOREIGN)
def test_other_models(name, tmp_path):
    tensors, match = FOREIGN[name]
    save_file({k: t.clone() for k, t in tensors.items()}, tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", match)


def drop(*prefixes):
    def change(tensors):
        for key in [k for k in tensors if k.startswith(prefixes)]:
            del tensors[key]

    return change


@pytest.mark.parametrize(
    "prefixes,match",
    [((VAE, COPY), "but the VAE is missing. Use the whole checkpoint"),
     ((VAE, CLIP), "but the VAE and the CLIP image encoder are missing"),
     ((UNET,), "but the UNet is missing"),
     ((UNET + "middle_block.0.in_layers.2.weight",), r"1 tensors of the UNet are missing \(.*in_layers.2"),
     ((CLIP + "proj",), "Expected proj of a Stable Video Diffusion checkpoint, but it is missing"),
     ((VAE + "encoder.mid.attn_1",), "10 tensors of the VAE are missing")],
)  # fmt: skip
def test_missing_parts(prefixes, match, broken):
    refused(broken(drop(*prefixes)), match)


def test_unknown_keys_are_not_ignored(broken):
    refused(
        broken(lambda t: t.update({UNET + "extra.weight": ONE})), r"1 tensors have no place in SVD \(.*extra.weight\)"
    )


def test_wrong_shape(broken):
    key = UNET + "input_blocks.1.0.out_layers.3.bias"
    refused(broken(lambda t: t.update({key: torch.zeros(7)})), r"expected down_blocks.* of shape \[64\], got \[7\]")


def test_relatives_of_svd(broken):
    refused(broken(lambda t: t.update({"conditioner.embedders.1.encoder.quant_conv.weight": ONE})), "is SV3D. Use")
    key = UNET + "label_emb.0.0.weight"
    refused(broken(lambda t: t.update({key: torch.zeros(256, 1280)})), "embedding of width 1280: this is SV3D")
    key = UNET + "input_blocks.0.0.weight"
    refused(
        broken(lambda t: t.update({key: torch.zeros(64, 4, 3, 3)})),
        "Expected 8 channels at input_blocks.0.0.weight .*got 4",
    )

    def image_decoder(tensors):
        for key in [k for k in tensors if k.startswith(VAE) and ("time_" in k or "mix_factor" in k)]:
            del tensors[key]

    refused(broken(image_decoder), "got the frame-wise image decoder")

    def image_model(tensors):
        for key in [
            k for k in tensors if k.startswith(UNET) and ("time_stack" in k or "time_mix" in k or "time_pos" in k)
        ]:
            del tensors[key]

    refused(broken(image_model), "got an image model .its UNet has no temporal layers")


def test_quantised(broken):
    key = UNET + "middle_block.1.proj_in.weight"
    refused(broken(lambda t: t.update({key: t[key].to(torch.float8_e4m3fn)})), "is fp8-quantised .*float8_e4m3fn")
    refused(broken(lambda t: t.update({UNET + "scaled_fp8": ONE})), "is fp8-quantised. Use the fp16 or fp32 file")
    refused(broken(lambda t: t.update({key: t[key].to(torch.int8)})), "is quantised .*int8")


def test_truncated_and_foreign_formats(file, tmp_path):
    data = file.read_bytes()
    for name, content in (
        ("half", data[: len(data) // 2]),
        ("header", data[:100]),
        ("empty", b""),
        ("text", b"hello world"),
    ):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        refused(path, "Expected a whole .safetensors file, but .* cannot be read as one .* truncated")
    refused(tmp_path / "none.safetensors", "Expected a .safetensors file at .*, but there is none")
    (tmp_path / "svd.ckpt").write_bytes(b"")
    refused(tmp_path / "svd.ckpt", "Expected a .safetensors file, got svd.ckpt: a pickle can run code")


def test_a_link_to_nothing(link, tmp_path):
    link(tmp_path / "dangling.safetensors", tmp_path / "gone")
    refused(tmp_path / "dangling.safetensors", "but there is none")


def test_bad_folders(folder, tmp_path):
    load = load_diffusers_folder
    refused(tmp_path / "nowhere", "Expected a diffusers folder at .*, but there is none", load)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)

    save_file({k: t for k, t in tensors.items() if k != "conv_in.bias"}, weights)
    refused(folder, r"The unet of .* lacks 1 tensor \(conv_in.bias\)", load)
    save_file({**tensors, "more": ONE}, weights)
    refused(folder, r"holds 1 tensor \(more\), which its configuration has no place for", load)
    save_file({k: t.to(torch.float8_e4m3fn) for k, t in tensors.items()}, weights)
    refused(folder, "is fp8-quantised", load)
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(folder, "cannot be read as one", load)
    weights.rename(weights.with_suffix(".bin"))
    refused(folder, "got only pickled .bin weights", load)
    weights.with_suffix(".bin").unlink()
    refused(folder, "Expected diffusion_pytorch_model.safetensors in .*, but there is none", load)

    config = json.loads((folder / "unet" / "config.json").read_text())
    save_file(tensors, weights)
    for changed, match in (
        (
            {**config, "_class_name": "UNet2DConditionModel"},
            "unet to be UNetSpatioTemporalConditionModel, got UNet2DCond",
        ),
        ({**config, "in_channels": 4}, r"8 input channels \(SVD\), got 4"),
        ({**config, "block_out_channels": [64, 64, 192]}, "The weights and their configuration do not match"),
    ):
        (folder / "unet" / "config.json").write_text(json.dumps(changed))
        refused(folder, match, load)
    (folder / "unet" / "config.json").write_text("{")
    refused(folder, "Expected JSON in .*config.json", load)
    (folder / "unet" / "config.json").unlink()
    refused(folder, "Expected .*config.json, but there is none", load)


def test_folders_of_other_models(folder, tmp_path):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "image_encoder").rename(tmp_path / "image_encoder")
    refused(folder, "but image_encoder is missing. Give the folder that holds all three", load_diffusers_folder)
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionXLPipeline"}))
    refused(
        folder, "The folder is a StableDiffusionXLPipeline; use a Stable Video Diffusion one", load_diffusers_folder
    )
    hub = tmp_path / "models--a--b"
    (hub / "snapshots" / "x").mkdir(parents=True)
    refused(hub, "This is a hub cache: give the folder inside snapshots", load_diffusers_folder)
