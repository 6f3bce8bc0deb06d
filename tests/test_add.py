"""``proofbook add``: the entry of a model from its configuration, and all that can be wrong with one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertForMaskedLM

from hub_server import Hub, serving
from proofbook.catalog import Category, Model, Weights, load_catalog
from proofbook.catalog.catalog import ParamsError
from proofbook.catalog.writing import append_entry, entry_text
from proofbook.paths import workbook_root
from proofbook.subject.checkpoint import checkpoint_folder, load_model
from proofbook.subject.entry import Source, derive_entry
from proofbook.subject.shrink import full_config
from proofbook.verdict import Blocked
from proofbook.workbook.case import Case

CATALOG = load_catalog()
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_key_value_heads": 4, "vocab_size": 1000}
OWN_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class OwnConfig(PretrainedConfig):
    model_type = "own_thing"
    def __init__(self, width=4, **kwargs):
        self.width = width
        super().__init__(**kwargs)

class OwnForCausalLM(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(8, config.width)
        self.post_init()
    def forward(self, input_ids=None, **kwargs):
        return {"logits": self.embed(input_ids)}
"""


@pytest.fixture
def workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workbook whose params are a copy of the real ones."""
    root = tmp_path / "workbook"
    shutil.copytree(workbook_root() / "params", root / "params")
    (root / "notebooks").mkdir()
    monkeypatch.setenv("PROOFBOOK_ROOT", str(root))
    return root


@pytest.fixture
def add(workbook: Path, proofbook: Callable[..., tuple[int, str]]) -> Callable[..., tuple[int, str]]:
    return partial(proofbook, "add")


def written(path: Path, config: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return path


def own_code(folder: Path) -> Path:
    """A checkpoint with code of its own."""
    auto_map = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    written(folder / "config.json", {"model_type": "own_thing", "auto_map": auto_map, "width": 4})
    (folder / "modeling_own.py").write_text(OWN_CODE)
    torch.save({"embed.weight": torch.arange(32.0).reshape(8, 4)}, folder / "pytorch_model.bin")
    return folder


# a few of each category; flan-t5 and mamba derive some sizes from others, musicgen is a composite of three
@pytest.mark.parametrize(
    "name",
    ["roberta", "xlnet", "llama-3", "mamba", "flan-t5", "detr", "dino", "clip", "musicgen", "qwen2-vl", "perceiver"],
)
def test_the_entry_of_a_configuration_makes_that_configuration_again(name: str) -> None:
    spec = CATALOG.model(name)
    config = full_config(spec).to_dict() | {"architectures": [spec.model_class]}
    entry = derive_entry(Source(config, "x"), CATALOG)
    assert (entry.model_class, entry.task, entry.category) == (spec.model_class, spec.task, spec.category)
    again = full_config(entry).to_dict() | {"architectures": [spec.model_class]}
    assert {key: value for key, value in again.items() if "token" not in key and config[key] != value} == {}
    assert not any("token" in key for key in entry.config)
    assert len(entry.config) <= len(spec.config) + 1


def test_without_an_entry_of_its_class_a_model_is_sorted_by_what_it_reads() -> None:
    entry = derive_entry(Source({"model_type": "bit", "architectures": ["BitForImageClassification"]}, "x"), CATALOG)
    assert (entry.category, entry.task) == (Category.VISION, "image-classification")
    headless = derive_entry(Source({"model_type": "llama"}, "x"), CATALOG)
    assert headless.model_class == "LlamaForCausalLM"


def test_a_config_file_is_added_and_shown(add: Callable[..., tuple[int, str]], workbook: Path, tmp_path: Path) -> None:
    path = workbook / "params/models/decoder-only.yaml"
    before = path.read_text()
    status, said = add(written(tmp_path / "config.json", LLAMA), "--name", "small-llama")
    assert status == 0
    assert "proofbook run --model small-llama --target cpu" in said
    after = path.read_text()
    assert after.startswith(before)
    assert after[len(before) :].strip() in said
    entry = yaml.safe_load(after)["models"]["small-llama"]
    assert entry["config"] == {"vocab_size": 1000, "num_key_value_heads": 4}
    assert load_catalog(workbook / "params").model("small-llama").task == "text-generation"


def test_a_folder_is_added_with_its_path_and_options_come_first(
    add: Callable[..., tuple[int, str]], workbook: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "My Bert (v2)"
    BertForMaskedLM(BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1)).save_pretrained(folder)
    assert add(folder, "--category", "other", "--task", "forward")[0] == 0
    entry = yaml.safe_load((workbook / "params/models/other.yaml").read_text())["models"]["my-bert-v2"]
    assert (entry["class"], entry["task"], entry["local"]) == ("BertForMaskedLM", "forward", str(folder))
    assert entry["config"] == {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("config", "arguments", "said"),
    [
        ('{"model_type": "lama"}', [], "no model type 'lama'; near to it are llama"),
        ("{", [], "can't be read as JSON"),
        ("[]", [], "names no model_type"),
        (json.dumps(LLAMA), ["--name", "bert"], "the name 'bert' is taken, in encoder-only.yaml"),
        (json.dumps(LLAMA), ["--name", "x", "--task", "poetry"], "unknown task 'poetry'"),
        (json.dumps(LLAMA | {"num_attention_heads": "many"}), [], "LlamaConfig"),
        (json.dumps(LLAMA), ["--name", "Not A Name"], "is no name for a model"),
    ],
)
def test_wrong_use_is_told_in_a_line(
    add: Callable[..., tuple[int, str]], workbook: Path, tmp_path: Path, config: str, arguments: list[str], said: str
) -> None:
    before = {path: path.read_bytes() for path in (workbook / "params/models").iterdir()}
    path = tmp_path / "config.json"
    path.write_text(config)
    status, output = add(path, *(arguments or ["--name", "x"]))
    assert (status, "Traceback" in output) == (2, False), output
    assert said in output
    assert {path: path.read_bytes() for path in (workbook / "params/models").iterdir()} == before


@pytest.mark.parametrize("given", ["nowhere/at/all", "nowhere.json", "/nowhere"])
def test_neither_file_nor_folder_nor_repository(add: Callable[..., tuple[int, str]], given: str) -> None:
    status, said = add(given)
    assert status == 2
    assert f"{given} is no file, no folder, and not the id of a repository" in said


def test_a_folder_without_a_checkpoint(add: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    assert add(tmp_path)[1].endswith("holds no checkpoint: it has no config.json\n")


# -- code of the checkpoint's own


def test_its_own_code_needs_the_flag_and_is_recorded(
    add: Callable[..., tuple[int, str]], workbook: Path, tmp_path: Path
) -> None:
    folder = own_code(tmp_path / "own")
    status, said = add(folder)
    assert status == 2
    assert "--trust-remote-code lets it run" in said
    status, said = add(folder, "--trust-remote-code")
    assert status == 0, said
    assert "--weights local" in said
    spec = Model(
        name="own",
        category=Category.DECODER_ONLY,
        **yaml.safe_load((workbook / "params/models/decoder-only.yaml").read_text())["models"]["own"],
    )
    assert spec.trust_remote_code
    assert checkpoint_folder(spec, Weights.LOCAL, 0, tmp_path) == folder
    loaded = load_model(spec, folder, torch.float32)
    assert type(loaded.model).__name__ == "OwnForCausalLM"
    assert not (loaded.missing_keys or loaded.unexpected_keys)
    assert loaded.model(input_ids=torch.tensor([[1]]))["logits"].tolist() == [[[4, 5, 6, 7]]]
    with pytest.raises(Blocked, match="weights=local or weights=hub"):
        checkpoint_folder(spec, Weights.TINY, 0, tmp_path / "tiny")
    assert Case("own", weights="local").case_record().trust_remote_code
    assert not Case("bert").case_record().trust_remote_code


def test_code_that_transformers_has_itself_needs_no_trust() -> None:
    config = LLAMA | {"auto_map": {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}}
    assert not derive_entry(Source(config, "x"), CATALOG).trust_remote_code
    assert derive_entry(Source(config, "x"), CATALOG, trust_remote_code=True).trust_remote_code


# -- the hub: processes of their own, since the client reads its settings when it is imported


# the endpoint is read when the library is imported, so that a process of its own asks the hub, of several in turn
ADDING = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from proofbook.cli import main
answers = []
for hub_id in sys.argv[1:]:
    sys.argv = ["proofbook", "add", hub_id]
    with redirect_stdout(StringIO()) as said, redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            answers.append([ended.code or 0, said.getvalue()])
print(json.dumps(answers))
"""


