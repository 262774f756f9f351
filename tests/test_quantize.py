"""Backbones in 8 or 4 bits: the arithmetic by hand, what it costs in logits, and what it must not do to training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.scipy.special import ndtri
from models import CONFIG, FIRST_WORD, Batch, random_batch, random_roles, random_slot, state

import pe_rlhf_mm as pe
from pe_rlhf_mm.adapters import files, lora, roles
from pe_rlhf_mm.adapters.roles import BACKBONE, Roles, Weights, fingerprint
from pe_rlhf_mm.checkpoints import backbone
from pe_rlhf_mm.cli.main import run
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.data.processor import EncodedPrompt, Processor
from pe_rlhf_mm.errors import OutOfRange, UserError
from pe_rlhf_mm.models import quantize, vlm
from pe_rlhf_mm.models.config import Remat
from pe_rlhf_mm.models.quantize import BLOCK, NF4, Quantized, dequantized, quantized
from pe_rlhf_mm.rollout.sampler import sample
from pe_rlhf_mm.rollout.sampling import Sampling
from pe_rlhf_mm.training import forward, sft
from pe_rlhf_mm.training.config import SFTConfig, TuneConfig
from pe_rlhf_mm.training.job import attach
from pe_rlhf_mm.training.sft import Demonstration

KINDS = ("int8", "nf4")
FIXTURES = Path(__file__).parent / "fixtures"
LOGIT_ERROR = {"int8": 0.04, "nf4": 0.6}
"""Bounds on the root mean square error of a fixture's logits over their spread; 0.019 to 0.028 and 0.28 to 0.44 were
measured. Random weights have no redundancy: of a trained model see docs/architecture.md."""


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch(np.random.default_rng(0), rows=3, group=2)


def kernel(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def nbytes(tree: object) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def kernels(tree: nnx.State) -> Iterator[tuple[str, jax.Array | Quantized]]:
    """The matrices of all layers by their names, whatever holds them."""
    yield from ((n, w) for n, w in backbone.names(tree).items() if ".layers.blocks." in n and n.endswith("kernel"))


def with_kernels(tree: nnx.State, change) -> nnx.State:
    """The weights with every kernel of a layer exchanged for what a function makes of its name and value."""
    names = dict(kernels(tree))
    return nnx.map_state(
        lambda path, v: v.replace(change(n, v.get_value())) if (n := ".".join(map(str, path))) in names else v, tree
    )


def restored(tree: nnx.State) -> nnx.State:
    return with_kernels(tree, lambda _, value: dequantized(value))


def test_the_codebook_is_made_of_normal_quantiles() -> None:
    """The paper's construction: 8 quantiles from 0.5 up to the last, 7 down to the first, and 0, over the largest."""
    last = 1 - (1 / 32 + 1 / 30) / 2
    above, below = ndtri(jnp.linspace(0.5, last, 9)[1:]), ndtri(jnp.linspace(0.5, 1 - last, 8)[:0:-1])
    np.testing.assert_allclose(NF4, jnp.concatenate([below, jnp.zeros(1), above]) / above[-1], atol=1e-6)


def test_int8_by_hand() -> None:
    """The largest of a column is ±127; 254 over a largest of 254 has the scale 2, and 5 / 2 is rounded to even."""
    made = quantized(jnp.array([[254.0, -1.27], [-101.0, 0.4], [5.0, 0.0]]), "int8")
    np.testing.assert_allclose(made.scales, [[2.0, 0.01]], rtol=1e-6)
    np.testing.assert_array_equal(made.values, [[127, -127], [-50, 40], [2, 0]])
    np.testing.assert_allclose(dequantized(made), [[254, -1.27], [-100, 0.4], [4, 0]], rtol=1e-6)


def test_nf4_by_hand() -> None:
    """Rows 2i and 2i + 1 in one byte, the first in its low half: codes 15, 0, 7, 10 are bytes 0x0f and 0xa7."""
    made = quantized(jnp.array([[3.0], [-3.0], [0.1], [0.75]]), "nf4")
    np.testing.assert_array_equal(made.values, [[0x0F], [0xA7]])
    np.testing.assert_array_equal(made.scales, [[3.0]])
    np.testing.assert_allclose(dequantized(made)[:, 0], [3, -3, 0, 3 * 0.24611230194568634], rtol=1e-6)


