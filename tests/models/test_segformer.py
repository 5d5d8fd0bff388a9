"""SegFormer: the logits of the peers in each form, and a head that computes the formula at a third of the cost."""

from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from models import build_encoder, build_model
from models.checkpoints.layouts.segformer import SEGFORMER_HUGGINGFACE_5, SEGFORMER_SMP
from models.checkpoints.rename import to_ours, to_theirs
from models.encoders.mix_transformer import Block, EfficientSelfAttention
from models.heads.all_mlp import AllMLPHead
from models.layers import DropPath, drop_path_rates
from models.tensors import add_into, map_of, tokens_of
from tests.model_helpers import assert_close, perturb_norms


def perturb_layernorms(model: nn.Module) -> None:
    """LayerNorm must not be the identity, and small inputs make its epsilon visible."""
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data += 0.2 * torch.randn_like(p)
        elif "patch_embed" in name:
            p.data *= 0.02


# --- parity with the installed peers, from random weights ------------------------------------------------------------


def hugging_face(**config) -> nn.Module:
    class Peer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=19, **config))

        def forward(self, images):
            logits = self.model(images).logits
            return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)

    return Peer()


PEERS = {  # form -> peer, its own state dict, its layout
    "smp": (
        lambda: smp.Segformer("mit_b0", encoder_weights=None, decoder_segmentation_channels=256, classes=19),
        "",
        SEGFORMER_SMP,
    ),
    "huggingface": (lambda: hugging_face(), "model.", SEGFORMER_HUGGINGFACE_5),
}


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
@pytest.mark.parametrize("form", PEERS)
def test_logits_equal_the_peers(form, size):
    torch.manual_seed(0)
    make, prefix, table = PEERS[form]
    peer = make().eval()
    perturb_norms(peer)
    perturb_layernorms(peer)
    theirs = {key.removeprefix(prefix): value for key, value in peer.state_dict().items()}
    ours = build_model("segformer_b0", 19, form=form).eval()
    state, surplus = to_ours(theirs, table, ours.state_dict())
    assert not surplus
    ours.load_state_dict(state)
    back = to_theirs(ours.state_dict(), table)
    assert back.keys() == theirs.keys() and all(torch.equal(back[key], theirs[key]) for key in theirs)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert_close(ours(x)["out"], peer(x), 2e-5)
        other = build_model("segformer_b0", 19, form="mmseg", head="linear").eval()  # other epsilons
        other.load_state_dict(state)
        assert (other(x)["out"] - peer(x)).abs().max() > 1e-4 * peer(x).abs().max()


def test_odd_size_equals_hugging_face_in_training_too():
    """97x161: no side divides by a stride or a reduction. Logits and a gradient at the far end, without dropout."""
    torch.manual_seed(0)
    peer = hugging_face(drop_path_rate=0.0, classifier_dropout_prob=0.0).double()
    ours = build_model("segformer_b0", 19, form="huggingface", drop_path_rate=0.0, dropout=0.0).double()
    state, _ = to_ours(peer.model.state_dict(), SEGFORMER_HUGGINGFACE_5, ours.state_dict())
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 97, 161, dtype=torch.float64)
    for train in (True, False):
        out, expected = ours.train(train)(x)["out"], peer.train(train)(x)
        assert_close(out, expected, 1e-9)
    out.square().mean().backward()
    expected.square().mean().backward()
    theirs = to_ours({k: p.grad for k, p in peer.model.named_parameters()}, SEGFORMER_HUGGINGFACE_5,
                     dict(ours.named_parameters()))[0]  # fmt: skip
    for key, p in ours.named_parameters():
        assert_close(p.grad, theirs[key], 1e-7)


# --- the mix below the upsampling is the textbook's ------------------------------------------------------------------

CHANNELS, STRIDES = [6, 10, 40, 24], [4, 8, 16, 32]  # at 64x96 the last two maps have fewer tokens than channels


