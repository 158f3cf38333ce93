"""What is known of where the picture is edited and where not, and what the adapters make of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_condition, tiny_unet

from genprop_core.adapters import GenPropAdapters, with_region
from genprop_core.sampler import source_features
from genprop_core.window_chain import Chain


def test_the_users_masks_have_the_last_word():
    given = torch.tensor([0.6, 0.6, 0.6, 0.0, 0.0]).view(1, 1, 1, 5)
    ahead = torch.tensor([-1.0, 0.9, 0.2, -1.0, 0.5]).view(1, 1, 1, 5)

    def region(given, followed):
        return Chain._region(SimpleNamespace(view=SimpleNamespace(region=lambda part: given)), [0], followed)

    assert region(given, ahead).flatten().tolist() == pytest.approx([0.6, 0.9, 0.6, -1, 0.5])
    assert region(None, ahead) is ahead and region(given, None) is given and region(None, None) is None


@pytest.mark.parametrize("sce", ["static", "fused"])
def test_the_source_is_not_kept_where_the_region_says_so(sce):
    adapters = GenPropAdapters.from_unet(tiny_unet(), sce=sce).requires_grad_(False)
    torch.nn.init.ones_(adapters.shown.gain)
    given = tiny_condition()
    shape = given.source.shape
    region = torch.zeros(shape[0], shape[1], 1, *shape[-2:])
    inputs = (given.source, given.keyframe, given.clip, given.micro, given.task)
    plain, nowhere = adapters.encode(*inputs), adapters.encode(*inputs, region=region)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(plain, nowhere))
    region[:, :, :, :, :3] = 1
    shown = adapters.encode(*inputs, region=region)[0].unflatten(0, shape[:2])
    own = plain[0].unflatten(0, shape[:2])
    assert shown[..., :2].abs().max() == 0 and own[..., :2].abs().max() > 0, "with the convolution's reach"
    assert torch.equal(shown[..., 4:], own[..., 4:])
    edited_at = source_features(adapters, replace(given, region=region)).edited
    assert edited_at[..., :3].min() == 1
    assert torch.equal(edited_at[..., 3:], source_features(adapters, given).edited[..., 3:])
    torch.nn.init.constant_(adapters.selection.out.bias, 9.0)  # takes all for edited
    kept = replace(given, region=-region)
    assert source_features(adapters, given).edited.min() > 0.99
    assert source_features(adapters, kept).edited[..., :3].max() == 0
    everywhere = adapters.encode(*inputs, region=-torch.ones_like(region))[0]
    assert torch.equal(everywhere, adapters.shown(given.source, given.keyframe, torch.ones_like(region).flatten(0, 1)))


def test_what_the_selection_found_by_itself_is_left_to_it():
    region = torch.zeros(1, 3, 1, 4, 4)
    region[..., :2, :] = 1
    edited_at = torch.full_like(region, 0.01)
    edited_at[:, 0, :, :2] = 0.95  # found
    edited_at[:, 1, :, 0], edited_at[:, 1, :, 1] = 1, 0.5  # on average half way between found and missed
    out = with_region(edited_at, region)
    assert torch.equal(out[:, 0], edited_at[:, 0])
    soft = region * 0.4  # a rim, or a thing smaller than a latent pixel: found as far as it is there
    assert torch.equal(with_region(soft, soft), soft)
    assert torch.equal(with_region(0.95 * soft, soft), 0.95 * soft)
    assert out[0, 1, 0, :2].mean(1).tolist() == [1, 0.5] and out[0, 2, 0, :2].min() == 1
    assert torch.equal(out[..., 2:, :], edited_at[..., 2:, :])
    assert with_region(edited_at, None) is edited_at
    assert torch.equal(with_region(edited_at, region * 0), edited_at)
    assert with_region(edited_at.half(), region).dtype == torch.float16


def test_where_it_surely_was_not_edited_the_selection_counts_as_far_as_it_may():
    edited_at = torch.tensor([0.9, 0.9, 0.9, 0.1]).view(1, 1, 1, 1, 4)
    region = torch.tensor([-1, -0.4, 0, -0.5]).view(1, 1, 1, 1, 4)
    before = region.clone()
    assert with_region(edited_at, region).flatten().tolist() == pytest.approx([0, 0.6, 0.9, 0.1])
    assert torch.equal(region, before)
    both = with_region(edited_at, torch.tensor([-1, 1, 1, 0.0]).view(1, 1, 1, 1, 4))
    assert both.flatten().tolist() == pytest.approx([0, 0.9, 0.9, 0.1]), "what is found counts by what is edited alone"