def add_from_hub(workbook: Path, hub_ids: list[str], endpoint: str, home: Path) -> list[tuple[int, str]]:
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "PROOFBOOK_ROOT": str(workbook)}
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-c", ADDING, *hub_ids]
    done = subprocess.run(command, env={**others, **ours}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [(status, said) for status, said in json.loads(done.stdout.splitlines()[-1])]


def test_a_repository_of_the_hub(workbook: Path, tmp_path: Path) -> None:
    files = written(tmp_path / "repository/config.json", LLAMA).parent
    with serving(Hub({"some/Small-Llama": files})) as hub:
        ((status, said),) = add_from_hub(workbook, ["some/Small-Llama"], hub.address, tmp_path / "home")
    assert status == 0, said
    entry = yaml.safe_load((workbook / "params/models/decoder-only.yaml").read_text())["models"]["small-llama"]
    assert entry["hub_id"] == "some/Small-Llama"
    assert "local" not in entry


def test_what_the_hub_does_not_give(workbook: Path, tmp_path: Path) -> None:
    files = written(tmp_path / "repository/README.json", {}).parent
    with serving(Hub({"some/gated": files, "some/empty": files}, gated=frozenset({"some/gated"}))) as hub:
        causes = {"some/nothing": "no such repository", "some/gated": "gated", "some/empty": "no conf"}
        answers = add_from_hub(workbook, [*causes], hub.address, tmp_path / "home")
    for (status, said), cause in zip(answers, causes.values(), strict=True):
        assert status == 3 and cause in said and "Traceback" not in said, said


def test_no_hub_is_asked_offline(add: Callable[..., tuple[int, str]]) -> None:
    status, said = add("some/other")
    assert status == 3 and "HF_HUB_OFFLINE is set" in said


# -- writing


def test_an_entry_reads_back_and_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "models" / "vision.yaml"
    path.parent.mkdir()
    path.write_text("# a comment\nmodels:\n  vit: {model_type: vit, class: A, task: b, hub_id: c}  # kept")
    long = {"depths": list(range(60)), "yes": "no", "text": "a: b # c", "nothing": None, "half": 0.5}
    entry = CATALOG.model("vit").model_copy(update={"name": "1e3", "config": long})
    append_entry(tmp_path, entry)
    text = path.read_text()
    assert text.startswith("# a comment\nmodels:\n  vit: {model_type: vit, class: A, task: b, hub_id: c}  # kept\n")
    assert max(map(len, text.splitlines())) <= 120
    assert yaml.safe_load(text)["models"]["1e3"]["config"] == long
    with pytest.raises(ParamsError, match="add it by hand"):
        append_entry(tmp_path, entry)
    assert path.read_text() == text
    assert "tracked" not in entry_text(entry)
