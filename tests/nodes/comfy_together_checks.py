"""GenProp's control inside ComfyUI: beside LoRAs, other controls and compilation; in both forms."""

import comfy_shared
import torch
from comfy_shared import SCALING, SEED, STEPS, alone, apply, clip, condition, encode, ksampler, mini, relative, sampler

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


def check_a_clone_keeps_the_control(pack):
    """Nodes behind GenProp Apply clone its MODEL: what the guidance asks has to be the control that core runs."""
    patched, positive, *rest = apply(pack, end_percent=0.5)
    clone = patched.clone().clone()
    control = positive[0][1]["control"]
    (function,) = clone.model_options["sampler_post_cfg_function"]
    assert function.__self__ is control
    plain = ksampler(pack, patched, positive, *rest, low=None)
    assert torch.equal(ksampler(pack, clone, positive, *rest, low=None), plain)


def check_several_gpus_are_refused(pack):
    control = apply(pack)[1][0][1]["control"]
    comfy_shared.refuses("MODEL on one GPU .* Take the node", control.deepclone_multigpu, "cuda:1")


def check_fresh_tensors_every_call(pack):
    """control_merge and the UNet change what they get in place."""
    control = apply(pack)[1][0][1]["control"]
    stored, options = [f.clone() for f in control.segment.features.injected], {"cond_or_uncond": [0]}
    noisy, picture = torch.zeros(8, 4, 16, 16), {"c_concat": torch.ones(8, 4, 16, 16)}
    with torch.inference_mode():
        for _ in range(2):
            for tap in control.get_control(noisy, torch.full((8,), 2.0), picture, 1, options)["input"]:
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
    own = pack.core("sampler").SamplerSettings(STEPS, sigma_min=None)
    settings = pipeline.PropagateSettings(sampler=own, seed=SEED, clip=alone(pack))
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
