"""Cross-attention over a single token, without the attention.

SVD's cross-attention has one key: the CLIP embedding of the keyframe. The softmax over one key is 1 whatever the query
is, so the output is `to_out(to_v(token))` for every pixel: query, key, scores and the norm in front of them need not
be computed. The result differs from the long way by rounding alone.
"""

from contextlib import contextmanager

from torch import nn


class OneTokenAttention:
    """A diffusers attention processor. Contexts of more than one token go the way they went before.

    norm: the norm in front, which is left out until it is needed. batch(): samples in the present call; all rows of a
    sample (its frames, or its pixels over time) carry the same token, so it is projected once per sample; None projects
    every row.
    """

    def __init__(self, before, norm: nn.LayerNorm, batch):
        self.before, self.norm, self.batch = before, norm, batch

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs):
        context = encoder_hidden_states
        if context is None or context.shape[1] != 1:
            hidden_states = nn.LayerNorm.forward(self.norm, hidden_states)
            return self.before(attn, hidden_states, context, attention_mask, temb, **kwargs)
        rows = context.shape[0]
        samples = self.batch() or rows
        token = context.unflatten(0, (samples, -1))[:, 0]  # [rows,1,D] -> [samples,1,D]
        out = attn.to_out[1](attn.to_out[0](attn.to_v(token))) / attn.rescale_output_factor
        return out[:, None].expand(-1, rows // samples, -1, -1).flatten(0, 1)  # [rows,1,C], added to every pixel


def _fits(block) -> bool:
    """Whether a module is a transformer block as SVD has them, with a processor of diffusers' own kind."""
    attention, norm = getattr(block, "attn2", None), getattr(block, "norm2", None)
    return (
        isinstance(norm, nn.LayerNorm)
        and hasattr(attention, "processor")
        and not isinstance(attention.processor, nn.Module)
        and not attention.residual_connection
    )


@contextmanager
def one_token_attention(module: nn.Module, batch=lambda: None):
    """Within the block, the cross-attentions of `module` (a UNet) are computed as above; then they are as they were."""
    changed = [(block, block.attn2.processor) for block in module.modules() if _fits(block)]
    try:
        for block, processor in changed:
            block.attn2.processor = OneTokenAttention(processor, block.norm2, batch)
            block.norm2.forward = lambda hidden: hidden
        yield
    finally:
        for block, processor in changed:
            block.attn2.processor = processor
            vars(block.norm2).pop("forward", None)
