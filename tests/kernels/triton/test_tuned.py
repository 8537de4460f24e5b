"""Tables of tuned tiles: what is written is read, and what cannot be read is left alone."""

from dataclasses import replace

import pytest

from sparsekit.errors import SparsekitWarning
from sparsekit.kernels.gpu import H100
from sparsekit.kernels.triton import launch, tile
from sparsekit.kernels.triton.launch import Launch, compiling
from sparsekit.kernels.triton.tile import Case, Tile, TunedTable, file_name, trying, tune, tuned_for

CASE = Case("block_csr_mm_triton", "bfloat16", "64x64", 4096, 4096, 1024, 0.5)
TABLE = TunedTable({CASE: Tile(128, 64, 64, 8, 4, 2, True), replace(CASE, batch=1): Tile(16, 64, 64)})


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tile, "FOLDER", tmp_path / "tuned")
    tile._read.cache_clear()
    yield tmp_path / "tuned"
    tile._read.cache_clear()


def test_a_gpu_that_was_never_at_hand_has_no_table():
    assert tuned_for(H100) == TunedTable({})


def test_what_is_tuned_is_found_from_then_on(folder):
    assert tuned_for(H100).nearest(CASE) is None
    tune(H100, TABLE, machine="NVIDIA H100", date="2026-11-23")
    assert file_name(H100) == "nvidia-h100-80gb-hbm3.json"
    assert '"machine": "NVIDIA H100"' in (folder / file_name(H100)).read_text()
    assert tuned_for(H100) == TABLE
    assert tuned_for(replace(H100, name="another")) == TunedTable({})


def test_the_nearest_case_of_the_same_kernel_dtype_and_pattern_counts():
    assert TABLE.nearest(replace(CASE, rows=8192)) == TABLE.tiles[CASE]
    assert TABLE.nearest(replace(CASE, batch=4)) == Tile(16, 64, 64)
    assert TABLE.nearest(replace(CASE, rows=2**20)) is None
    for other in ({"kernel": "another"}, {"dtype": "float16"}, {"pattern": "32x32"}):
        assert TABLE.nearest(replace(CASE, **other)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"tiles": 3}',
        '{"tiles": [3]}',
        '{"tiles": [{"kernel": "k"}]}',
        "new case",
        "new tile",
        "no tile",
    ],
)
def test_a_file_of_another_version_is_ignored_with_a_warning(folder, text):
    tune(H100, TABLE)
    path = folder / file_name(H100)
    written = path.read_text()
    changed = {
        "new case": written.replace('"rows"', '"sides": 1, "rows"', 1),
        "new tile": written.replace('"stages"', '"clusters": 2, "stages"', 1),
        "no tile": written.replace('"tile": {', '"tile": 3, "other": {', 1),
    }
    path.write_text(changed.get(text, text))
    with pytest.warns(SparsekitWarning, match=r"ignoring the tuned tiles in .*nvidia-h100"):
        assert tuned_for(H100) == TunedTable({})
    assert tuned_for(H100) == TunedTable({})  # and says so once


def test_a_tile_may_lack_what_has_a_default():
    (first, _) = TABLE.as_json()
    del first["tile"]["persistent"], first["tile"]["splits"]
    assert TunedTable.from_json([first]).tiles == {CASE: Tile(128, 64, 64, 8, 4)}


def test_a_tile_on_trial_goes_before_the_table():
    tune(H100, TABLE)
    with trying(Tile(32, 32, 32)) as asked:
        assert tuned_for(H100).nearest(CASE) == Tile(32, 32, 32)
        assert asked == [CASE]
    assert tuned_for(H100) == TABLE


def test_within_compiling_nothing_is_launched(monkeypatch):
    done = []

    def compile(launch):
        done.append(launch)

    one = Launch("block_csr.multiply", (1,), ())
    monkeypatch.setattr(Launch, "compile", compile)
    with compiling(2):
        one.run()
    assert done == [one]
    assert not launch._COMPILING
