"""GenProp beside what changes how ComfyUI calls the model: context windows, other guiders, guidance of attention."""
import importlib

import torch
from comfy_shared import SEED, apply, condition, ksampler, mini, relative, sampler, stripped


def call(control, index, branches, window=None, shift=0):
    """What the control adds, [T,...] a layer, to a call with these branches; 1 is the empty one."""
    frames = len(index)
    picture = torch.cat([torch.full((frames, 4, 16, 16), float(branch != 1)) for branch in branches])
    options = {"cond_or_uncond": [b + shift for b in branches]}
    if window is not None:
        options["context_window"] = window
    count = frames * len(branches)
    with torch.inference_mode():
        made = control.get_control(torch.zeros(count, 4, 16, 16), torch.full((count,), 2.0), {"c_concat": picture},
                                   len(branches), options)["input"]  # fmt: skip
    control.release()
    return made


def check_a_context_window_gets_its_frames(pack):
    """Its own, after the frame that core's causal fix puts before them."""
    control = apply(pack)[1][0][1]["control"]

    class Window:
        index_list = [2, 3, 4]

    whole = call(control, range(8), [0])
    for anchor, index in ((None, [2, 3, 4]), (1, [1, 2, 3, 4]), (-1, [2, 3, 4])):
        window = Window()
        if anchor is not None:
            window.causal_anchor_index = anchor
        part = call(control, index, [1, 0], window)
        assert [f is None for f in whole] == [f is None for f in part] and any(f is not None for f in whole)
        *deeper, first = zip(whole, part)  # core pops from the end
        for a, b in deeper:
            assert a is None or torch.equal(torch.cat([a[index]] * 2), b)
        a, b = first  # the empty branch, which has no keyframe, is not shown the source
        assert a.any() and torch.equal(torch.cat([torch.zeros_like(a[index]), a[index]]), b)


def check_the_empty_branch_is_known_by_its_picture(pack):
    """Not by its number, which other guiders give to others."""
    control = apply(pack)[1][0][1]["control"]
    first = call(control, range(8), [0, 1])[-1]
    assert first[:8].any() and not first[8:].any()
    assert torch.equal(call(control, range(8), [0, 1], shift=1)[-1], first)
    assert torch.equal(call(control, range(8), [1, 0], shift=-1)[-1], torch.cat([first[8:], first[:8]]))


def check_context_windows(pack):
    """Core's node, with its defaults: also with the causal fix, by which core alone cannot run SVD."""
    model, positive, negative, latent = apply(pack)
    try:
        plain = _windowed(pack, mini(pack)["model"], causal_window_fix=False)
        ksampler(pack, plain, stripped(positive), stripped(negative), latent)
    except RuntimeError as error:
        assert pack.checkout.name.endswith("-0.3.64") and "size of tensor a" in str(error), error
        return  # core's node of then does not know SVD at all
    made = [ksampler(pack, _windowed(pack, model, **k), positive, negative, latent)
            for k in ({}, {"causal_window_fix": False})]  # fmt: skip
    for windowed in made:
        assert windowed.shape == (8, 4, 16, 16) and windowed.isfinite().all()
    assert 1e-4 < relative(*made) < 0.3
    one = ksampler(pack, _windowed(pack, model, context_length=8), positive, negative, latent)
    assert relative(one, ksampler(pack, model, positive, negative, latent)) < 1e-5  # a window of the whole clip
    windowed, features = sampler(pack, _windowed(pack, mini(pack)["model"]))
    assert relative(windowed, made[0]) < 1e-5
    probability = features.probability
    assert probability.shape == (8, 1, 16, 16) and probability.isfinite().all() and probability.std() > 0


def _windowed(pack, model, **changes):
    node = importlib.import_module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    inputs = [item for item in node.define_schema().inputs if item.id != "model"]
    given = {item.id: item.options[0] if item.default is None else item.default for item in inputs}
    changes = {"context_length": 4, "context_overlap": 2, **changes}
    return node.execute(model, **given | {k: v for k, v in changes.items() if k in given}).args[0]


def guided(pack, guider, model, latent, steps=2):
    """Latents by one of ComfyUI's guiders."""
    import comfy.sample
    import comfy.samplers

    sigmas = comfy.samplers.KSampler(model, steps, model.load_device, "euler", "karras", 1.0).sigmas
    with torch.inference_mode():
        noise = comfy.sample.prepare_noise(latent["samples"], SEED)
        euler = comfy.samplers.sampler_object("euler")
        return guider.sample(noise, latent["samples"], euler, sigmas, disable_pbar=True, seed=SEED)


def check_other_guiders(pack):
    """With the same positive twice, and with the same model twice, they are the plain guider."""
    model, positive, negative, latent = apply(pack)
    module = "nodes_custom_sampler"
    plain = pack.core_node(module, "CFGGuider", model, positive, negative, 3.0)[0]
    wanted = guided(pack, plain, model, latent)
    others = [pack.core_node(module, "DualCFGGuider", model, positive, positive, negative, 1.5, 3.0, "regular")[0]]
    if hasattr(importlib.import_module(f"comfy_extras.{module}"), "DualModelGuider"):  # not in ComfyUI 0.3
        others += pack.core_node(module, "DualModelGuider", model=model, positive=positive, cfg=3.0,
                                 model_negative=model, negative=negative)  # fmt: skip
    for guider in others:
        made = guided(pack, guider, model, latent)
        assert relative(made, wanted) < 1e-5, (type(guider).__name__, relative(made, wanted))


def check_the_mask_is_read_from_the_guidance_alone(pack):
    """Perturbed-Attention Guidance runs the conditional branch once more at every step, with its attention changed."""
    model = mini(pack)["model"]
    perturbed = pack.core_node("nodes_pag", "PerturbedAttentionGuidance", model, 1e-6)[0]
    samples, features = sampler(pack, model)
    made, read = sampler(pack, perturbed)
    assert relative(made, samples) < 1e-4
    assert relative(read.probability, features.probability) < 1e-4
    later = [pack.run("GenPropPredictMask", model=m, condition=condition(pack), samples={"samples": samples})[0]
             for m in (model, perturbed)]  # fmt: skip
    assert relative(*later) < 1e-5
