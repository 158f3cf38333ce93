"""A folder that looks like ComfyUI's."""



def checkout(folder):
    """The files by which a ComfyUI checkout is known."""
    (folder / "comfy").mkdir(parents=True)
    for name in ("main.py", "folder_paths.py", "requirements.txt", "comfy/model_management.py"):
        (folder / name).touch()
    return folder
