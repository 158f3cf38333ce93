"""The short ways through the UNet give what the long ways give, also where they do not apply, and leave no trace."""

import pytest
import torch
from diffusers.models.attention import FeedForward
from tiny import tiny_condition, tiny_unet

from genprop_core import feed_forward
from genprop_core.attach import attach
from genprop_core.feed_forward import feed_forward_in_parts
from genprop_core.one_token import one_token_attention
from genprop_core.sampler import SamplerSettings, sample, unit_noise
from genprop_core.temporal_conv import flat_temporal_convolutions


def call(unet, tokens=1, batch=2, frames=4):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, frames, 8, 8, 8, generator=g)
    clip = torch.randn(batch, tokens, 32, generator=g)
    return lambda: unet(x, torch.tensor(0.3), clip, torch.tensor([[6.0, 127.0, 0.02]] * batch), return_dict=False)[0]


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("known", [None, 2])
def test_attention_over_one_token_needs_no_query(tokens, known):
    unet = tiny_unet()
    run = call(unet, tokens)
    long = run()
    queries = []
    watched = [m.attn2.to_q for m in unet.modules() if getattr(m, "attn2", None) is not None]
    handles = [q.register_forward_hook(lambda *_: queries.append(1)) for q in watched]
    with one_token_attention(unet, lambda: known):
        short = run()
    [h.remove() for h in handles]
    assert len(queries) == (0 if tokens == 1 else len(watched)), "three tokens go the long way"
    assert (short - long).abs().max() < 1e-4 * long.abs().max()


@torch.no_grad()
def test_each_sample_has_its_own_token():
    unet = tiny_unet()
    with one_token_attention(unet, lambda: 2):
        both = call(unet)()
    assert (both[0] - both[1]).abs().max() > 1e-3
    torch.testing.assert_close(both, call(unet)(), atol=1e-4, rtol=1e-4)


def test_convolutions_over_time_are_flat_and_have_the_same_gradients():
    unet = tiny_unet()
    conv = next(m for m in unet.modules() if isinstance(m, torch.nn.Conv3d) and m.kernel_size == (3, 1, 1))
    x = torch.randn(2, conv.in_channels, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    conv.requires_grad_(True)

    def both():
        out = conv(x)
        return [out, *torch.autograd.grad(out.square().sum(), [conv.weight, conv.bias])]

    long = both()
    with flat_temporal_convolutions(unet):
        short = both()
        assert "forward" in vars(conv)
    for a, b in zip(short, long):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_feed_forward_layers_go_part_by_part_and_have_the_same_gradients(rows, monkeypatch):
    unet = tiny_unet()
    layer = next(m for m in unet.modules() if isinstance(m, FeedForward))
    weight, widened = layer.net[0].proj.weight.requires_grad_(True), []
    width = weight.shape[1]
    monkeypatch.setattr(feed_forward, "PART", rows * 8 * width * 4)
    layer.net[0].register_forward_hook(lambda module, inputs, output: widened.append(len(inputs[0].flatten(0, -2))))
    x = torch.randn(3, 5, width, generator=torch.Generator().manual_seed(0))

    def both():
        widened.clear()
        out = layer(x)
        return [out, *torch.autograd.grad(out.square().sum(), [weight])]

    long = both()
    with feed_forward_in_parts(unet):
        short = both()
    assert max(widened) == min(rows, 15) and sum(widened) == 15
    for a, b in zip(short, long):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_modules_are_what_they_were_also_after_an_error():
    unet = tiny_unet()
    before = [(m, dict(vars(m))) for m in unet.modules()]
    with pytest.raises(RuntimeError), attach(unet, 2):
        raise RuntimeError("stop")
    for module, attributes in before:
        assert vars(module).keys() == attributes.keys()
        assert getattr(module, "processor", None) is attributes.get("processor")


def test_sampling_takes_the_short_ways():
    unet, condition, noise = tiny_unet(), tiny_condition(), unit_noise((1, 4, 4, 8, 8), 0)
    calls = []
    conv = next(m for m in unet.modules() if isinstance(m, torch.nn.Conv3d) and m.kernel_size == (3, 1, 1))

    def note(module, *_):
        calls.append("forward" in vars(module))

    handle = conv.register_forward_hook(note)
    sample(unet, None, condition, noise, SamplerSettings(steps=2))
    handle.remove()
    assert calls == [True, True]