def small_head(form: str, stem: bool, dtype=torch.float64) -> tuple[AllMLPHead, list[torch.Tensor]]:
    torch.manual_seed(0)
    channels, strides = ([5, *CHANNELS], [2, *STRIDES]) if stem else (CHANNELS, STRIDES)
    head = AllMLPHead(channels, strides, 7, decoder_dim=16, head=form, dropout=0.0).to(dtype)
    perturb_norms(head)
    for p in head.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return head, [torch.randn(1, c, -(-65 // s), -(-97 // s), dtype=dtype) for c, s in zip(channels, strides)]


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", ["linear", "conv"])
def test_all_mlp_equals_the_textbook_with_all_gradients(form, training, stem):
    head, features = small_head(form, stem)
    probe, results = torch.randn(1, 7, 17, 25, dtype=torch.float64), []
    for textbook in (False, True):
        run = copy.deepcopy(head).train(training)
        run.textbook = textbook
        leaves = [f.clone().requires_grad_() for f in features]
        y = run(leaves)
        (y * probe).sum().backward()
        grads = [x.grad for x in leaves] + [p.grad for p in run.parameters()]
        results.append([y, *grads, *[b.double() for b in run.buffers()]])
    assert len(results[0]) == len(results[1]) > 15
    for ours, expected in zip(*results):
        scale = max(float(expected.detach().abs().max()), 1.0)  # biases before BatchNorm have gradients that are zero
        assert (ours - expected).abs().max() <= 1e-12 * scale


def test_both_ways_of_multiplying_are_taken():
    """Few tokens: two products in turn; many tokens: first the product of the weights. The tests above have both."""
    head, features = small_head("linear", stem=False)
    tokens = [f.shape[-2] * f.shape[-1] for f in features]
    assert [n > f.shape[1] for n, f in zip(tokens, features)] == [True, True, False, False]


@pytest.mark.parametrize("form", ["linear", "conv"])
def test_bf16_is_as_exact_as_the_textbook(form):
    """Against float32: at most twice the error of the textbook's formula, in mean and maximum."""
    head, features = small_head(form, stem=False, dtype=torch.float32)
    errors = []
    with torch.no_grad():
        exact = head.eval()(features)
        for textbook in (False, True):
            head.textbook = textbook
            with torch.autocast("cpu", torch.bfloat16):
                errors.append((head(features).float() - exact).abs())
    assert errors[0].mean() <= 2 * errors[1].mean() and errors[0].max() <= 2 * errors[1].max()
    assert errors[1].max() > 1e-3  # it was bf16


def test_dropout_before_relu_is_dropout_after_it():
    head, features = small_head("linear", stem=False, dtype=torch.float32)
    head.dropout.p = 0.5
    torch.manual_seed(1)
    ours = head.train()(features)
    with torch.no_grad():
        x = head.bn(head._textbook_mix(features)).relu()
        torch.manual_seed(1)
        expected = head.classifier(F.dropout2d(x, 0.5, training=True))
    assert_close(ours, expected)


def test_nothing_is_cached():
    """Weights that change between two calls (an optimizer step, averaging) change the result."""
    head, features = small_head("linear", stem=False)
    head.eval()
    with torch.no_grad():
        before = head(features)
        for p in head.project.parameters():
            p.zero_()
        assert (head(features) - before).abs().max() > 1e-3


# --- tokens and maps share memory ------------------------------------------------------------------------------------


def test_tokens_and_maps_are_the_same_memory():
    x = torch.randn(2, 5, 7, 3)  # tokens (B, H, W, C)
    assert map_of(x).shape == (2, 3, 5, 7) and map_of(x).data_ptr() == x.data_ptr()
    assert map_of(x).is_contiguous(memory_format=torch.channels_last)
    assert tokens_of(map_of(x)).is_contiguous() and torch.equal(tokens_of(map_of(x)), x)


def test_blocks_copy_nothing():
    """No clone, no contiguous(), no copy of a map anywhere in a stage of blocks (counted by the profiler)."""
    block = Block(32, 2, 2, 4, 0.0, (1e-6, 1e-5)).eval().to(memory_format=torch.channels_last)
    x = torch.randn(1, 16, 24, 32)
    with torch.no_grad(), torch.profiler.profile(record_shapes=True) as profile:
        block(x)
    copies = [e.input_shapes for e in profile.events() if e.name in ("aten::clone", "aten::contiguous")]
    assert not [shapes for shapes in copies if shapes and torch.Size(shapes[0]).numel() >= x.numel()]


def test_add_into_uses_the_memory_of_what_is_fresh_and_keeps_float32():
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    expected = x + y
    assert torch.equal(add_into(y, x), expected) and torch.equal(y, expected)
    half = torch.randn(3, 4).bfloat16()
    total = add_into(half, x)
    assert total.dtype == torch.float32 and torch.equal(total, x + half)


# --- attention, stochastic depth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sr_ratio", [1, 2])
def test_attention_equals_the_formula(sr_ratio):
    torch.manual_seed(0)
    attn = EfficientSelfAttention(12, 3, sr_ratio, 1e-5).double()
    x = torch.randn(2, 5, 7, 12, dtype=torch.float64)
    q, r = attn.q(x).flatten(1, 2), x
    if sr_ratio > 1:
        r = attn.norm(attn.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    k, v = attn.kv(r).flatten(1, 2).split(12, dim=-1)
    heads = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        weights = (q[..., part] @ k[..., part].mT / 4**0.5).softmax(-1)
        heads.append(weights @ v[..., part])
    expected = attn.proj(torch.cat(heads, -1)).view(2, 5, 7, 12)
    assert_close(attn(x), expected, 1e-12)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="num_heads"):
        EfficientSelfAttention(10, 3, 1, 1e-5)


def test_drop_path():
    torch.manual_seed(0)
    x, drop = torch.ones(4000, 2, 3), DropPath(0.25)
    y = drop.train()(x)
    kept = y[:, 0, 0] != 0
    assert torch.equal(y, kept[:, None, None] * x / 0.75)  # all of an image or nothing
    assert abs(kept.float().mean() - 0.75) < 0.03
    assert drop.eval()(x) is x and DropPath(0.0).train()(x) is x
    assert drop_path_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3]) and drop_path_rates(0.3, 1) == [0.0]
    rates = [m.rate for m in build_encoder("mit_b2", drop_path_rate=0.15).modules() if isinstance(m, DropPath)]
    assert len(rates) == 16 and rates == sorted(rates) and rates[-1] == pytest.approx(0.15)
