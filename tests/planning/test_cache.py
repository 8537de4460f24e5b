import json

import pytest

from sparsekit.errors import SparsekitWarning
from sparsekit.planning import cache as module
from sparsekit.planning.cache import Cache


def only_file(folder):
    (path,) = folder.iterdir()
    return path


def test_what_is_put_is_found_by_the_next(cache):
    first = Cache()
    first.put("layer", {"csr_mm_native": 1e-3})
    assert not cache.exists()
    first.save()
    assert Cache().get("layer") == {"csr_mm_native": 1e-3}
    assert Cache().get("other") is None
    assert only_file(cache).suffix == ".json"


def test_two_processes_keep_each_others_times(cache):
    one, other = Cache(), Cache()
    one.put("a", {"k": 1.0})
    other.put("b", {"k": 2.0})
    one.save()
    other.save()
    assert Cache().get("a") == {"k": 1.0}
    assert Cache().get("b") == {"k": 2.0}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 0, "times": {}}',
        '{"version": 1}',
        '{"version": 1, "times": {"a": 3}}',
        '{"version": 1, "times": {"a": {"k": "fast"}}}',
        '{"version": 1, "times": {"a": {"k": -1.0}}}',
        '{"version": 1, "times": {"a": {"k": NaN}}}',
        '{"version": 1, "times": {"a": {"k": Infinity}}}',
    ],
)
def test_a_corrupt_file_is_ignored_with_a_warning_and_written_anew(cache, text):
    first = Cache()
    first.put("layer", {"k": 1.0})
    first.save()
    only_file(cache).write_text(text)
    with pytest.warns(SparsekitWarning, match="ignoring the measurements in"):
        second = Cache()
    assert second.get("layer") is None
    second.put("layer", {"k": 2.0})
    with pytest.warns(SparsekitWarning, match="ignoring"):
        second.save()
    assert Cache().get("layer") == {"k": 2.0}


def test_a_folder_that_cannot_be_written_is_a_warning(cache, monkeypatch):
    cache.write_text("a file in the place of the folder")
    found = Cache()
    found.put("layer", {"k": 1.0})
    with pytest.warns(SparsekitWarning, match=r"measurements are not kept: .* cannot be written"):
        found.save()
    assert found.get("layer") == {"k": 1.0}


def test_nothing_half_written_is_left_behind(cache, monkeypatch):
    def fails(source, target):
        raise PermissionError("read-only")

    monkeypatch.setattr(module.os, "replace", fails)
    found = Cache()
    found.put("layer", {"k": 1.0})
    with pytest.warns(SparsekitWarning, match="read-only"):
        found.save()
    assert list(cache.iterdir()) == []


def test_it_can_be_switched_off(cache, monkeypatch):
    monkeypatch.setenv("SPARSEKIT_CACHE", "off")
    found = Cache()
    found.put("layer", {"k": 1.0})
    found.save()
    assert Cache().get("layer") is None
    assert not cache.exists()


def test_another_machine_or_build_has_another_file(cache, monkeypatch):
    for build in ("one", "two"):
        monkeypatch.setattr(module, "fingerprint", lambda build=build: {"build": build})
        found = Cache()
        assert found.get("layer") is None
        found.put("layer", {"k": 1.0})
        found.save()
    assert len(list(cache.iterdir())) == 2
    assert {json.loads(path.read_text())["machine"]["build"] for path in cache.iterdir()} == {"one", "two"}


def test_a_folder_that_cannot_be_looked_into_is_a_warning(cache, monkeypatch):
    def forbidden(self, *args, **kwargs):
        raise PermissionError("not yours")

    monkeypatch.setattr(module.Path, "read_text", forbidden)
    monkeypatch.setattr(module.Path, "stat", forbidden)
    with pytest.warns(SparsekitWarning, match="ignoring the measurements in .* not yours"):
        assert Cache().get("layer") is None


def test_without_a_home_nothing_is_kept(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SPARSEKIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(module.Path, "home", homeless)
    assert module.folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(module.folder()) == "/somewhere/sparsekit"
