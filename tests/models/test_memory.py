"""Models built without memory, and the estimate of what a training step needs against what one really takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from dtbench.config import RunConfig
from dtbench.errors import ConfigError
from dtbench.models.base import OfflineModule, build_on_meta, estimate_memory
from dtbench.models.dt import DecisionTransformer
from dtbench.registry import MODELS, model_entry
from dtbench.testing import DIMS, model_config


def on_meta(name: str, config: RunConfig) -> OfflineModule:
    return build_on_meta(model_entry(name).load(), config, DIMS)


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_on_meta_has_the_real_ones_weights_without_their_values(name):
    config = model_config(name)
    before = torch.get_rng_state()
    module = on_meta(name, config)
    assert torch.equal(torch.get_rng_state(), before)
    assert shapes(module) == shapes(model_entry(name).load()(config, DIMS))
    assert all(parameter.is_meta for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpt2_dt", {"extended_positions": True, "language_weight": 0.1}),
        ("lamo", {"reinit_heads": "[0]"}),
        ("gpt2_dtma", {"language_weight": 0.1}),
    ],
)
def test_pretrained_weights_are_read_as_shapes(name, options, monkeypatch):
    config = model_config(name, backbone="bundled", **options)
    real = shapes(model_entry(name).load()(config, DIMS))
    monkeypatch.setattr("dtbench.models.backbone.load.load_file", lambda *_: pytest.fail("the weights were read"))
    assert shapes(on_meta(name, config)) == real


def test_another_language_model_is_built_from_its_configuration(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=20)).save_pretrained(tmp_path)
    config = model_config("lamo", backbone=tmp_path)
    module = on_meta("lamo", config)
    assert shapes(module) == shapes(model_entry("lamo").load()(config, DIMS))
    assert all(parameter.is_meta for parameter in module.parameters())
    assert estimate_memory(module, config, DIMS) > 0


def test_more_weights_than_any_memory_holds_are_counted():
    config = model_config("dt", width=65_536, layers=48)
    module = on_meta("dt", config)
    width, blocks = 65_536, 48
    block = 12 * width**2 + 13 * width  # four maps of attention, two of the MLP of 4 × width, two LayerNorms
    embeddings = sum((inputs + 1) * width for inputs in (1, 5, 2)) + DIMS["max_timesteps"] * width + 2 * width
    head = 2 * width + 2
    expected = blocks * block + 2 * width + embeddings + head
    assert sum(parameter.numel() for parameter in module.parameters()) == expected
    assert estimate_memory(module, config, DIMS) > 16 * expected  # 40 terabytes


def test_what_cannot_be_built_is_refused_as_without_meta():
    with pytest.raises(ConfigError, match="heads 0 to 3"):
        on_meta("gpt2_dt", model_config("gpt2_dt", backbone="bundled", reinit_heads="[9]"))


def test_a_model_that_reads_its_weights_while_it_is_built_is_built_as_usual():
    class Curious(DecisionTransformer):
        def __init__(self, config, dims, seed=0):
            super().__init__(config, dims, seed)
            self.scale = float(self.embedding.embed_state.weight.abs().max())

    module = build_on_meta(Curious, model_config("dt"), DIMS)
    assert module.scale > 0


STEP = """
import re, sys
import torch
from dtbench.models.base import estimate_memory
from dtbench.registry import model_entry
from dtbench.runs.timing import random_window
from dtbench.spaces import Spaces
from dtbench.testing import DIMS, model_config

def memory(field):  # not `ru_maxrss`: it begins with that of the process which started this one
    return 1024 * int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

name, batch, context, *options = sys.argv[1:]
torch.set_num_threads(1)
config = model_config(name, **dict(option.split("=") for option in options))
config.training.batch_size, config.training.context_length = int(batch), int(context)
dims = Spaces(DIMS.observation, DIMS.action, 1000)
before = memory("VmRSS")
module = model_entry(name).load()(config, dims).train()
optimizer = module.configure_optimizers()["optimizer"]
for _ in range(2):  # AdamW's moments exist from the second step on
    optimizer.zero_grad()
    module.loss(random_window(int(batch), int(context), dims))[0].backward()
    optimizer.step()
print(memory("VmHWM") - before, estimate_memory(module, config, dims))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the memory of a process from /proc")
@pytest.mark.parametrize(
    "what",
    [
        "dt 16 200 width=128 layers=3 heads=4",  # a gigabyte, most of it attention scores
        "dt 64 20 width=512 layers=4 heads=8",  # a gigabyte, a quarter of it weights and moments
        "cql 256 20 width=256",
    ],
    ids=lambda what: what.replace(" ", "-"),
)
def test_the_estimate_is_right_within_a_factor_of_two(what):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", STEP, *what.split()]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    measured, estimated = map(int, done.stdout.split())
    assert measured > 4e8
    assert 0.5 * measured < estimated < 2 * measured
