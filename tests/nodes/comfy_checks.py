"""What the nodes must show inside ComfyUI. Each check gets a Pack (see comfy_worker.py) and raises when it fails."""
import functools
import re
import sys

import torch
from comfy_worker import snapshot

SCALING = 0.18215
SEED, STEPS = 11, 6


# --- what the checks share -------------------------------------------------------------------------------------------
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


@functools.lru_cache
def reference(pack, steps=STEPS):
    """Latents [T,4,h,w] (ComfyUI's scale) and mask [T,1,h,w] of the headless pipeline."""
    assets, pipeline = pack.core("assets"), pack.core("pipeline")
    model = pipeline.GenProp.from_files(assets.MINI_BASE, assets.MINI_ADAPTERS)
    source, keyframe = clip(pack)
    settings = pipeline.PropagateSettings(sampler=pack.core("sampler").SamplerSettings(steps=steps), seed=SEED)
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


# --- parity ----------------------------------------------------------------------------------------------------------
def check_the_three_routes_agree(pack):
    latents, mask = reference(pack, 25)
    samples, features = sampler(pack, steps=25)
    assert latents.std() > 0.1 and relative(samples, latents) < 1e-3, relative(samples, latents)
    assert relative(features.probability, mask) < 1e-3
    native = ksampler(pack, *apply(pack), steps=25)
    assert relative(native, latents) < 1e-3, relative(native, latents)
    assert torch.equal(native, samples), relative(native, samples)


def check_sampler_custom_advanced_agrees(pack):
    model, positive, negative, latent = apply(pack)
    model = pack.core_node("nodes_video_model", "VideoLinearCFGGuidance", model, 1.0)[0]
    extra = functools.partial(pack.core_node, "nodes_custom_sampler")
    guider = extra("CFGGuider", model, positive, negative, 3.0)[0]
    sigmas = extra("BasicScheduler", model, "karras", STEPS, 1.0)[0]
    noise, euler = extra("RandomNoise", SEED)[0], extra("KSamplerSelect", "euler")[0]
    made = extra("SamplerCustomAdvanced", noise, guider, euler, sigmas, latent)[0]["samples"]
    assert relative(made, reference(pack)[0]) < 1e-3


def check_the_adapters_matter(pack):
    """Without this the other checks could pass with injections that do nothing."""
    plain = sampler(pack, strength=0.0)[0]
    assert relative(sampler(pack)[0], plain) > 0.05
    other = encode(pack, source=clip(pack)[0].flip(0))
    assert relative(sampler(pack, given=other)[0], sampler(pack)[0]) > 0.01


def check_strength_zero_is_the_control_removed(pack):
    model, positive, negative, latent = apply(pack, strength=0.0)
    removed = ksampler(pack, mini(pack)["model"], stripped(positive), stripped(negative), latent)
    assert torch.equal(ksampler(pack, model, positive, negative, latent), removed)
    assert torch.equal(sampler(pack, strength=0.0)[0], removed)


def check_start_and_end_percent(pack):
    whole, none = sampler(pack)[0], sampler(pack, strength=0.0)[0]
    assert torch.equal(sampler(pack, start_percent=1.0)[0], none)
    part = sampler(pack, end_percent=0.5)[0]
    assert relative(part, whole) > 1e-3 and relative(part, none) > 1e-3


def check_batched_and_apart_agree(pack):
    """Core runs the branches apart when memory is short."""
    model = mini(pack)["model"]
    together, features = sampler(pack)
    keep = model.model.memory_required
    calls = []
    try:
        model.model.memory_required = lambda shape, **kw: calls.append(shape) or (10**18 if shape[0] > 8 else 0)
        apart, other = sampler(pack)
    finally:
        model.model.memory_required = keep
    assert any(s[0] > 8 for s in calls)
    assert relative(apart, together) < 1e-5 and relative(other.probability, features.probability) < 1e-5


def check_no_guidance(pack):
    """Both guidances at 1 run one branch, as the pipeline does."""
    pipeline, assets = pack.core("pipeline"), pack.core("assets")
    model = pipeline.GenProp.from_files(assets.MINI_BASE, assets.MINI_ADAPTERS)
    source, keyframe = clip(pack)
    settings = pack.core("sampler").SamplerSettings(steps=STEPS, min_cfg=1.0, max_cfg=1.0)
    out = model.propagate(source.movedim(-1, 1), keyframe[0].movedim(-1, 0),
                          pipeline.PropagateSettings(sampler=settings, seed=SEED))  # fmt: skip
    made, features = sampler(pack, min_guidance=1.0, max_guidance=1.0)
    assert relative(made, out.latents / SCALING) < 1e-3 and relative(features.probability, out.mask) < 1e-3
    falling = sampler(pack, min_guidance=3.0, max_guidance=1.0)[0]  # core's shortcut for 1.0 must not apply
    assert relative(falling[0], sampler(pack, min_guidance=3.0, max_guidance=3.0)[0][0]) < 0.2


