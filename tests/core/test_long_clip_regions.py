"""Where a long clip changes: masks, compositing, crops and doubtful frames; and what does not fit is refused."""

import pytest
import torch
from stand_in import SIZE, StandIn, clip, edited, red_mask

from genprop_core.compositing import alpha, composite
from genprop_core.errors import GenPropError
from genprop_core.long_clip import ClipSettings, propagate_clip


def test_compositing_keeps_every_pixel_outside():
    frames = clip(20)
    settings = ClipSettings(composite=True, grow=2, feather=3)
    result = propagate_clip(StandIn(drift=0.02), frames, {0: edited(frames)}, settings)
    outside = (alpha(result.mask, 2, 3) == 0).expand(-1, 3, -1, -1)
    assert 0.3 < outside.float().mean() < 0.99 and torch.equal(result.frames[outside], frames[outside])
    assert not torch.equal(result.frames, frames)


def test_a_mask_of_the_users_replaces_or_joins():
    frames = clip(10, moves=0)
    corner = torch.zeros(1, SIZE, SIZE)
    corner[:, 48:, 48:] = 1
    both, own = (
        propagate_clip(StandIn(), frames, {0: edited(frames)}, ClipSettings(mask_mode=mode), corner).mask
        for mode in ("join", "replace")
    )
    assert own[:, :, 20, 12].max() == 0 and both[:, :, 20, 12].min() > 200
    assert own[:, :, 60, 60].min() == both[:, :, 60, 60].min() == 255


@pytest.mark.parametrize("how", ["black", "blur"])
def test_the_second_pass_hides_the_region(how):
    frames, model = clip(8, moves=0), StandIn(sure=(1.0,) * 64)
    propagate_clip(model, frames, {0: edited(frames)}, ClipSettings(second_pass=how))
    first, second = model.calls
    assert torch.equal(first["noise"], second["noise"]) and torch.equal(first["keyframe"], second["keyframe"])
    assert red_mask(first["source"]).sum() == 8 * 256 and red_mask(second["source"]).sum() < 8 * 64
    assert torch.equal(second["source"][..., 48:, 48:], first["source"][..., 48:, 48:])


def test_a_small_edit_is_worked_on_up_close():
    frames = clip(10, 256, 256, moves=0)
    model = StandIn()
    settings = ClipSettings(crop="auto", composite=True, size=(128, 128))
    result = propagate_clip(model, frames, {0: edited(frames)}, settings)
    top, left = result.region.corners[0]
    height, width = result.region.size
    assert height < 160 and top <= 16 and left <= 8 and result.generated.shape[-2:] == (128, 128)
    assert torch.equal(result.frames[..., top + height :, :], frames[..., top + height :, :])
    assert (result.frames[:, :, 24, 16].float() - torch.tensor([0, 0, 255.0])).abs().max() < 40
    assert result.mask[:, :, 24, 16].min() > 128 and result.mask[..., top + height :, :].max() == 0
    own = torch.zeros(1, 128, 128)  # half the frame's size
    own[:, 4:18, 0:16] = 1
    told, given = propagate_clip(model, frames, {0: edited(frames)}, settings, own), 2 * len(result.windows)
    assert len(model.calls) == given + len(told.windows)  # no first pass: the mask says where the edit is
    assert told.region is not None and told.mask[:, :, 24, 16].min() == 255 and told.mask[..., 60:, :].max() == 0
    large = propagate_clip(StandIn(), clip(10), {0: edited(clip(10), colour=(1, 1, 1))}, ClipSettings(crop="auto"))
    assert large.frames.shape == (10, 3, SIZE, SIZE)


def test_any_size_comes_back_at_its_own():
    frames = clip(9, 75, 101)
    result = propagate_clip(StandIn(), frames, {0: edited(frames)}, ClipSettings(composite=True))
    assert result.frames.shape == frames.shape and result.generated.shape[-2:] == (96, 128)
    outside = (alpha(result.mask) == 0).expand(-1, 3, -1, -1)
    assert torch.equal(result.frames[outside], frames[outside])


def test_the_mask_follows_the_picture_where_asked():
    frames = clip(9, 100, 96, moves=1)
    true = red_mask(frames.float() / 255)[:, 0] > 0.5

    def overlap(refine):
        result = propagate_clip(StandIn(), frames, {0: edited(frames)}, ClipSettings(refine=refine))
        mask = result.mask[:, 0] > 127
        return (mask & true).sum() / (mask | true).sum()

    assert overlap(True) > 0.9 > overlap(False) + 0.02


def test_doubtful_frames_are_listed():
    frames = clip(8, moves=0)
    result = propagate_clip(StandIn(sure=[0.9, 0.9, 0.9, 0.3, 0.3, 0.3, 0.9, 0.9]), frames, {0: edited(frames)})
    assert result.confidence[[0, 1, 2, 6, 7]].tolist() == pytest.approx([0.9] * 5, abs=0.02)
    assert result.confidence[3:6].max() < 0.5  # no mask, and yet something changed
    assert result.doubtful == [(3, 5)] and result.notes() == ["frames 3-5: re-edit here"]
    drifting = propagate_clip(StandIn(drift=0.02), frames, {0: edited(frames)})
    assert drifting.doubtful and drifting.doubtful[-1][1] == 7 and drifting.confidence[0] > 0.85
    assert drifting.notes() == [f"frames {drifting.doubtful[0][0]}-7: re-edit here"]


