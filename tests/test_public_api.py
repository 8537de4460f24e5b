import types

import sparsekit as sk

PROMISED = """prune Magnitude Random Wanda SparseGPT Uniform Global ERK Unstructured NM Block plan compile save load nn
Mask SparsekitError""".split()


def test_all_is_sorted_and_is_what_is_there():
    assert sorted(sk.__all__) == sorted(set(sk.__all__))
    public = {
        name
        for name, value in vars(sk).items()
        if not name.startswith("_") and not (isinstance(value, types.ModuleType) and name not in sk.__all__)
    }
    assert public == set(sk.__all__)


def test_promised_names_are_public():
    assert set(PROMISED) <= set(sk.__all__)
    assert sk.nn.SparseLinear.from_dense
