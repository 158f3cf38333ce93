import json
import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import SHAPE, tiny_unet

from genprop_core.adapters import GenPropAdapters
from genprop_core.checkpoint import Fingerprint, load_adapters, save_adapters
from genprop_core.config import AdapterConfig, BaseShape
from genprop_core.epsilon import set_groupnorm_eps
from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors, save_tensors


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    unet = tiny_unet()
    set_groupnorm_eps(unet)  # as every base is loaded
    adapters = GenPropAdapters.from_unet(unet, num_blocks=1)
    path = tmp_path_factory.mktemp("adapters") / "a.safetensors"
    save_adapters(path, adapters, Fingerprint.of_unet(unet), {"steps": 7})
    return unet, adapters, path


def test_what_is_saved_comes_back(made):
    unet, adapters, path = made
    file = load_adapters(path)
    assert file.adapters.config == adapters.config and file.provenance == {"steps": 7}
    for key, value in adapters.state_dict().items():
        assert torch.equal(file.adapters.state_dict()[key], value.half().float()), key
    file.check(Fingerprint.of_unet(unet))
    assert [k for k, p in file.adapters.named_parameters() if not p.requires_grad] == [
        k for k, p in adapters.named_parameters() if not p.requires_grad
    ]


def test_full_precision_is_kept_when_asked_for(made, tmp_path):
    unet, adapters, _ = made
    save_adapters(tmp_path / "b.safetensors", adapters, Fingerprint.of_unet(unet), {}, torch.float32)
    again = load_adapters(tmp_path / "b.safetensors").adapters.state_dict()
    assert all(torch.equal(again[k], v) for k, v in adapters.state_dict().items())


def test_other_widths_are_refused_and_other_weights_warned_of(made, caplog):
    unet, _, path = made
    file = load_adapters(path)
    other = tiny_unet(BaseShape((32, 64), 1, (1, 2), 32, 32))
    with pytest.raises(
        GenPropError, match=r"made for a base with widths \[32, 64, 64\], this base has \[32, 64\]. Choose"
    ):
        file.check(Fingerprint.of_unet(other))
    with caplog.at_level(logging.WARNING):
        file.check(Fingerprint.of_unet(tiny_unet(seed=1)))
    assert "another base of the same widths" in caplog.text


def test_foreign_and_damaged_files_are_named(made, tmp_path):
    _, _, path = made
    with pytest.raises(GenPropError, match="there is none. Check the path"):
        load_adapters(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is not a safetensors file")
    with pytest.raises(GenPropError, match="cannot be read as one"):
        load_adapters(tmp_path / "text.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GenPropError, match="truncated"):
        load_adapters(tmp_path / "cut.safetensors")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(GenPropError, match="Expected GenProp adapters, but .* has format 'none'"):
        load_adapters(tmp_path / "lora.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        tensors, meta = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()
    tensors["mpd.out.weight"] = torch.zeros(3)
    safetensors.torch.save_file(tensors, tmp_path / "odd.safetensors", meta)
    with pytest.raises(GenPropError, match=r"1 differ, first mpd.out.weight \(expected \(1, 64, 1, 1\), got \(3,\)\)"):
        load_adapters(tmp_path / "odd.safetensors")
    safetensors.torch.save_file(tensors, tmp_path / "new.safetensors", {**meta, "version": "9"})
    with pytest.raises(GenPropError, match="version 1, got '9'"):
        load_adapters(tmp_path / "new.safetensors")


def test_configuration_is_validated():
    with pytest.raises(GenPropError, match="num_blocks must be 1 to 3 for this base, got 4"):
        AdapterConfig(SHAPE, num_blocks=4)
    with pytest.raises(GenPropError, match="sce must be one of static, fused, got 'both'"):
        AdapterConfig(SHAPE, sce="both")
    config = AdapterConfig(SHAPE, sce="fused", num_blocks=3)
    assert AdapterConfig.from_json(config.to_json()) == config
    with pytest.raises(GenPropError, match="Expected the configuration of GenProp adapters"):
        AdapterConfig.from_json(json.dumps({"num_blocks": 2}))


def test_only_svd_is_a_base():
    with pytest.raises(GenPropError, match="Expected an SVD UNet .* got Linear"):
        BaseShape.from_unet(torch.nn.Linear(1, 1))


def test_files_that_say_nothing_of_later_settings_still_load(tmp_path):
    unet = tiny_unet()
    adapters = GenPropAdapters.from_unet(unet, selection=False, injection_norm=True, show_source=False)
    save_adapters(tmp_path / "a.safetensors", adapters, Fingerprint.of_unet(unet), {})
    tensors, metadata = load_tensors(tmp_path / "a.safetensors")
    config = json.loads(adapters.config.to_json())
    config = {k: v for k, v in config.items() if k not in ("selection", "injection_norm", "show_source")}
    name = next(k for k, v in metadata.items() if v == adapters.config.to_json())
    save_tensors(tmp_path / "b.safetensors", tensors, {**metadata, name: json.dumps(config)})
    loaded = load_adapters(tmp_path / "b.safetensors").adapters
    assert loaded.shown is None and loaded.selection is None
    assert all(isinstance(i.norm, torch.nn.GroupNorm) for i in loaded.injections)


def test_a_file_is_as_readable_as_any_other_new_file(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, {})
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_what_is_loaded_computes_what_was_made(made):
    """The epsilon of the norms is no tensor: it has to be the base's where the blocks are built anew, too."""
    _, adapters, path = made
    norms = [{n: m.eps for n, m in a.named_modules() if isinstance(m, torch.nn.GroupNorm)}
             for a in (adapters, load_adapters(path).adapters)]  # fmt: skip
    assert norms[0] == norms[1] and {v for n, v in norms[0].items() if ".resnets." in n} == {1e-5}


def test_a_loaded_file_is_let_go(made):
    """A mapped one could not be written again on Windows, and what was loaded would change with it."""
    path = made[-1]
    kept = load_adapters(path, torch.float16), load_tensors(path)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux tells what is mapped")
    assert str(path) not in maps.read_text() and kept