@pytest.mark.parametrize("rows", [24, 64, 160])
def test_no_entry_is_further_off_than_half_a_step(rows: int) -> None:
    original = np.asarray(kernel(2, rows, 8)) * np.logspace(-3, 3, 8)
    off = {kind: np.abs(dequantized(quantized(jnp.asarray(original), kind)) - original) for kind in KINDS}
    largest = np.abs(original).max(axis=1, keepdims=True)
    assert (off["int8"] <= largest / 254 * 1.0001).all()
    for start in range(0, rows, BLOCK):
        block = slice(start, min(start + BLOCK, rows))
        largest = np.abs(original[:, block]).max(axis=1, keepdims=True)
        assert (off["nf4"][:, block] <= max(np.diff(NF4)) / 2 * largest * 1.0001).all()


def test_what_can_be_written_comes_back_as_it_was() -> None:
    order = np.random.default_rng(0).permutation(256)
    for kind, values in (("nf4", np.repeat(NF4, 16)), ("int8", np.arange(256) - 128.0)):
        original = 0.5 * np.maximum(values, -127 if kind == "int8" else -1)[order, None]
        made = quantized(jnp.asarray(original, jnp.float32), kind)
        np.testing.assert_allclose(dequantized(made), original, rtol=1e-6)
        np.testing.assert_array_equal(dequantized(quantized(jnp.zeros((64, 2)), kind)), np.zeros((64, 2)))


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8 + 32 / 256), ("nf4", 4 + 32 / 64)])
def test_memory_is_what_the_formula_says(kind: str, bits: float) -> None:
    assert nbytes(quantized(kernel(3, 256, 10), kind)) == 3 * 256 * 10 * bits / 8
    whole, small = state(), quantize.quantized_state(state(), kind)
    saved = 0
    for _, (layers, rows, columns) in ((n, w.shape) for n, w in kernels(whole)):
        per_column = rows + 4 if kind == "int8" else rows // 2 + 4 * math.ceil(rows / BLOCK)
        saved += layers * columns * (4 * rows - per_column)
    assert nbytes(small) == nbytes(whole) - saved
    assert roles.count(small) == roles.count(whole)
    assert {type(w) for _, w in kernels(small)} == {Quantized}
    assert sum(isinstance(w, Quantized) for w in backbone.names(small).values()) == 7 + 7  # decoder and tower


def logit_error(model: pe.Model, weights: nnx.State) -> float:
    """Root mean square of the error of other weights, over the spread of the model's own logits."""
    tokens = np.random.default_rng(0).integers(5, 200, (4, 32))
    exact, moved = (np.asarray(replace(model, state=w).logits(tokens)) for w in (model.state, weights))
    return float(np.sqrt(np.mean((moved - exact) ** 2)) / exact.std())


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "smolvlm"])
def test_logits_move_by_no_more_than_stated(name: str) -> None:
    model = pe.load_model(FIXTURES / name)
    fine, coarse = (logit_error(model, pe.load_model(FIXTURES / name, quantize=kind).state) for kind in KINDS)
    assert 0 < fine < LOGIT_ERROR["int8"] < coarse < LOGIT_ERROR["nf4"]


def test_logits_move_by_no_more_than_noise_of_that_size_would_move_them() -> None:
    """What is read layer by layer is what the stacked kernels give; its errors are no worse than random ones."""
    model = pe.load_model(FIXTURES / "llama")
    loaded = pe.load_model(FIXTURES / "llama", quantize="nf4").state
    assert fingerprint(loaded) == fingerprint(quantize.quantized_state(model.state, "nf4"))
    rounded = dict(kernels(restored(loaded)))

    def noisy(path: str, value: jax.Array) -> jax.Array:
        size = jnp.std(rounded[path] - value, axis=-2, keepdims=True)
        return value + size * kernel(*value.shape, seed=len(path))

    assert logit_error(model, loaded) < 1.5 * logit_error(model, with_kernels(model.state, noisy))


@pytest.mark.parametrize("kind", KINDS)
def test_activations_keep_their_type(kind: str) -> None:
    x, made = kernel(2, 64), quantized(kernel(64, 8), kind)
    assert quantize.matmul(x.astype(jnp.bfloat16), made).dtype == jnp.bfloat16
    np.testing.assert_allclose(quantize.matmul(x, made), x @ dequantized(made), rtol=1e-5, atol=1e-5)


def adapter_gradient(weights: nnx.State, batch: Batch, *, remat: Remat = "products"):
    def loss(slot: lora.Slot) -> jax.Array:
        how = forward.Pass(remat=remat)
        return jnp.sum(forward.read(CONFIG, Weights(weights, lora.only(slot, 0.5)), *batch, how).states ** 3)

    return jax.jit(jax.grad(loss))(random_slot(1))


