"""The clean plate: what is in sight in another frame is put behind the removed thing, and nothing else is touched."""

import re

import pytest
import torch
from panning_scene import AT_THE_BORDER, FRAMES, GUESS, PAN, SIZE, THING, Guessing, edit, inside, scene

from genprop_core.clean_plate import lay
from genprop_core.frames import as_bytes, as_float
from genprop_core.long_clip import ClipSettings, propagate_clip

SHOTS = [(0, FRAMES)]
PLAIN = ClipSettings(window=8, overlap=2, find_shots=False, colour="off", behind=False)
PLATE = ClipSettings(window=8, overlap=2, find_shots=False, colour="off", behind=False, clean_plate=True)


class Keeping(Guessing):
    def run(self, source, keyframe, **others):
        return source, super().run(source, keyframe, **others)[1]


def masks(thing=THING):
    return as_bytes(edit(0, thing).float()).expand(FRAMES, 1, -1, -1).contiguous()


def guessed(source, thing=THING):
    """Everything as filmed, but green where the thing is."""
    out = source.clone()
    inside(out, thing)[:] = GUESS
    return as_bytes(out)


def laid(source, keyframes, thing=THING, shots=SHOTS, made=None, **others):
    """(the clip [T,3,H,W] in [0,1], what of it is known [T])."""
    out = guessed(source, thing) if made is None else as_bytes(made)
    keyframes = {k: as_bytes(f) for k, f in keyframes.items()}
    known = lay(out, masks(thing), as_bytes(source), keyframes, shots, **others).known
    return as_float(out), known


def test_what_was_seen_before_or_is_in_the_keyframe_is_put_in():
    source, target = scene()
    out, known = laid(source, {0: target[0]})
    assert inside(out - target).abs().max() < 4 / 255 and known.min() > 0.95
    assert inside(as_float(guessed(source)) - target).abs().min(dim=0).values.max() > 60 / 255, "or this showed nothing"
    assert torch.equal(out[:, :, :28], source[:, :, :28]), "far from the thing everything is as it was made"


def test_what_is_seen_only_later_is_put_in_too():
    source, target = scene(thing=AT_THE_BORDER)
    out, known = laid(source, {0: target[0]}, AT_THE_BORDER)
    came_in = slice(117, 126)  # at frame 4 this had never been in the picture, and it leaves the thing before the end
    error = (out - target)[4, :, 44:76, came_in].abs()
    assert error.max() < 4 / 255
    assert known[4] > 0.9 > known[-1], "at the end there is nothing later to see it in"
    last = (out - as_float(guessed(source, AT_THE_BORDER)))[-1, :, 44:76, 122:]
    assert last.abs().max() == 0, "there it stays as it was made"


@pytest.mark.parametrize("backwards", [False, True])
def test_a_keyframe_says_nothing_of_what_is_beyond_its_border(backwards):
    source, target = (clip.flip(0) if backwards else clip for clip in scene(thing=AT_THE_BORDER))
    at, later = (3, 1) if backwards else (10, 12)
    out, _ = laid(source, {at: target[at]}, AT_THE_BORDER)
    assert (inside(out - target, AT_THE_BORDER)[at]).abs().max() < 4 / 255
    assert (out - target)[later, :, 44:76, 114:118].abs().max() < 4 / 255, "this the keyframe shows"
    there = (out - as_float(guessed(source, AT_THE_BORDER)))[later, :, 44:76, SIZE - 2 * PAN :]
    assert there.abs().max() == 0, "this came into the picture after it"


@pytest.mark.parametrize("backwards", [False, True])
def test_the_film_comes_before_what_a_keyframe_has_there(backwards):
    source, target = (clip.flip(0) if backwards else clip for clip in scene())
    at = FRAMES - 1 if backwards else 0
    painted = target[at].clone()
    inside(painted)[:] = GUESS
    out, _ = laid(source, {at: painted})
    error = (out - target)[at, :, 44:76].abs()
    assert error[..., 48:66].max() < 4 / 255, "this part is seen later"
    assert (out[at, :, 44:76, 80:82] - GUESS).abs().max() < 3 / 255, "this never is"


def test_runs_forwards_and_backwards_know_the_same():
    source, target = scene()
    there = laid(source, {0: target[0]})
    back = laid(source.flip(0), {FRAMES - 1: target[0]})
    assert (there[0] - back[0].flip(0)).abs().max() < 3 / 255 and torch.allclose(there[1], back[1].flip(0), atol=0.02)


