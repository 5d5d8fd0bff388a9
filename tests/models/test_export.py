"""Every family as torch.compile, torch.export and ONNX see it: one graph, the same logits."""

from __future__ import annotations

import shutil

import numpy as np
import onnxruntime
import pytest
import torch

from models import build_model
from tests.model_helpers import assert_close, perturb_norms
from tests.models.test_models import FAMILIES

SIZE = (64, 96)


def family(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = build_model(name, 5, **FAMILIES[name]).eval()
    perturb_norms(model)
    return model, torch.randn(1, 3, *SIZE)


@pytest.mark.parametrize("name", FAMILIES)
def test_compiles_to_one_graph(name):
    model, x = family(name)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(x)["out"], model(x)["out"])


@pytest.mark.parametrize("name", FAMILIES)
def test_compiles_to_one_graph_with_gradients(name):
    model, x = family(name)
    model, x = model.train().double(), x.double()  # a bias before BatchNorm has no gradient but rounding errors
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    grads = []
    for run in (model, compiled):
        model.load_state_dict(before)
        model.zero_grad()
        run(torch.cat([x, x.flip(2)]))["out"].square().mean().backward()
        grads.append({key: p.grad.clone() for key, p in model.named_parameters()})
    largest = max(float(g.abs().max()) for g in grads[0].values())
    for key, expected in grads[0].items():
        assert torch.allclose(grads[1][key], expected, rtol=1e-6, atol=1e-9 * largest), key


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler (g++)")
def test_inductor():
    model, x = family("unet")
    torch._dynamo.reset()
    with torch.no_grad():
        assert_close(torch.compile(model, fullgraph=True)(x)["out"], model(x)["out"], 1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_exports(name):
    model, x = family(name)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        assert_close(program.module()(x)["out"], model(x)["out"])


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx(name, tmp_path):
    model, x = family(name)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, input_names=["images"], output_names=["out"], verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(["out"], {"images": x.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(np.asarray(out)), model(x)["out"], 1e-4)