@pytest.mark.parametrize(("kind", "remat"), [("int8", "layers"), ("nf4", "products")])
def test_adapters_get_the_gradients_of_the_dequantised_model(kind: str, remat: Remat) -> None:
    batch = random_batch(np.random.default_rng(0), images=remat == "products")
    small = quantize.quantized_state(state(), kind)
    found, wanted = adapter_gradient(small, batch, remat=remat), adapter_gradient(restored(small), batch)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert float(jnp.abs(other).max()) > 0
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(other).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_pass_keeps_no_dequantised_kernel(kind: str) -> None:
    """It needs hardly more room than that of the model in full, whose kernels are there anyway."""

    def room(stacked: jax.Array | Quantized) -> int:
        def loss(x: jax.Array) -> jax.Array:
            return jax.lax.scan(lambda x, w: (jnp.tanh(quantize.matmul(x, w)), None), x, stacked)[0].sum()

        return jax.jit(jax.grad(loss)).lower(kernel(1, 128)).compile().memory_analysis().temp_size_in_bytes

    whole = kernel(16, 128, 128)
    assert room(quantized(whole, kind)) < room(whole) + whole.nbytes / 4


def test_training_leaves_every_bit_of_the_backbone() -> None:
    words = replace(CONFIG, vocabulary=512)  # those of the tokenizer
    small = quantize.quantized_state(vlm.initial_state(words, jax.random.key(0)), "nf4")
    before, bits = random_roles("sft")._replace(backbone=small), fingerprint(small)
    shown = [Demonstration(EncodedPrompt([FIRST_WORD, FIRST_WORD + 3], ()), [FIRST_WORD + 1, CONFIG.stop_id])] * 4
    settings = SFTConfig(steps=3, batch_size=4, learning_rate=0.02)
    processor = Processor(pe.load_model("tiny-vlm").processor.tokenizer, words)
    after = sft.sft(before, processor, Gallery(words), shown, settings)
    assert fingerprint(after.backbone) == bits
    assert fingerprint(after.slots) != fingerprint(before.slots)


def test_the_sampler_and_the_trainer_agree(batch: Batch) -> None:
    weights = Weights(quantize.quantized_state(state(), "nf4"), random_roles("policy").weights("policy").bank)
    sampling = Sampling(max_tokens=12)
    keys = jax.random.split(jax.random.key(0), len(batch.prompts.tokens))
    drawn = sample(CONFIG, *weights, batch.prompts, keys, group=2, sampling=sampling)
    again = forward.score_policy(CONFIG, weights, batch.prompts, drawn.completions, sampling)
    np.testing.assert_allclose(drawn.logprobs, again.logprobs, rtol=0, atol=2e-5)


def test_a_tuned_policy_is_read_back_over_the_backbone_that_it_was_tuned_on(tmp_path: Path) -> None:
    model, config = pe.load_model("tiny-vlm", quantize="nf4"), TuneConfig(quantize="nf4")
    files.save_role(tmp_path / "adapters/sft", attach(model, config), "sft", model.config, "tiny-vlm")
    for settings, expected in (({"quantize": "nf4"}, model), ({}, pe.load_model("tiny-vlm"))):
        asked = {"task": "pe/easy-vqa@1", "model": "tiny-vlm", "settings": settings}
        (tmp_path / "config.json").write_text(json.dumps(asked))
        assert fingerprint(pe.load_policy(tmp_path).weights.state) == fingerprint(expected.state)


def quantized_roles() -> Roles:
    return random_roles("policy")._replace(backbone=quantize.quantized_state(state(), "int8"))


def test_what_needs_weights_in_full_is_refused(tmp_path: Path) -> None:
    made, message = quantized_roles(), r"the backbone is quantised \(int8\), and .* Load the model without quantize"
    with pytest.raises(UserError, match=message):
        roles.merged(made.weights("policy"))
    with pytest.raises(UserError, match=message):
        made.start("sft", BACKBONE)
    with pytest.raises(UserError, match=message):
        backbone.save_state(tmp_path / "copy", made.backbone, jnp.dtype(jnp.float32))
    assert not (tmp_path / "copy").exists()
    with pytest.raises(OutOfRange, match="mode full trains all weights, and a backbone quantised to nf4"):
        TuneConfig(mode="full", quantize="nf4")
    with pytest.raises(UserError, match="no quantisation 'int4'; there are int8, nf4, or None"):
        pe.load_model("tiny-vlm", quantize="int4")
    with pytest.raises(UserError, match="nf4 packs rows in pairs, and this model has a matrix of 33 rows: use int8"):
        quantized(kernel(33, 8), "nf4")


def test_the_command_line_says_so_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tune", "pe/easy-vqa", "--mode", "full", "--quantize", "int8", "--out", str(tmp_path / "run")]) == 2
    assert "use mode lora, or leave quantize out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
