"""Where the scripts look for ComfyUI."""
import os
from pathlib import Path

import pytest
from comfyui_folder import checkout

ROOT = Path(__file__).resolve().parents[2]


def test_search_order(environment, tmp_path):
    home = tmp_path / "home"
    root = tmp_path / "around" / "custom_nodes" / "genprop"
    assert environment.find_comfyui({}, home, root) is None
    at_home = checkout(home / "comfy" / "ComfyUI")
    assert environment.find_comfyui({}, home, root) == at_home
    around = checkout(tmp_path / "around")
    assert environment.find_comfyui({}, home, root) == around
    named = checkout(tmp_path / "named")
    assert environment.find_comfyui({"COMFYUI_PATH": str(named)}, home, root) == named
    assert environment.find_comfyui({"COMFYUI_PATH": ""}, home, root) == around


def test_a_checkout_two_folders_up_counts_in_custom_nodes_only(environment, tmp_path):
    checkout(tmp_path / "around")
    assert environment.find_comfyui({}, tmp_path / "home", tmp_path / "around" / "projects" / "genprop") is None


def test_a_wrong_comfyui_path_is_refused(environment, processes, tmp_path):
    checkout(tmp_path / "comfy" / "ComfyUI")
    (tmp_path / "empty").mkdir()
    with pytest.raises(processes.SetupError, match=r"Expected a ComfyUI checkout .* but .*empty is none\. Correct"):
        environment.find_comfyui({"COMFYUI_PATH": str(tmp_path / "empty")}, tmp_path, ROOT)


def test_a_home_folder_in_comfyui_path_and_relative_ones_are_understood(environment, tmp_path, monkeypatch):
    here = checkout(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in (os.path.join("~", "here"), "here"):
        found = environment.find_comfyui({"COMFYUI_PATH": text}, tmp_path / "home", ROOT)
        assert found.is_absolute() and os.path.samefile(found, here)