def test_a_window_is_trusted_as_far_as_the_frame_it_starts_from():
    frames = clip(8 + 6 + 6, moves=0)  # three windows of 8 frames; of the 2 shared, the second is a blend
    made = propagate_clip(StandIn(sure=[0.9] * 8), frames, {0: edited(frames)})
    assert made.confidence[:7].tolist() == pytest.approx([0.9] * 7, abs=0.02)
    assert made.confidence[8:13].tolist() == pytest.approx([0.9**2] * 5, abs=0.02)
    assert made.confidence[14:].tolist() == pytest.approx([0.9**3] * 6, abs=0.02)
    again = propagate_clip(StandIn(sure=[0.9] * 8), frames, {0: edited(frames), 19: edited(frames, 19)})
    assert again.confidence[-1] == pytest.approx(0.9, abs=0.02)  # a keyframe starts anew


def test_a_model_without_a_mask_still_carries_on():
    frames = clip(20)
    result = propagate_clip(StandIn(mask=False), frames, {0: edited(frames)}, ClipSettings(composite=True))
    assert result.mask is None and result.frames.shape == frames.shape


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"keyframes": {20: "edit"}}, "indices from 0 to 19 for this clip, got 20"),
        ({"keyframes": {-1: "edit"}}, "indices from 0 to 19 for this clip, got -1"),
        ({"keyframes": [(3, "edit"), (3, "edit")]}, "one keyframe for frame 3, got two"),
        ({"keyframes": {}}, "at least one keyframe, got none"),
        ({"keyframes": {0: "edit", 5: "small"}}, "keyframes of one size, got 64x64 for frame 0, 32x32 for frame 5"),
        ({"keyframes": {0: "wide"}}, r"aspect ratio \(64x64\), got 128x64"),
        ({"mask": torch.zeros(7, SIZE, SIZE)}, "The mask has 7 frames, the video 20. Give one mask, or 20"),
        ({"mask": torch.zeros(20, 3, SIZE, SIZE)}, "mask .* got .*20, 3"),
        ({"mask": torch.ones(1, SIZE, 2 * SIZE)}, r"mask of the source's aspect ratio \(64x64\), got 128x64"),
        ({"mask": torch.zeros(20, SIZE, SIZE)}, r"where the edit is \(white\), but it is empty"),
        ({"frames": torch.full((20, 3, SIZE, SIZE), torch.nan)}, r"frame 0 of the clip has some that are none \(NaN"),
        ({"keyframes": {0: "broken"}}, r"the keyframe of frame 0 has some that are none \(NaN"),
        ({"settings": ClipSettings(window=1)}, "at least 2 frames, got 1"),
        ({"settings": ClipSettings(overlap=8)}, "overlap from 1 to 7"),
        ({"settings": ClipSettings(mask_mode="add")}, "replace, join as mask_mode, got 'add'"),
        ({"settings": ClipSettings(second_pass="white")}, "off, black, blur as second_pass, got 'white'"),
        ({"settings": ClipSettings(size=(60, 64))}, "multiples of 32 for this base, got 64x60"),
        ({"settings": ClipSettings(grow=-1)}, "grow and feather of at least 0"),
        ({"frames": torch.zeros(1, 3, SIZE, SIZE)}, "at least 2 frames"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_sampling(changes, wanted):
    frames = clip()
    pictures = {"edit": edited(frames), "small": torch.rand(3, 32, 32), "wide": torch.rand(3, 64, 128),
                "broken": torch.full((3, 64, 64), torch.inf)}  # fmt: skip
    given = {"frames": frames, "keyframes": {0: "edit"}, "settings": None, "mask": None, **changes}
    pairs = given["keyframes"].items() if isinstance(given["keyframes"], dict) else given["keyframes"]
    keyframes, model = [(index, pictures[name]) for index, name in pairs], StandIn()
    with pytest.raises(GenPropError, match=wanted) as error:
        propagate_clip(model, given["frames"], keyframes, given["settings"], given["mask"])
    assert model.calls == [] and "\n" not in str(error.value)


def test_the_composite_is_the_one_formula():
    frames = clip(8)
    plain, kept = (
        propagate_clip(StandIn(drift=0.01), frames, {0: edited(frames)}, ClipSettings(composite=on))
        for on in (False, True)
    )
    assert torch.equal(composite(frames, plain.frames, plain.mask), kept.frames)


def test_a_clip_of_floats_may_leave_0_to_1():
    frames, settings = clip(20).float() / 255, ClipSettings(find_shots=False)
    wild = frames.clone()
    wild[:, :, :4, :4], frames[:, :, :4, :4] = 1.5, 1.0
    made = [propagate_clip(StandIn(), f, {0: edited(frames * 255)}, settings) for f in (wild, frames)]
    assert torch.equal(made[0].frames, made[1].frames) and torch.equal(made[0].confidence, made[1].confidence)


@pytest.mark.parametrize("crop", ["off", "auto"])
def test_a_smaller_keyframe_does_as_well(crop):
    """It lacks what is fine in the source: that is no edit."""
    frames = clip(12, 192, 192, moves=0)
    stripes = torch.where((torch.arange(192) + 1) % 4 < 2, 60, 180).to(torch.uint8)
    red = red_mask(frames.float() / 255).bool()
    frames = torch.where(red, frames, stripes.expand_as(frames))
    settings = ClipSettings(find_shots=False, crop=crop, size=(96, 96))
    small = torch.nn.functional.interpolate(edited(frames)[None], (96, 96), mode="area")[0]
    results = [propagate_clip(StandIn(), frames, {0: k}, settings) for k in (edited(frames), small)]
    assert [r.region is None for r in results] == [crop == "off"] * 2
    if crop == "auto":
        assert abs(results[0].region.size[0] - results[1].region.size[0]) <= 8
