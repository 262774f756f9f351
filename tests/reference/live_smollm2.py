"""SmolLM2-135M out of its package: its greedy text equals that of transformers, and it can be given eyes.

pytest -n 0 tests/reference/live_smollm2.py       (extra `reference`; `make test-reference` runs it)
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow
from transformers import AutoModelForCausalLM, AutoTokenizer

import pe_rlhf_mm as pe
from pe_rlhf_mm.assets import smol_vlm
from pe_rlhf_mm.checkpoints.fetch import fetch
from pe_rlhf_mm.data.images import Gallery
from pe_rlhf_mm.rollout.load import policy_from

LENGTH = 64
TEXTS = ["The capital of France is", "A login button is", "def fibonacci(n):"]
QUESTIONS = ["What is the capital of France?", "Explain what a web browser does."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch("smollm2-135m", tmp_path_factory.mktemp("models") / "smollm2")


def test_greedy_text_is_that_of_transformers(folder: Path) -> None:
    torch.set_num_threads(1)
    tokenizer, reference = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    reference = reference.float().eval()

    def theirs(ids: list[int]) -> str:
        made = reference.generate(torch.tensor([ids]), max_new_tokens=LENGTH, do_sample=False)[0, len(ids) :]
        return tokenizer.decode([token for token in made.tolist() if token != tokenizer.eos_token_id])

    policy = policy_from(folder)
    assert policy.complete(TEXTS, max_tokens=LENGTH) == [theirs(tokenizer(text)["input_ids"]) for text in TEXTS]
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    asked = [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=True)["input_ids"] for c in chats]
    answered = policy.generate([[pe.Message("user", question)] for question in QUESTIONS], max_tokens=LENGTH)
    assert [reply for (reply,) in answered] == [theirs(ids) for ids in asked]
    assert "Paris" in answered[0][0]


def test_it_learns_to_see_and_still_reads(folder: Path, tmp_path: Path) -> None:
    """Two steps of lessons: what is learned is little, but everything is in its place."""
    smol_vlm.build(folder, tmp_path / "smol-vlm", steps=2)
    model, text = pe.load_model(tmp_path / "smol-vlm"), pe.load_model(folder)
    assert model.config.vision is not None
    assert model.config.vocabulary == text.config.vocabulary
    picture = pe.Message("user", [pe.Image(Pillow.new("RGB", (64, 64), "red")), pe.Text("Name its hue.")])
    (encoded,) = model.processor.encode([[picture]], Gallery(model.config))
    assert encoded.tokens.count(model.config.image_id) == 16
    (answer,) = policy_from(tmp_path / "smol-vlm").complete(TEXTS[:1], max_tokens=LENGTH)
    assert "Paris" in answer
