"""Run by the tests in a process of its own: loads an official SVD file with ComfyUI's code and runs its three parts.

python comfy_svd.py COMFYUI CHECKPOINT INPUTS OUTPUTS {core,parts}

core: through ComfyUI's own ImageOnlyCheckpointLoader, which knows SVD's widths only. parts: through ComfyUI's model
classes, for any SVD shape. INPUTS and OUTPUTS are safetensors files; see `main` for the names in them.
"""
import json
import sys
import tempfile
from pathlib import Path


def start(checkout):
    """Makes `import comfy` and `import nodes` mean this checkout, on the CPU in fp32."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(checkout)] + [p for p in sys.path if Path(p or ".").resolve() != here]
    sys.argv = ["main.py", "--cpu", "--force-fp32", "--fp32-vae", "--fp32-text-enc", "--disable-xformers"]
    import comfy.options

    comfy.options.enable_args_parsing()


def load_core(path):
    """(MODEL, CLIP_VISION, VAE) of the loader node."""
    import folder_paths

    folder_paths.add_model_folder_path("checkpoints", str(path.parent))
    from comfy_extras.nodes_video_model import ImageOnlyCheckpointLoader

    model, clip_vision, vae = ImageOnlyCheckpointLoader().load_checkpoint(path.name)
    return model.model, clip_vision.model, vae.first_stage_model


def load_parts(path):
    """The same three modules for other widths, with every key of the file required to fit."""
    import comfy.clip_vision
    import comfy.model_detection
    import comfy.sd
    import comfy.supported_models
    import comfy.utils
    import torch
    from comfy.ldm.models.autoencoder import AutoencodingEngine

    state = comfy.utils.load_torch_file(str(path))

    def under(prefix):
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    unet = under("model.diffusion_model.")
    config = comfy.supported_models.SVD_img2vid(comfy.model_detection.detect_unet_config(unet, ""))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(unet, "")
    model.diffusion_model.load_state_dict(unet, strict=True)

    vae = under("first_stage_model.")
    if "taesd_decoder.1.weight" in vae:
        first_stage = comfy.sd.VAE(sd=vae).first_stage_model
    else:
        levels = 1 + max(int(k.split(".")[2]) for k in vae if k.startswith("encoder.down."))
        widths = [vae[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)]
        shape = {
            "double_z": True,
            "z_channels": 4,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": widths[0],
            "ch_mult": [w // widths[0] for w in widths],
            "num_res_blocks": 2,
            "attn_resolutions": [],
            "dropout": 0.0,
        }
        code = "comfy.ldm.modules.diffusionmodules.model.Encoder", "comfy.ldm.modules.temporal_ae.VideoDecoder"
        first_stage = AutoencodingEngine(
            regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
            encoder_config={"target": code[0], "params": shape},
            decoder_config={"target": code[1], "params": {**shape, "video_kernel_size": [3, 1, 1], "alpha": 0.0}},
        )
        first_stage.load_state_dict(vae, strict=True)

    prefix = "conditioner.embedders.0.open_clip.model.visual."
    clip = under(prefix)
    width, patch = clip["conv1.weight"].shape[0], clip["conv1.weight"].shape[-1]
    settings = {
        "hidden_size": width, "num_attention_heads": max(1, width // 64), "hidden_act": "gelu", "patch_size": patch,
        "num_hidden_layers": sum(k.endswith("ln_1.weight") for k in clip), "layer_norm_eps": 1e-5,
        "intermediate_size": clip["transformer.resblocks.0.mlp.c_fc.weight"].shape[0], "num_channels": 3,
        "image_size": patch * round((len(clip["positional_embedding"]) - 1) ** 0.5),
        "projection_dim": clip["proj"].shape[1], "model_type": "clip_vision_model",
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(settings, file)
    vision = comfy.clip_vision.ClipVisionModel(file.name)
    Path(file.name).unlink()
    vision.model.load_state_dict(comfy.clip_vision.convert_to_transformers(clip, ""), strict=True)
    return model, vision.model, first_stage


def main(checkout, checkpoint, inputs, outputs, how):
    start(Path(checkout).resolve())
    import torch
    from safetensors.torch import load_file, save_file

    given = load_file(inputs)
    model, vision, vae = {"core": load_core, "parts": load_parts}[how](Path(checkpoint).resolve())
    fps, bucket, augmentation = given["micro"].tolist()
    with torch.no_grad():
        x = given["x"]  # [B,T,8,h,w], with sigma's c_noise [B] and CLIP embeddings [B,1,D]
        batch, frames = x.shape[:2]
        adm = model.encode_adm(fps=fps + 1, motion_bucket_id=bucket, augmentation_level=augmentation)
        noise = model.diffusion_model.float()(
            x.flatten(0, 1), given["c_noise"].repeat_interleave(frames), given["clip"].repeat_interleave(frames, 0),
            adm.repeat(batch * frames, 1), num_video_frames=frames,
        )  # fmt: skip
        embeds = vision.float()(pixel_values=given["pixels"], intermediate_output=-2)[2]
        latents = vae.float().encode(given["frames"])  # [N,3,H,W] in [-1,1] -> the mode, unscaled
        decoded = vae.decode(given["latents"])  # one chunk
    noise = noise.reshape(batch, frames, *noise.shape[1:])
    out = {"noise": noise, "embeds": embeds, "encoded": latents, "decoded": decoded}
    save_file({k: v.float().contiguous() for k, v in out.items()}, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
