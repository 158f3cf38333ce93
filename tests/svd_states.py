"""The weights of a base, to be compared to the last bit."""

import torch


def states(base):
    return {n: getattr(base, n).state_dict() for n in ("unet", "vae", "image_encoder")}


def assert_equal(a, b, but=()):
    for name in a:
        assert a[name].keys() == b[name].keys()
        for key in a[name]:
            if not key.startswith(but or "-"):
                assert a[name][key].dtype == b[name][key].dtype and torch.equal(a[name][key], b[name][key]), key
