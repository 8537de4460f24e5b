import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Measurements of the tests go to a folder of their own."""
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch):
    """Made-up times instead of measured ones: by kernel name, the same for every layer; counts the measurements."""
    times = {
        "dense_linear_reference": 10.0,
        "dense_linear_onednn": 9.8,
        "csr_mv_native": 3.0,
        "csr_mm_native": 4.0,
    }
    jobs = []

    def measure(job):
        jobs.append(job)
        return {name: time for name, time in times.items() if job.mask.sparsity or name.startswith("dense")}

    monkeypatch.setattr("sparsekit.planning.planner.measure", measure)
    return times, jobs
