"""Run by the full-size tests in a process of its own: plain SVD and our nodes in ComfyUI on one official SVD file.

python comfy_full_size.py CHECKOUT REPOSITORY CHECKPOINT INPUTS FOLDER: reads FOLDER/{fresh,random}_adapters.safetensors
and writes FOLDER/comfyui.safetensors with latents [T,4,h,w] (ComfyUI's scale), masks and frames. Prints seconds and
peak anonymous memory as JSON.
"""
import json
import sys
import time
from pathlib import Path

STEPS, SEED, FRAMES, SIZE = 2, 11, 4, 128


def start(checkout, folder):
    """`import comfy` and `import nodes` mean this checkout, on the CPU in fp32."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(checkout)] + [p for p in sys.path if Path(p or ".").resolve() != here]
    sys.argv = ["main.py", "--cpu", "--force-fp32", "--fp32-vae", "--fp32-text-enc", "--disable-xformers"]
    sys.argv += ["--base-directory", str(folder)]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    sys.path.append(str(here))
    sys.path.append(str(here.parent))
    return nodes


def main(checkout, repository, checkpoint, inputs, folder):
    checkout, folder, checkpoint = Path(checkout).resolve(), Path(folder), Path(checkpoint)
    nodes = start(checkout, folder)
    from peak_memory import Watch

    with Watch() as memory:
        seconds = work(nodes, checkout, Path(repository).resolve(), checkpoint, inputs, folder)
    print(json.dumps({"seconds": seconds, "peak": memory.peak}))


def work(nodes, checkout, repository, checkpoint, inputs, folder):
    import folder_paths
    import torch
    from comfy_worker import Pack
    from safetensors.torch import load_file, save_file

    clock, seconds, out = time.monotonic(), {}, {}

    def lap(name):
        nonlocal clock
        seconds[name], clock = time.monotonic() - clock, time.monotonic()

    def core_node(name, *args, **kwargs):
        return Pack.core_node(None, "nodes_video_model", name, *args, **kwargs)

    def plain(positive, negative, latent):
        """SVD by core's nodes alone."""
        guided = core_node("VideoLinearCFGGuidance", model, 1.0)[0]
        with torch.inference_mode():
            return nodes.KSampler().sample(guided, SEED, STEPS, 3.0, "euler", "karras", positive, negative, latent)[0]

    folder_paths.add_model_folder_path("checkpoints", str(checkpoint.parent))
    model, clip_vision, vae = core_node("ImageOnlyCheckpointLoader", checkpoint.name)
    lap("load")
    given = load_file(inputs)
    source, keyframe = given["source"].movedim(1, -1), given["keyframe"].movedim(0, -1)[None]
    graph = core_node("SVD_img2vid_Conditioning", clip_vision, keyframe, vae, SIZE, SIZE, FRAMES, 127, 6, 0.0)
    out["before"] = plain(*graph)["samples"]
    lap("plain SVD before our nodes")

    pack = Pack(checkout, repository, folder)
    for name in ("fresh", "random"):
        adapters = pack.own("memory").open_adapters(folder / f"{name}_adapters.safetensors")
        condition = pack.run("GenPropEncodeCondition", adapters=adapters, clip_vision=clip_vision, vae=vae,
                             source=source, keyframe=keyframe, noise_seed=SEED)[0]  # fmt: skip
        lap(f"encoding, {name} adapters")
        latent, features = pack.run("GenPropSampler", model=model, condition=condition, seed=SEED, steps=STEPS)
        out[name], out[f"{name}_mask"] = latent["samples"], features.probability
        lap(f"GenProp Sampler, {name} adapters")
        with torch.inference_mode():
            out[f"{name}_frames"] = nodes.VAEDecode().decode(vae, latent)[0].movedim(-1, 1)
        lap(f"VAE Decode, {name} adapters")
        if name == "fresh":
            control = pack.run("GenPropApply", model=model, condition=condition)[1][0][1]["control"]
            positive, negative, empty = graph
            held = [[[c, {**d, "control": control}] for c, d in part] for part in (positive, negative)]
            out["with"] = plain(*held, empty)["samples"]
            control.release()
            lap("plain SVD with fresh adapters")
    out["after"] = plain(*graph)["samples"]
    lap("plain SVD after our nodes")
    save_file({k: v.float().contiguous() for k, v in out.items()}, folder / "comfyui.safetensors")
    return seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
