"""CLIP-I, CLIP-T and LPIPS: with weights that are on this machine, and never with others."""

import json

import pytest
import torch

from genprop_core.errors import GenPropError
from trainer import learned_metrics
from trainer.evaluation_clips import EvalClip
from trainer.learned_metrics import LearnedMetrics

pytestmark = pytest.mark.usefixtures("nothing_cached", "no_network")


def test_absent_weights_are_said_and_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    learned = LearnedMetrics()
    assert set(learned.without) == {"clip_i", "clip_t", "lpips"}
    clip = EvalClip("a", torch.rand(2, 3, 32, 32), torch.rand(3, 32, 32), None, None, 0)
    assert learned.score(clip.source, clip) == {"clip_i": None, "clip_t": None, "lpips": None}


def tiny_clip(folder):
    """A random CLIP model with a tokenizer of letters, in transformers' layout."""
    import string

    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder.mkdir(parents=True)
    ends = ["<|startoftext|>", "<|endoftext|>"]
    tokens = [*string.ascii_lowercase, *(f"{c}</w>" for c in string.ascii_lowercase), *ends]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": len(tokens), "max_position_embeddings": 16, "bos_token_id": len(tokens) - 2,
                    "eos_token_id": len(tokens) - 1}  # fmt: skip
    vision = small | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def test_clip_scores_with_local_weights(tmp_path):
    pytest.importorskip("torchmetrics")
    learned = LearnedMetrics(tiny_clip(tmp_path / "clip"))
    keyframe = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    clip = EvalClip("a", torch.rand(3, 3, 48, 64), keyframe, None, None, 0, prompt="a cat")
    same = learned.score(keyframe[None].expand(3, -1, -1, -1), clip)
    assert same["clip_i"] == pytest.approx(1, abs=1e-5) and -1 <= same["clip_t"] <= 1
    assert learned.score(clip.source, clip)["clip_i"] < 0.9999


def test_a_clip_in_the_cache_is_found_by_its_name(nothing_cached, no_network, tmp_path):
    hub = nothing_cached / f"models--{learned_metrics.CLIP.replace('/', '--')}"
    assert learned_metrics.cached_clip(learned_metrics.CLIP) is None and learned_metrics.cached_clip("a/b/c") is None
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("0123")
    folder = tiny_clip(hub / "snapshots" / "0123")
    assert learned_metrics.cached_clip(learned_metrics.CLIP) == folder
    pytest.importorskip("torchmetrics")
    for given in (None, learned_metrics.CLIP, folder):
        learned = LearnedMetrics(given)
        assert learned.clip is not None and learned.clip_weights == str(given or learned_metrics.CLIP)
    (folder / "model.safetensors").unlink()  # as a download that was stopped leaves it
    learned = LearnedMetrics()
    assert learned.clip is None and "cannot be read" in learned.without["clip_i"]
    with pytest.raises(GenPropError, match="cannot be read"):
        LearnedMetrics(learned_metrics.CLIP)


def test_lpips_with_local_weights(tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    models = pytest.importorskip("torchvision.models")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    state = models.alexnet(weights=None).state_dict()  # LPIPS looks at the features only: the rest takes no space
    state = {k: v if k.startswith("features") else torch.zeros(1).expand(v.shape) for k, v in state.items()}
    learned_metrics.lpips_cache("alex").parent.mkdir(parents=True)
    torch.save(state, learned_metrics.lpips_cache("alex"))
    learned = LearnedMetrics()
    assert set(learned.without) == {"clip_i", "clip_t"}
    target = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    clip = EvalClip("a", target, target[0], target, None, 0)
    near, far = (learned.score((target + e).clamp(0, 1), clip)["lpips"] for e in (0.02, 0.4))
    assert learned.score(target, clip)["lpips"] == pytest.approx(0, abs=1e-6) and 0 < near < far
    assert learned.score(target, EvalClip("a", target, target[0], None, None, 0))["lpips"] is None
