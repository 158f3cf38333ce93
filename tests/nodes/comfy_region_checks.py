"""That GenProp Propagate tells the model where the edit is, in ComfyUI as without it."""
import torch
from comfy_clip_checks import as_bytes, headless, keyframes, long_source, propagate


def check_propagate_tells_the_model_where_the_edit_is(pack):
    """By looking ahead, and by masks of every frame: as without ComfyUI, and not what the model makes untold."""
    source, given = long_source(pack)[:5], keyframes(pack, 0)
    flat = source.clone()
    flat[:, 32:64, 32:64] = torch.tensor([230.0, 51, 51]) / 255  # a thing that stands still, and its removal
    options = {"steps": 2, "keep_background": False, "width": 128, "height": 128}
    region = torch.zeros(5, 128, 128)
    region[:, 32:64, 64:96] = 1  # where the selection expects nothing
    made = {}
    for name, changes in (
        ("untold", {"look_ahead": False}),
        ("ahead", {"look_ahead": True}),
        ("masks", {"look_ahead": False, "mask": region}),
    ):
        image = propagate(pack, source=flat, given=given, **options, **changes)[0]
        out = headless(pack, as_bytes(flat), given, 2, changes.get("mask"), look_ahead=changes["look_ahead"])
        off = (as_bytes(image).int() - out.frames.int()).abs().float().mean()
        assert off < 0.01, (name, off)
        made[name] = image
    assert (made["masks"] - made["untold"])[:, 32:64, 64:96].abs().mean() > 1e-2
