"""Encoding with the VAE in bfloat16: nearly the same latents, never mixed with those computed in float32."""

import torch

from genprop_core.base import load_base
from trainer.dataset import find_triples
from trainer.encoder import Encoder
from trainer.latent_cache import LatentCache
from trainer.make_mini_dataset import write_pair
from trainer.mini.clips import make_clip


def test_bfloat16_is_for_the_vae_alone_and_close_to_float32():
    base, clip = load_base("mini"), make_clip(3, 2, 64)
    frames = {"source": clip.source, "target": clip.target, "mask": clip.mask}
    with Encoder(base, "cpu", corrupt="black") as exact, Encoder(base, "cpu", "black", bfloat16=True) as rough:
        wanted, made = exact.encode(frames, "clip"), rough.encode(frames, "clip")
    assert all(value.dtype == torch.float32 for value in made.values())
    assert made["clip"].equal(wanted["clip"]) and made["mask"].equal(wanted["mask"])
    for name in ("source", "target", "key", "corrupt"):
        error = (made[name] - wanted[name]).square().mean().sqrt() / wanted[name].std()
        assert 1e-5 < error < 0.03, (name, error)  # it did compute in bfloat16, and that costs a rounding


def test_a_cache_keeps_latents_computed_in_bfloat16_apart(tmp_path):
    base = load_base("mini")
    write_pair(tmp_path, "one", make_clip(3, 2, 64))
    (triple,) = find_triples(tmp_path)

    def path(**settings):
        encoder = Encoder(base, "cpu", dtype=torch.float16, **settings)
        return LatentCache(tmp_path / "cache", encoder, "mini", (64,), 32).path(triple)

    assert path() == path(bfloat16=False) != path(bfloat16=True)