def test_what_the_model_kept_of_the_film_is_not_taken_away():
    """Something passes within the mask: nothing of it is outside, so that the backdrop cannot know."""
    source, target = scene()
    for t in range(1, FRAMES):
        for clip in (source, target):
            clip[t, :, 55:65, 50 + t : 62 + t] = 0.95
    out, _ = laid(source, {0: target[0]}, made=target)
    for t in range(1, FRAMES):
        passing = out[t, :, 57:63, 53 + t : 59 + t]
        assert (passing - 0.95).abs().max() < 4 / 255


def test_within_the_users_own_mask_nothing_of_the_film_stays():
    source, target = scene()
    out, _ = laid(source, {0: target[0]}, made=source)
    assert inside(out - source).abs().max() == 0, "as the model kept everything"
    out, known = laid(source, {0: target[0]}, made=source, sure=True)
    assert inside(out - target).abs().max() < 4 / 255 and known.min() > 0.95
    result = propagate_clip(Keeping(True), as_bytes(source), {0: as_bytes(target[0])}, PLATE, masks())
    assert inside(as_float(result.frames) - target).abs().max() < 4 / 255


def test_a_mask_that_is_too_large_costs_nothing():
    """Where the film shows the backdrop there is nothing before it, whatever was made there."""
    source, target = scene()
    large = tuple(slice(part.start - 8, part.stop + 8) for part in THING)
    made = source.clone()
    inside(made, large)[:] = inside(source, large).flip(1) * 0.5  # as far from the film as from what is behind
    out = as_bytes(made)
    lay(out, masks(large), as_bytes(source), {0: as_bytes(target[0])}, SHOTS)
    rim = edit(8) & ~edit(4)
    assert (as_float(out) - target)[:, :, rim].abs().max() < 6 / 255


def test_the_rim_of_the_users_own_mask_is_not_left_to_the_model():
    """What a composite fades over lies beyond the mask."""
    source, target = scene()
    settings = ClipSettings(**vars(PLATE) | {"composite": True, "grow": 4, "feather": 4})

    class Dark(Keeping):
        def run(self, source, keyframe, **others):
            return source * 0.2, super().run(source, keyframe, **others)[1]

    result = propagate_clip(Dark(True), as_bytes(source), {0: as_bytes(target[0])}, settings, masks())
    assert (as_float(result.frames) - target).abs().max() < 6 / 255


def test_a_keyframe_that_differs_everywhere_changes_nothing_away_from_the_mask():
    source, target = scene()
    out, _ = laid(source, {0: (target[0] + 0.06).clamp(0, 1)})
    assert torch.equal(out[:, :, :28], as_float(guessed(source))[:, :, :28])
    error = inside(out[0] - target[0])
    assert error[..., :18].abs().max() < 4 / 255, "seen in the film later"
    assert (error[..., 36:] - 0.06).abs().max() < 4 / 255, "never seen, so it is the user's own"


def test_what_an_image_model_leaves_of_its_own_is_no_edit():
    """A shift of the colours and a grain that is not the film's, all over the picture."""
    source, target = scene()
    grain = 0.05 * (torch.rand(target[0].shape, generator=torch.Generator().manual_seed(0)) - 0.5)
    painted = as_float(as_bytes((target[0] + 0.03 + grain).clamp(0, 1)))
    out, known = laid(source, {0: painted})
    plain, _ = laid(source, {0: target[0]})
    assert known.min() > 0.9 and torch.equal(out[:, :, :28], as_float(guessed(source))[:, :, :28])
    assert inside(out - plain).abs().mean() < 0.04, "what is seen in the film is not the keyframe's"


def test_nothing_crosses_from_one_shot_to_the_next():
    source, target = scene()
    shots = [(0, 7), (7, FRAMES)]
    out, known = laid(source, {7: target[7]}, shots=shots)
    assert torch.equal(out[:7], as_float(guessed(source))[:7]) and known[:7].max() == 0, "a shot without a keyframe"
    assert inside(out - target)[7:].abs().max() < 4 / 255
    alone, _ = laid(source[7:].repeat(2, 1, 1, 1), {0: target[7]}, shots=[(0, 7), (7, FRAMES)])
    assert torch.equal(alone[:7], out[7:])


def test_what_is_given_stays_as_it_is():
    source, target = scene()
    given = as_bytes(source), masks(), as_bytes(target[0])
    before = [g.clone() for g in given]
    out = guessed(source)
    known = lay(out, given[1], given[0], {0: given[2]}, SHOTS).known
    assert all(torch.equal(*pair) for pair in zip(given, before))
    assert out.dtype == torch.uint8 and known.dtype == torch.float32 and 0 <= known.min() <= known.max() <= 1
    other = guessed(source)
    lay(other, given[1], source, {0: target[0]}, SHOTS)
    assert torch.equal(out, other), "float frames give what bytes do"


