"""GenProp's ComfyUI nodes: thin doors to genprop_core. The only part of the project that imports ComfyUI."""
import os

import folder_paths
from comfy_api.latest import ComfyExtension

from .sockets import MODELS_FOLDER


class GenPropExtension(ComfyExtension):
    """All nodes; ComfyUI asks for them once, at its start."""

    async def get_node_list(self):
        # here and not in on_load, which ComfyUI 0.3 never calls
        folder_paths.add_model_folder_path(MODELS_FOLDER, os.path.join(folder_paths.models_dir, MODELS_FOLDER))
        from . import condition, loaders, mask, propagate, sampling

        return [
            loaders.GenPropLoadAdapters,
            loaders.GenPropLoadMini,
            loaders.GenPropSampleClip,
            condition.GenPropEncodeCondition,
            sampling.GenPropSampler,
            sampling.GenPropApply,
            mask.GenPropPredictMask,
            mask.GenPropComposite,
            propagate.GenPropKeyframes,
            propagate.GenPropPropagate,
        ]
