"""What the nodes show of masks and pictures inside ComfyUI."""

import torch
from comfy_shared import SCALING, apply, clip, condition, encode, mini, refuses, relative, sampler


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