# --- nothing else changes --------------------------------------------------------------------------------------------
def check_the_model_is_untouched(pack):
    model, (_, positive, negative, latent) = mini(pack)["model"], apply(pack)
    weights = {k: v.clone() for k, v in model.model.state_dict().items()}
    options, plain = repr(model.model_options), (stripped(positive), stripped(negative), latent)
    before = ksampler(pack, model, *plain)
    sampler(pack), ksampler(pack, *apply(pack))
    assert torch.equal(ksampler(pack, model, *plain), before)
    assert repr(model.model_options) == options and not model.callbacks.get("on_cleanup")
    assert all(torch.equal(v, weights[k]) for k, v in model.model.state_dict().items())
    hooks = [m for m in model.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks and getattr(model.model, "current_patcher", None) is None


def check_comfyui_is_untouched(pack):
    """Loading the pack and running its nodes leaves the attributes of ComfyUI's modules and classes as they were."""
    allowed = re.compile(
        r"(current_loaded_models|NODE_CLASS_MAPPINGS|NODE_DISPLAY_NAME_MAPPINGS|EXTENSION_WEB_DIRS|LOADED_MODULE_DIRS)$"
    )
    sampler(pack)
    after = snapshot()
    changed = [k for k, v in pack.before.items() if k in after and after[k] is not v and not allowed.search(k)]
    gone = [k for k in pack.before if k not in after]
    assert not gone and not _really(changed, pack.before, after), (gone, changed)
    core = {k: v for k, v in pack.nodes.NODE_CLASS_MAPPINGS.items() if not k.startswith("GenProp")}
    assert all(not (v.__module__ or "").startswith(pack.name) for v in core.values())


def _really(changed, before, after):
    """Numbers and strings that compare equal, and plain counters that core itself moves, are no change."""
    return [k for k in changed if not isinstance(before[k], (int, float, str, bool, type(None)))]


def check_the_run_leaves_nothing_in_the_control(pack):
    model, positive, negative, latent = apply(pack)
    control = positive[0][1]["control"]
    ksampler(pack, model, positive, negative, latent)
    assert control.on_device is None and control.model is None


def check_cancel_leaves_nothing(pack):
    """An exception in mid-sampling, as Cancel is one: core then skips the controls' clean-up."""
    import comfy.model_management as mm

    model, positive, negative, latent = apply(pack)
    control, wanted = positive[0][1]["control"], sampler(pack)[0]
    calls = []

    def cancel(x, *args, **kwargs):
        calls.append(x)
        if len(calls) == 3:
            raise mm.InterruptProcessingException()
        return x

    cancelled = model.clone()
    cancelled.set_model_input_block_patch(lambda h, options: cancel(h) if options["block"][1] == 0 else h)
    try:
        ksampler(pack, cancelled, positive, negative, latent)
        raise AssertionError("was not cancelled")
    except mm.InterruptProcessingException:
        pass
    assert control.on_device is None and control.model is None
    assert torch.equal(ksampler(pack, model, positive, negative, latent), wanted)


# --- together with others --------------------------------------------------------------------------------------------
LORA_LAYER = "input_blocks.0.0"  # the first layer: nothing that comes after it could make up for it


def _first_weight(pack):
    return mini(pack)["model"].model.diffusion_model.get_parameter(f"{LORA_LAYER}.weight").detach().clone()


def _lora(weight, share=0.3):
    """A LoRA of rank 4 whose change has `share` of the weight's own norm, so that it counts whatever was trained."""
    generator = torch.Generator().manual_seed(3)
    down = torch.randn(4, *weight.shape[1:], generator=generator)
    up = torch.randn(weight.shape[0], 4, 1, 1, generator=generator)
    down *= share * weight.norm() / (up.flatten(1) @ down.flatten(1)).norm()
    name = f"diffusion_model.{LORA_LAYER}"
    return {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}


def check_lora(pack):
    import comfy.sd

    plain, seen = sampler(pack)[0], []
    own = _first_weight(pack)
    lora = _lora(own)

    def look(h, options):
        seen.append(relative(_first_weight(pack), own))
        return h

    model = comfy.sd.load_lora_for_models(mini(pack)["model"], None, lora, 1.0, 0.0)[0]
    assert len(model.patches) == 1
    model.set_model_input_block_patch(look)
    with_lora = sampler(pack, model=model)[0]
    assert 0.2 < min(seen) and max(seen) < 0.4, seen  # on the weight at every step
    assert relative(with_lora, plain) > 0.01
    patched, *rest = apply(pack)
    late = comfy.sd.load_lora_for_models(patched, None, lora, 1.0, 0.0)[0]
    assert torch.equal(ksampler(pack, late, *rest), with_lora)
    assert torch.equal(sampler(pack)[0], plain) and torch.equal(_first_weight(pack), own)  # the weights are back


def check_chained_control(pack):
    """Another control before or after ours: both are added, whichever comes first."""
    from comfy.controlnet import ControlBase

    class Other(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            previous = self.previous_controlnet
            if previous is not None:
                previous = previous.get_control(x_noisy, t, cond, batched_number, transformer_options)
            h = torch.full((x_noisy.shape[0], 64, *x_noisy.shape[2:]), 0.3)
            middle = torch.full((x_noisy.shape[0], 128, x_noisy.shape[2] // 4, x_noisy.shape[3] // 4), 0.2)
            blocks = len(mini(pack)["model"].model.diffusion_model.input_blocks)
            taps = [None] * (blocks - 2) + [h, None]  # input block 1, where ours is too
            return self.control_merge({"input": taps, "middle": [middle]}, previous, None)

    def chained(conditioning, first, then):
        then.set_previous_controlnet(first)
        return [[c, {**d, "control": then}] for c, d in conditioning]

    model, positive, negative, latent = apply(pack)
    ours = positive[0][1]["control"]
    alone = ksampler(pack, model, positive, negative, latent)
    other = Other()
    only = ksampler(pack, model, *(chained(c, None, other) for c in (positive, negative)), latent)
    after = ksampler(pack, model, *(chained(c, ours, other) for c in (positive, negative)), latent)
    other = Other()
    before = ksampler(pack, model, *(chained(c, other, ours) for c in (positive, negative)), latent)
    assert relative(after, before) < 1e-5
    assert relative(after, alone) > 1e-3 and relative(after, only) > 1e-3


def check_compiled(pack):
    compiled = pack.core_node("nodes_torch_compile", "TorchCompileModel", mini(pack)["model"], "aot_eager")[0]
    wanted, mask = sampler(pack)
    _, positive, negative, latent = apply(pack)
    # first without a recorder, so that the compiled graph knows no patches when the sampler node brings one
    model = apply(pack, model=compiled)[0]
    assert relative(ksampler(pack, model, positive, negative, latent), wanted) < 1e-4
    made, features = sampler(pack, model=compiled)
    assert relative(made, wanted) < 1e-4
    assert (features.probability - mask.probability).abs().max() < 0.2  # one pass at the end, or the same three steps
    late = pack.core_node("nodes_torch_compile", "TorchCompileModel", apply(pack)[0], "aot_eager")[0]
    assert relative(ksampler(pack, late, positive, negative, latent), wanted) < 1e-4


def check_context_window(pack):
    """The control gives each context window its own frames."""
    model, positive, negative, latent = apply(pack)
    control = positive[0][1]["control"]

    class Window:
        index_list = [1, 2, 3, 4]

    t = torch.full((8,), 2.0)
    with torch.inference_mode():
        whole = control.get_control(torch.zeros(8, 4, 16, 16), t, {}, 1, {"cond_or_uncond": [0]})["input"]
        part = control.get_control(torch.zeros(8, 4, 16, 16), t, {}, 2,
                                   {"cond_or_uncond": [1, 0], "context_window": Window})["input"]  # fmt: skip
    control.release()
    assert [f is None for f in whole] == [f is None for f in part] and any(f is not None for f in whole)
    for a, b in zip(whole, part):
        assert a is None or torch.equal(torch.cat([a[1:5]] * 2), b)


def check_fresh_tensors_every_call(pack):
    """control_merge and the UNet change what they get in place."""
    control = apply(pack)[1][0][1]["control"]
    stored = [f.clone() for f in control.segment.features.injected]
    with torch.inference_mode():
        for _ in range(2):
            for tap in control.get_control(torch.zeros(8, 4, 16, 16), torch.full((8,), 2.0), {}, 1, {})["input"]:
                if tap is not None:
                    tap.mul_(0)
    control.release()
    assert all(torch.equal(a, b) for a, b in zip(stored, control.segment.features.injected))


def check_the_fused_form(pack):
    """Adapters whose SCE runs at every step, on the UNet's own first features."""
    assets, pipeline = pack.core("assets"), pack.core("pipeline")
    path = pack.folder / "fused.safetensors"
    adapters = pack.own("memory").open_adapters(path)
    made, features = sampler(pack, given=encode(pack, adapters=adapters))
    model = pipeline.GenProp.from_files(assets.MINI_BASE, path)
    source, keyframe = clip(pack)
    settings = pipeline.PropagateSettings(sampler=pack.core("sampler").SamplerSettings(steps=STEPS), seed=SEED)
    out = model.propagate(source.movedim(-1, 1), keyframe[0].movedim(-1, 0), settings)
    assert relative(made, out.latents / SCALING) < 1e-3, relative(made, out.latents / SCALING)
    assert relative(made, sampler(pack, strength=0.0)[0]) > 1e-3
    assert relative(features.probability, out.mask) < 1e-3


def check_memory_is_accounted_for(pack):
    from comfy.sampler_helpers import get_additional_models

    _, positive, _, _ = apply(pack)
    models, memory = get_additional_models({"positive": [positive[0][1]]}, torch.float32)
    assert mini(pack)["adapters"].patcher in models
    assert memory >= sum(f.nbytes for f in condition(pack).segments[0].features.injected)


# --- masks and pictures ----------------------------------------------------------------------------------------------
def check_predict_mask(pack):
    samples, features = sampler(pack)
    soft, hard, sure = pack.run("GenPropPredictMask", features=features, threshold=0.4)
    assert soft.shape == hard.shape == (8, 128, 128) and len(sure) == 8
    assert torch.equal(hard, (soft >= 0.4).float()) and 0 <= soft.min() and soft.max() <= 1 and soft.std() > 1e-4
    assert all(s == 0 or 0.4 <= s <= 1 for s in sure)
    other, _, _ = pack.run("GenPropPredictMask", model=mini(pack)["model"], condition=condition(pack),
                           samples={"samples": samples})  # fmt: skip
    difference = (soft - other).abs().mean()  # the last steps against one pass on what they made
    assert 0 < difference < 0.02, difference
    wanted = _one_pass_by_hand(pack, samples)
    made = pack.own("passes").mask_pass
    with torch.inference_mode():
        ours = made(mini(pack)["model"], condition(pack), condition(pack).segments[0], samples)
    assert relative(ours, wanted) < 1e-3


def _one_pass_by_hand(pack, samples):
    """The mask from one UNet call at sigma_min by genprop_core."""
    attach, edm = pack.core("attach").attach, pack.core("edm")
    base = pack.core("base").load_base(pack.core("assets").MINI_BASE)
    part, module = condition(pack).segments[0].condition, mini(pack)["adapters"].patcher.model
    with torch.inference_mode(), attach(base.unet, module.config.num_blocks) as taps:
        features = module.encode(part.source, part.keyframe, part.clip, part.micro, part.task)
        pack.core("unet").denoise(base.unet, samples[None] * SCALING, torch.tensor([edm.SIGMA_MIN]), part, taps, module,
                                  features)  # fmt: skip
        return module.mpd(taps.decoder_features, 8)[0].sigmoid()


def check_keyframe_in_the_middle(pack):
    """From a keyframe inside the clip the edit runs to both ends; the last frame's runs backward only."""
    source, _ = clip(pack)
    middle = encode(pack, keyframe=source[5:6], keyframe_index=5)
    assert [s.frames for s in middle.segments] == [(5, 6, 7), (5, 4, 3, 2, 1, 0)]
    samples, features = sampler(pack, given=middle)
    assert samples.shape == (8, 4, 16, 16) and features.probability.shape == (8, 1, 16, 16)
    assert samples.flatten(1).std(1).min() > 0.1
    back = encode(pack, keyframe=source[7:], keyframe_index=7)
    assert [s.frames for s in back.segments] == [tuple(range(7, -1, -1))]
    turned = encode(pack, source=source.flip(0), keyframe=source[7:])
    assert torch.equal(sampler(pack, given=back)[0], sampler(pack, given=turned)[0].flip(0))
    refuses("keyframe index 0 .* got 5", apply, pack, given=middle)


def check_composite(pack):
    generator = torch.Generator().manual_seed(0)
    source, result = (torch.rand(3, 40, 48, 3, generator=generator) for _ in range(2))
    mask = torch.zeros(1, 40, 48)
    mask[:, 16:24, 16:24] = 1
    kept = source.clone()
    out = pack.run("GenPropComposite", source=source, result=result, mask=mask, grow=2, feather=3)[0]
    assert torch.equal(out[:, 14:26, 14:26], result[:, 14:26, 14:26]) and torch.equal(source, kept)
    far = torch.ones(40, 48, dtype=torch.bool)
    far[11:29, 11:29] = False
    assert torch.equal(out[:, far], source[:, far])
    edge = (out - source)[:, 13, 20] / (result - source)[:, 13, 20]
    assert torch.allclose(edge, torch.tensor(0.75), atol=1e-3)
    small = pack.run("GenPropComposite", source=source, result=result[:, ::2, ::2], mask=mask, grow=0, feather=0)[0]
    assert small.shape == source.shape
    refuses("source has 3 frames, the result 2", pack.run, "GenPropComposite", source=source, result=result[:2],
            mask=mask)  # fmt: skip


def check_mask_hides_from_the_sce(pack):
    source, _ = clip(pack)
    mask = torch.zeros(1, 128, 128)
    mask[:, 32:64, 32:64] = 1
    plain = condition(pack).segments[0].condition.source
    for how in ("black out", "blur"):
        hidden = encode(pack, mask=mask, hide=how).segments[0].condition
        assert not torch.equal(hidden.source, plain)
        pixels = source.movedim(-1, 1)
        covered = pack.own("encoding").hide(pixels, mask[:, None], how)
        assert torch.equal(covered[:, :, 64:], pixels[:, :, 64:]) and not torch.equal(covered, pixels)
        spread = [(f[:, :, 32:64, 32:64]).std((2, 3)).mean() for f in (covered, pixels)]
        assert spread[0] < 0.6 * spread[1]
        assert torch.equal(hidden.image_latents, condition(pack).segments[0].condition.image_latents)
    black = source * (1 - mask)[..., None]
    assert torch.equal(encode(pack, mask=mask).segments[0].condition.source,
                       encode(pack, source=black).segments[0].condition.source)  # fmt: skip


def check_sample_clip(pack):
    source, keyframe, truth, mask, fps = pack.run("GenPropSampleClip")
    assert source.shape == truth.shape == (8, 128, 128, 3) and keyframe.shape == (1, 128, 128, 3)
    assert mask.shape == (8, 128, 128) and set(mask.unique().tolist()) == {0.0, 1.0} and fps == 8
    assert ((source - truth).abs().mean(-1) * mask).sum() / mask.sum() > 0.1
    assert (keyframe[0] - truth[0]).abs().mean() < (keyframe[0] - source[0]).abs().mean()


# --- bad input -------------------------------------------------------------------------------------------------------
def check_refusals(pack):
    source, keyframe = clip(pack)
    refuses(r"at least 2 frames, got 1", encode, pack, source=source[:1])
    refuses(r"aspect ratio \(128x128\), got 64x128", encode, pack, keyframe=keyframe[:, :, :64])
    refuses(r"one keyframe, got 2", encode, pack, keyframe=source[:2])
    refuses(r"index from 0 to 7 .* got 8", encode, pack, keyframe_index=8)
    refuses(r"mask has 3 frames, the video 8", encode, pack, mask=torch.zeros(3, 128, 128))
    refuses(r"multiple of 32 .* got 100", encode, pack, width=100)
    refuses(r"mask has 3 frames, the video 8", pack.run, "GenPropComposite", source=source, result=source,
            mask=torch.zeros(3, 128, 128))  # fmt: skip
    refuses("features, or model, condition and samples; got no condition, no samples", pack.run, "GenPropPredictMask",
            model=mini(pack)["model"])  # fmt: skip


def check_a_condition_for_another_size_is_refused(pack):
    model, positive, negative, latent = apply(pack)
    wrong = {"samples": torch.zeros(8, 4, 16, 24)}
    refuses(r"8 frames at 128x128.* got 8 at 192x128", ksampler, pack, model, positive, negative, wrong)
    few = {"samples": torch.zeros(4, 4, 16, 16)}
    refuses(r"8 frames at 128x128.* got 4 at 128x128", ksampler, pack, model, positive, negative, few)
    refuses(r"latent of 8 frames at 128x128 .* got 4 frames", pack.run, "GenPropPredictMask", condition=condition(pack),
            model=model, samples=few)  # fmt: skip
    assert torch.equal(ksampler(pack, model, positive, negative, latent), sampler(pack)[0])


def check_a_model_that_is_not_svd_is_refused(pack):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
              "channel_mult": [1, 2], "transformer_depth": [0, 0], "transformer_depth_middle": 0, "context_dim": 32,
              "transformer_depth_output": [0] * 4, "use_spatial_transformer": True, "legacy": False,
              "adm_in_channels": None, "dtype": torch.float32, "use_temporal_attention": False,
              "use_temporal_resblock": False}  # fmt: skip
    other = comfy.supported_models.SD15(config).get_model({}, "")
    patcher = comfy.model_patcher.ModelPatcher(other, torch.device("cpu"), torch.device("cpu"))
    for node in ("GenPropSampler", "GenPropApply"):
        refuses("Stable Video Diffusion MODEL, got BaseModel", pack.run, node, model=patcher,
                condition=condition(pack))  # fmt: skip


def check_adapters_that_do_not_fit_are_refused(pack):
    import logging

    adapters = pack.own("memory").open_adapters(pack.folder / "other_width.safetensors")
    refuses(r"widths \[32, 64, 64\], this base has \[64, 64, 128\]", pack.own("memory").check_model,
            mini(pack)["model"], adapters)  # fmt: skip
    refuses(r"CLIP_VISION with 32 numbers .* got 64", encode, pack, adapters=adapters)
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger(pack.name).addHandler(handler)
    try:
        near = pack.own("memory").open_adapters(pack.folder / "other_weights.safetensors")
        pack.own("memory").check_model(mini(pack)["model"], near)  # a fine-tuned base: a warning only
    finally:
        logging.getLogger(pack.name).removeHandler(handler)
    assert any("another base of the same widths" in r.getMessage() for r in records)


def check_files_that_are_no_adapters_are_refused(pack):
    folder = pack.folder / "models" / "genprop"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.safetensors").write_text("not a safetensors file")
    refuses("cannot be read as one", pack.run, "GenPropLoadAdapters", adapters_name="notes.safetensors")
    (folder / "base.safetensors").write_bytes((pack.folder / "base.safetensors").read_bytes())
    refuses("Expected GenProp adapters, but .* format 'genprop-mini-base'", pack.run, "GenPropLoadAdapters",
            adapters_name="base.safetensors")  # fmt: skip
    refuses("there is none", pack.run, "GenPropLoadAdapters", adapters_name="gone.safetensors")
    (folder / "mine.safetensors").write_bytes((pack.folder / "adapters.safetensors").read_bytes())
    options = pack.nodes.NODE_CLASS_MAPPINGS["GenPropLoadAdapters"].define_schema().inputs[0].options
    assert options[0] == "mini (bundled)" and "mine.safetensors" in options
    pack.run("GenPropLoadAdapters", adapters_name="mine.safetensors")


def check_a_tiny_vae_of_another_scale_is_refused(pack):
    vae = mini(pack)["vae"]
    scale = vae.first_stage_model.vae_scale
    try:
        vae.first_stage_model.vae_scale = torch.nn.Parameter(torch.tensor(1.0))
        refuses("tiny VAE with scale 1 instead of 0.18215", encode, pack)
    finally:
        vae.first_stage_model.vae_scale = scale


def check_schemas(pack):
    """Ids are stable for ever; every input and output says what it is."""
    ids = [k for k in pack.nodes.NODE_CLASS_MAPPINGS if k.startswith("GenProp")]
    assert ids == ["GenPropLoadAdapters", "GenPropLoadMini", "GenPropSampleClip", "GenPropEncodeCondition",
                   "GenPropSampler", "GenPropApply", "GenPropPredictMask", "GenPropComposite", "GenPropKeyframes",
                   "GenPropPropagate"]  # fmt: skip
    for name in ids:
        schema = pack.nodes.NODE_CLASS_MAPPINGS[name].define_schema()
        assert schema.category == "GenProp" and schema.description
        assert all(i.tooltip for i in schema.inputs) and all(o.tooltip for o in schema.outputs), name


assert sys.version_info >= (3, 10)
