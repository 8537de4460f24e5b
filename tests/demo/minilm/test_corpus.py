import pytest

from sparsekit.demo.minilm.corpus import Pair, load_corpus, split
from sparsekit.errors import InputError

SENTENCES = [
    f"Return the {word} of a sequence." for word in ("head", "tail", "sum", "mean", "length", "maximum", "end")
]
REST = "Raises an error where there is none to give."


@pytest.fixture
def folder(tmp_path):
    functions = [f'def f{i}():\n    """{text} {REST}"""\n' for i, text in enumerate(SENTENCES)]
    (tmp_path / "a.py").write_text("".join(functions))
    (tmp_path / "b.py").write_text("".join(reversed(functions)))
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.py").write_text('"""Text that nobody would want to learn from at all."""\n')
    return tmp_path


def test_every_text_is_used_once_and_on_one_side_only(folder):
    corpus = load_corpus(folder)
    learned = {split(text).query for text in corpus.calibration}
    judged = {pair.query for pair in corpus.held_out}
    assert learned | judged == set(SENTENCES)
    assert not learned & judged
    assert len(corpus.calibration) + len(corpus.held_out) == len(SENTENCES)


def test_the_corpus_is_the_same_each_time(folder):
    assert load_corpus(folder) == load_corpus(folder)


def test_a_pair_is_cut_after_the_first_sentence():
    assert split("Find it. Then. Stop.") == Pair("Find it.", "Then. Stop.")
    assert split("No end") == Pair("No end", "")
    assert Pair("Find it.", "Then.").text == "Find it. Then."


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected Python files with docstrings"):
        load_corpus(tmp_path)
