"""What the checks share: the mini, its clip, and every way to sample it. Each takes a Pack (see comfy_worker.py)."""
import functools
import re

SCALING = 0.18215
SEED, STEPS = 11, 4


@functools.lru_cache
def mini(pack):
    parts = dict(zip(("model", "clip_vision", "vae", "adapters"), pack.run("GenPropLoadMini")))
    # core batches the branches of the guidance, or not, by the memory that is free just then: latents would be equal to
    # the last bit only as long as no other program needs much
    parts["model"].model.memory_required = _nothing
    return parts


def _nothing(shape, **kwargs):
    return 0


@functools.lru_cache
def clip(pack):
    """source [T,H,W,3] and keyframe [1,H,W,3]."""
    from safetensors.torch import load_file

    given = load_file(pack.folder / "inputs.safetensors")
    return given["source"].movedim(1, -1), given["keyframe"].movedim(0, -1)[None]


def encode(pack, **changes):
    parts = mini(pack)
    source, keyframe = clip(pack)
    given = {"adapters": parts["adapters"], "clip_vision": parts["clip_vision"], "vae": parts["vae"], "source": source,
             "keyframe": keyframe, "noise_seed": SEED, **changes}  # fmt: skip
    return pack.run("GenPropEncodeCondition", **given)[0]


@functools.lru_cache
def condition(pack):
    return encode(pack)


def sampler(pack, model=None, given=None, **changes):
    values = {"model": model or mini(pack)["model"], "condition": given or condition(pack)}
    latent, features = pack.run("GenPropSampler", **{**values, "seed": SEED, "steps": STEPS, **changes})
    return latent["samples"], features


def ksampler(pack, model, positive, negative, latent, cfg=3.0, steps=STEPS, low=1.0):
    if low is not None:
        model = pack.core_node("nodes_video_model", "VideoLinearCFGGuidance", model, low)[0]
    return pack.run("KSampler", model=model, seed=SEED, steps=steps, cfg=cfg, sampler_name="euler", scheduler="karras",
                    positive=positive, negative=negative, latent_image=latent, denoise=1.0)[0]["samples"]  # fmt: skip


def apply(pack, model=None, given=None, **changes):
    values = {"model": model or mini(pack)["model"], "condition": given or condition(pack)}
    return pack.run("GenPropApply", **{**values, **changes})


def stripped(conditioning):
    """CONDITIONING without its control."""
    return [[c, {k: v for k, v in d.items() if not k.startswith("control")}] for c, d in conditioning]


def alone(pack):
    """ClipSettings for a run to compare the nodes of single steps with: they do not look ahead."""
    return pack.core("evaluation").ALONE


@functools.lru_cache
def reference(pack, steps=STEPS):
    """Latents [T,4,h,w] (ComfyUI's scale) and mask [T,1,h,w] of the headless pipeline."""
    assets, pipeline = pack.core("assets"), pack.core("pipeline")
    model = pipeline.GenProp.from_files(assets.MINI_BASE, assets.MINI_ADAPTERS)
    source, keyframe = clip(pack)
    own = pack.core("sampler").SamplerSettings(steps, sigma_min=None)
    settings = pipeline.PropagateSettings(sampler=own, seed=SEED, clip=alone(pack))
    out = model.propagate(source.movedim(-1, 1), keyframe[0].movedim(-1, 0), settings)
    return out.latents / SCALING, out.mask


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def refuses(pattern, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except ValueError as error:
        assert type(error).__name__ == "GenPropError", repr(error)
        assert re.search(pattern, str(error)), f"{pattern!r} is not in {error}"
        assert "\n" not in str(error), f"more than one line: {error}"
        return
    raise AssertionError(f"no error; expected {pattern!r}")