def test_a_keyframe_that_the_film_overrules_is_told():
    source, target = scene()
    painted = target[0].clone()
    inside(painted)[:] = GUESS
    for keyframe, told in ((painted, [0]), (target[0], [])):
        result = propagate_clip(Guessing(True), as_bytes(source), {0: as_bytes(keyframe)}, PLATE)
        lines = [n for n in result.notes() if re.match("frame 0: .* the film shows .* choose the task edit", n)]
        assert result.overruled == told and len(lines) == len(told)


@pytest.mark.parametrize("settings, removes", [(PLAIN, True), (PLATE, False)])
def test_it_is_left_out_where_it_is_not_asked_for_or_nothing_is_removed(settings, removes):
    source, target = scene()
    result = propagate_clip(Guessing(removes), as_bytes(source), {0: as_bytes(target[0])}, settings)
    assert torch.equal(result.frames, result.generated)


@pytest.mark.parametrize("composite", [False, True])
def test_a_finished_clip_has_it_and_what_the_model_made_is_kept_apart(composite):
    source, target = (as_bytes(clip) for clip in scene())
    settings = ClipSettings(**vars(PLATE) | {"composite": composite})
    plain = propagate_clip(Guessing(True), source, {0: target[0]}, PLAIN)
    result = propagate_clip(Guessing(True), source, {0: target[0]}, settings)
    assert inside(as_float(result.frames) - as_float(target)).abs().max() < 4 / 255
    assert torch.equal(result.generated, plain.generated)
    assert inside(as_float(result.generated) - GUESS).abs().max() < 2 / 255
    assert (result.confidence >= plain.confidence).all() and result.confidence.min() > plain.confidence.min()
    if composite:
        assert torch.equal(result.frames[..., :30, :], source[..., :30, :])


def test_it_is_laid_at_the_size_of_the_source():
    source, target = (torch.nn.functional.interpolate(clip, scale_factor=2, mode="bicubic") for clip in scene())
    source, target = as_bytes(source.clamp(0, 1)), as_bytes(target.clamp(0, 1))
    settings = ClipSettings(**vars(PLATE) | {"size": (SIZE, SIZE)})
    result = propagate_clip(Guessing(True), source, {0: target[0]}, settings)
    assert result.frames.shape[-1] == 2 * SIZE and result.generated.shape[-1] == SIZE
    error = (as_float(result.frames) - as_float(target))[:, :, 84:156, 92:164].abs()
    assert error.max() < 4 / 255


def test_it_works_in_a_region_that_was_cut_out():
    far = tuple(slice(part.start + place, part.stop + place) for part, place in zip(THING, (64, 128)))
    source, target = scene(thing=far, height=2 * SIZE, width=3 * SIZE)

    class InPart(Guessing):
        def run(self, source, keyframe, **others):
            super().run(source, keyframe, **others)
            red = ((source[:, :1] > 0.8) & (source[:, 1:2] < 0.2)).float()
            return torch.lerp(source, GUESS.expand_as(source), red), torch.nn.functional.avg_pool2d(red, 8)

    settings = ClipSettings(**vars(PLATE) | {"crop": "auto", "size": (SIZE, SIZE)})
    result = propagate_clip(InPart(True), as_bytes(source), {0: as_bytes(target[0])}, settings)
    assert result.region is not None
    error = inside(as_float(result.frames) - target, far)[:, :, 4:36, 4:36].abs()
    assert error.mean() < 3 / 255 and error.max() < 20 / 255


def test_a_smaller_keyframe_costs_nothing_of_what_is_known():
    """The waves have a grain that it cannot show."""
    source, target = scene()
    grain = 0.08 * (torch.rand(1, *source.shape[1:], generator=torch.Generator().manual_seed(0)) - 0.5)
    whole = torch.cat([grain, grain], -1)
    grain = torch.stack([whole[0, :, :, 3 * t : 3 * t + SIZE] for t in range(FRAMES)])  # goes as the camera pans
    target = as_float(as_bytes((target + grain).clamp(0, 1)))
    inside(grain)[:] = 0
    source = as_float(as_bytes((source + grain).clamp(0, 1)))
    small = torch.nn.functional.interpolate(target[:1], (SIZE // 2, SIZE // 2), mode="area")[0]
    out, known = laid(source, {0: small})
    assert known.min() > 0.9 and inside(out - target).abs().mean() < 3 / 255
