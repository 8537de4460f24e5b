import pytest
import torch

from sparsekit.demo import installed
from sparsekit.demo.cnn.digits import Digits, load_digits
from sparsekit.errors import InputError

pytest.importorskip("sklearn")


def test_every_digit_is_on_one_side_and_the_split_is_the_same_each_time():
    found, again = load_digits(), load_digits()
    assert found.images.shape == (1437, 1, 16, 16)
    assert found.test_images.shape == (360, 1, 16, 16)
    assert torch.equal(found.test_images, again.test_images)
    # 1797 images, no two of them alike
    assert len({tuple(image.flatten().tolist()) for image in torch.cat([found.images, found.test_images])}) == 1797
    assert found.test_labels.bincount().min() >= 34


def test_images_are_normalised():
    images = load_digits(side=8).images
    assert images.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert images.std().item() == pytest.approx(1.0, abs=1e-5)


def test_an_epoch_sees_every_image_once():
    data = Digits(torch.arange(10.0), torch.arange(10), torch.zeros(1), torch.zeros(1))
    batches = list(data.shuffled(4, torch.Generator().manual_seed(0)))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.cat([labels for _, labels in batches]).sort().values.tolist() == list(range(10))
    assert all(torch.equal(images, labels.float()) for images, labels in batches)


def test_accuracy_counts_right_answers_of_all_batches():
    answers = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 2, 0]), 3).float()
    data = Digits(answers, torch.zeros(5), answers, torch.tensor([0, 1, 2, 1, 1]))
    assert data.accuracy(torch.nn.Identity(), 2) == pytest.approx(0.6)


@pytest.mark.parametrize(("package", "name"), [("sklearn", "scikit-learn"), ("transformers", "transformers")])
def test_a_missing_package_is_named(monkeypatch, package, name):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=rf"what it is needs {name}: pip install 'sparsekit\[demo\]'"):
        installed.expect_installed(package, "what it is")
