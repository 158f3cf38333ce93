"""Inside ComfyUI the nodes make what the headless pipeline makes, and change nothing else."""
import functools
import re

import torch
from comfy_shared import (
    SCALING,
    SEED,
    STEPS,
    alone,
    apply,
    clip,
    encode,
    ksampler,
    mini,
    reference,
    relative,
    sampler,
    stripped,
)
from comfy_worker import snapshot


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
    lowest = pack.core("base").MINI_SAMPLED["sigma_min"]
    torch.testing.assert_close(sigmas, pack.core("edm").karras_sigmas(STEPS, lowest))
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
    settings = pack.core("sampler").SamplerSettings(STEPS, 1.0, 1.0, sigma_min=None)
    out = model.propagate(source.movedim(-1, 1), keyframe[0].movedim(-1, 0),
                          pipeline.PropagateSettings(sampler=settings, seed=SEED, clip=alone(pack)))  # fmt: skip
    made, features = sampler(pack, min_guidance=1.0, max_guidance=1.0)
    assert relative(made, out.latents / SCALING) < 1e-3 and relative(features.probability, out.mask) < 1e-3
    falling = sampler(pack, min_guidance=3.0, max_guidance=1.0)[0]  # core's shortcut for 1.0 must not apply
    assert relative(falling[0], sampler(pack, min_guidance=3.0, max_guidance=3.0)[0][0]) < 0.2


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
    """Numbers and strings that compare equal are no change."""
    plain = (int, float, str, bool, type(None))
    return [k for k in changed if not (isinstance(before[k], plain) and type(after[k]) is type(before[k])
                                       and after[k] == before[k])]  # fmt: skip


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
