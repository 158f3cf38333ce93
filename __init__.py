"""GenProp for ComfyUI: carries an edit of one frame through the whole clip."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """What ComfyUI calls to get the nodes. Imported here, so that importing this package needs no ComfyUI."""
    from .nodes import GenPropExtension

    return GenPropExtension()
