"""Every shape comment of the model files is checked against a run (the rules: tests/models/shape_comments.py)."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
import torch

import models
from models import build_model
from models.heads.pspnet import average_cells
from models.inference import winograd
from tests.models.shape_comments import checking, claims_in, shapes_in, target_of

FOLDER = Path(models.__file__).parent
FILES = sorted(p for p in FOLDER.rglob("*.py") if "checkpoints" not in p.parts)

# Enough models, forms and modes that every line with a shape comment is reached
RUNS = [
    ("segformer_b0", dict(decoder_dim=48)),
    ("segformer_b0", dict(decoder_dim=48, head="conv")),
    ("segformer_swin_t", dict(decoder_dim=48)),
    ("segformer_swin_t", dict(shift="built", pad_last=True, decoder_dim=48)),
    ("segformer_efficientnet_b0", dict(form="smp", decoder_dim=48)),
    ("deeplabv3_resnet18", dict(aspp_channels=40)),
    ("deeplabv3plus_resnet18", dict(aspp_channels=40, decoder_channels=48, separable=True)),
    ("deeplabv3plus_resnet18", dict(form="mmseg", aspp_channels=40)),
    ("fcn_resnet50", dict(form="mmseg", fcn_channels=40)),
    ("pspnet_resnet18", dict(psp_channels=40)),
    ("pspnet_resnet18", dict(form="smp", psp_channels=40)),
    ("fcn8s_vgg16", dict(fc_channels=40)),
    ("unet_resnet18", {}),
    ("unet", dict(base_channels=8)),
    ("unet", dict(base_channels=8, up="bilinear_conv", fit="pad")),
    ("better_seg_network", dict(base_channels=8)),
    ("basic_seg_network", dict(base_channels=8)),
]


@pytest.fixture(scope="module")
def claims():
    return [claim for path in FILES for claim in claims_in(path)]


def test_every_shape_comment_is_reached_and_true(claims, monkeypatch):
    torch.manual_seed(0)
    with checking(claims):
        for name, options in RUNS:
            model = build_model(name, 5, **options)
            for size in ((64, 96), (96, 160)):  # strides divide them: what odd sides do is said in words
                with torch.no_grad():
                    model.eval()(torch.randn(2, 3, *size))
            model.train()(torch.randn(2, 3, 64, 96))
            switches = [m for m in model.modules() if hasattr(m, "textbook")]
            for m in switches:
                m.textbook = True
            if switches:
                model(torch.randn(2, 3, 64, 96))
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        winograd.conv3x3(torch.randn(2, 3, 10, 13), winograd.transform_filters(torch.randn(4, 3, 3, 3)), 2)
        average_cells(torch.randn(2, 4, 10, 15), 3)  # the form for exporters
    wrong = [line for claim in claims for line in claim.wrong[:1]]
    assert not wrong, "\n".join(wrong)
    missed = [str(claim) for claim in claims if not claim.checked]
    assert not missed, "never run:\n" + "\n".join(missed)
    assert len(claims) > 60


RESHAPING = {"view", "reshape", "permute", "transpose", "flatten", "unflatten", "expand", "cat", "stack", "chunk"}


def reshaping_statements(path: Path):
    """Statements that rearrange a map. A function of one line says its shapes in its docstring instead."""
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        body = [node for node in function.body if not isinstance(getattr(node, "value", None), ast.Constant)]
        if len(body) == 1 and "->" in (ast.get_docstring(function) or ""):
            continue
        for node in ast.walk(function):
            if target_of(node) is not None:
                calls = [
                    c.func for c in ast.walk(node) if isinstance(c, ast.Call) and isinstance(c.func, ast.Attribute)
                ]
                own = [
                    c for c in calls if not (isinstance(c.value, ast.Name) and c.value.id == "self")
                ]  # self.expand(x)
                if any(c.attr in RESHAPING for c in own):
                    yield node


def test_every_reshape_has_a_shape_comment(claims):
    said = {(claim.path, claim.line) for claim in claims}
    found = [(path, node.end_lineno) for path in FILES for node in reshaping_statements(path)]
    assert len(found) >= 25
    assert not [f"{path.name}:{line}" for path, line in found if (path, line) not in said]


# --- the checker itself -----------------------------------------------------------------------------------------------


EXAMPLE = """
def forward(images, n):
    x = images.flatten(2)  # (B, 3, H W)
    y = x.chunk(n, dim=2)  # each {each}
    for turn in range(3):
        x = x[:, :1]  # {loop}
        x = x.repeat(1, 2, 1)  # back to (B, 2, H W)
    return x  # {returned}
"""


@pytest.mark.parametrize(
    "changed, wrong",
    [
        ({}, None),
        ({"each": "(B, 3, H W / n)"}, None),
        ({"each": "(B, 3, H W)"}, "4: "),
        ({"loop": "(B, c, H W)"}, None),
        ({"loop": "(B, 3, H W)"}, "6: "),
        ({"returned": "softmax(a, b): (B, 2 k, H / 2 2 W)"}, None),
        ({"returned": "(B, 3, N) -> (B, 2, N)"}, None),
        ({"returned": "(B, 2 or 3, ..)"}, None),
        ({"returned": "(B, 2, ceil(H/3))"}, "8: "),
        ({"returned": "(B, 2)"}, "8: "),
        ({"returned": "(B, H, W)"}, "8: "),
    ],
)
def test_a_wrong_comment_is_found(tmp_path, changed, wrong):
    text = EXAMPLE.format(**{"each": "(B, 3, part)", "loop": "(B, 1, ..)", "returned": "(B, 2, N)"} | changed)
    path = tmp_path / "example.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("example", path)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    claims = claims_in(path)
    assert len(claims) == 5
    with checking(claims):
        module.forward(torch.zeros(2, 3, 8, 12), 4)
    assert all(claim.checked for claim in claims)
    found = [line for claim in claims for line in claim.wrong[:1]]
    assert [line.partition("example.py:")[2][: len(wrong)] for line in found] == [wrong] if wrong else not found


def test_what_is_a_shape():
    assert shapes_in("each (B, heads, N/R^2, d)") == [["B", "heads", "N/R^2", "d"]]
    assert shapes_in("(bins, h), (bins, w)") == [["bins", "h"], ["bins", "w"]]
    assert shapes_in("(n D)") == [["n D"]]
    for prose in (
        "H/2, H/4",
        "softmax(q, k)",
        "the formula (tests set it)",
        "a map (why, and how?)",
    ):
        assert shapes_in(prose) == []
