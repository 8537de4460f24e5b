import pytest
import torch

from sparsekit.demo.minilm import encoder as module
from sparsekit.demo.minilm.encoder import load_encoder, packaged_folder, pool
from sparsekit.demo.minilm.fidelity import Examination, top_one
from sparsekit.errors import InputError

TEXTS = ["a longer text than most", "short", "neither of the two", "short too"]


def test_embeddings_come_back_in_order_at_unit_length_and_untouched_by_padding(encoder):
    found = encoder.embed(TEXTS, size=2)
    alone = torch.cat([encoder.embed([text]) for text in TEXTS])
    assert torch.allclose(found, alone, atol=1e-5)
    assert torch.allclose(found.norm(dim=1), torch.ones(len(TEXTS)))


def test_pool_ignores_padding():
    states = torch.tensor([[[3.0, 4.0], [100.0, -100.0]]])
    assert torch.allclose(pool(states, torch.tensor([[1, 0]])), torch.tensor([[0.6, 0.8]]))


def test_unpadded_batches_hold_every_text_and_at_most_so_many_tokens(encoder):
    batches = encoder.unpadded(TEXTS, tokens=20, length=16)
    assert sum(len(batch["input_ids"]) for batch in batches) == len(TEXTS)
    assert all(batch["attention_mask"].all() for batch in batches)
    assert all(batch["input_ids"].numel() <= 20 for batch in batches)


@pytest.mark.parametrize("text", ["x" * 100, "ab"])
def test_a_sheet_is_filled_by_cutting_or_repeating(encoder, text):
    sheet = encoder.sheet(text, rows=2, columns=5)
    assert sheet["input_ids"].shape == sheet["attention_mask"].shape == (2, 5)


def test_examination_finds_no_fault_in_the_dense_encoder(encoder, corpus):
    fidelity = Examination(encoder, corpus.held_out).judge(encoder)
    assert fidelity.cosine == pytest.approx(1.0, abs=1e-5)
    assert 0.0 <= fidelity.retrieval <= 1.0


def test_top_one_counts_the_rows_that_find_their_own():
    assert top_one(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]) == 0.5


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match="expected a model that transformers can load"):
        load_encoder(str(tmp_path))


def test_a_package_that_is_missing_is_no_error(monkeypatch):
    monkeypatch.setattr(module, "PACKAGE", "a_package_that_nobody_has")
    assert packaged_folder() is None
