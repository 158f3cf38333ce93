"""What is behind a removed thing: kept where it was seen, moved with the camera, and given up where something moves."""

import cv2
import numpy as np
import pytest
import torch
from panning_scene import FRAMES, SIZE, Guessing, edit, inside, scene
from panning_scene import GUESS as MADE

from genprop_core.behind import Behind
from genprop_core.frames import as_bytes
from genprop_core.long_clip import ClipSettings, propagate_clip


def followed(source, keyframe, frames=FRAMES, where=None):
    where = edit() if where is None else where
    behind = Behind(source[0], where)
    behind.take(keyframe, where)
    for t in range(1, frames):
        behind.advance(source[t], where)
    return behind


GUESS = torch.full((3, SIZE, SIZE), 0.1)


def test_what_was_seen_before_is_put_behind_the_thing():
    source, target = scene()
    before = source.clone(), target.clone(), GUESS.clone()
    filled = followed(source, target[0]).filled(GUESS)
    assert inside(filled - target[-1]).abs().max() < 3 / 255
    assert inside(GUESS - target[-1]).abs().max() > 60 / 255, "or this showed nothing"
    assert torch.equal(filled[:, :20], GUESS[:, :20]), "the rest of the frame is left alone"
    assert all(torch.equal(*pair) for pair in zip(before, (source, target, GUESS)))


def test_what_only_the_keyframe_showed_stays_sharp_and_known_for_any_time():
    """The camera trembles, the thing stays. Moved on from frame to frame, its place would blur and be forgotten."""
    random, count = np.random.default_rng(0), 150
    wide = cv2.GaussianBlur(random.random((SIZE + 32, SIZE + 32, 3), np.float32), (0, 0), 3)
    wide = 0.5 + 0.12 * (wide - wide.mean()) / wide.std()
    places = 16 + np.clip(random.normal(0, 0.4, (count, 2)).cumsum(0), -8, 8)
    moved = [cv2.warpAffine(wide, np.float32([[1, 0, -x], [0, 1, -y]]), (SIZE, SIZE), flags=cv2.INTER_CUBIC)
             for x, y in places]  # fmt: skip
    target, hole = torch.from_numpy(np.stack(moved)).movedim(-1, 1).clamp(0, 1), edit()
    source = torch.where(edit(0), 0.9, target)
    behind = followed(source, target[0], count, hole)
    known = torch.from_numpy(behind.known > 0.9) & hole
    assert known.sum() > 0.7 * hole.sum()
    off = (torch.from_numpy(behind.picture / 255).movedim(-1, 0) - target[-1]).abs().mean(0)
    assert off[known].mean() < 1 / 255


def test_bytes_are_followed_as_floats_are_and_the_frames_type_is_kept():
    source, target = scene()
    one, other = followed(source, target[0], 5), followed(as_bytes(source), as_bytes(target[0]), 5)
    assert torch.equal(one.filled(GUESS), other.filled(GUESS))
    assert one.filled(GUESS.double()).dtype == torch.float64


def test_nothing_is_known_where_something_moves():
    source, target = scene(passer=True)
    filled = followed(source, target[0]).filled(GUESS)
    assert torch.equal(filled[:, 50:70, 76:84], GUESS[:, 50:70, 76:84]), "next to it"
    assert (filled - target[-1])[:, 44:76, 44:56].abs().max() < 3 / 255, "but on the far side"


def test_a_keyframe_that_is_proven_wrong_is_given_up():
    source, target = scene()
    invented = target[0].clone()
    inside(invented)[:] = torch.tensor([0.1, 0.9, 0.1]).view(3, 1, 1)
    early = followed(source, invented, 7).filled(GUESS)
    assert inside(early - GUESS)[:, 10:30, :20].abs().max() == 0, "what came to light was not green"
    late = followed(source, invented).filled(GUESS)
    assert inside(late - target[-1])[..., 14:].abs().max() < 3 / 255, "what was seen since is known all the same"


def test_a_keyframe_that_cannot_be_proven_wrong_stays():
    source = scene()[0][:1].expand(FRAMES, -1, -1, -1)  # neither the camera nor the thing moves
    invented = source[0].clone()
    inside(invented)[:] = 0.3
    assert (inside(followed(source, invented).filled(GUESS)) - 0.3).abs().max() < 2 / 255


def test_nothing_is_known_of_a_picture_that_was_edited_everywhere():
    source, target = scene()
    everywhere = torch.ones(SIZE, SIZE, dtype=torch.bool)
    assert torch.equal(followed(source, target[0], 3, everywhere).filled(GUESS), GUESS)


@pytest.mark.parametrize("behind, removes", [(True, True), (False, True), (True, False)])
def test_a_window_starts_with_what_is_behind_only_where_the_thing_is_removed(behind, removes):
    source, target = scene()
    model, start = Guessing(removes), 6
    settings = ClipSettings(window=8, overlap=2, find_shots=False, colour="off", behind=behind)
    propagate_clip(model, as_bytes(source), {0: as_bytes(target[0])}, settings)
    second = model.calls[1]
    assert torch.equal(second["source"], source[start:])
    wrong = inside(second["keyframe"] - target[start]).abs().max()
    assert wrong < 3 / 255 if behind and removes else wrong > 60 / 255


def test_a_run_backwards_knows_as_much():
    source, target = scene()
    models = Guessing(True), Guessing(True)
    for model, frames, at in zip(models, (source, source.flip(0)), (0, FRAMES - 1)):
        propagate_clip(model, as_bytes(frames), {at: as_bytes(target[0])}, ClipSettings(find_shots=False))
    one, other = (model.calls[1]["keyframe"] for model in models)
    assert torch.equal(one, other) and inside(one - MADE).abs().amax(0).min() > 0
