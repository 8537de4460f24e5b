import pytest

from sparsekit.planning.jobs import AS_IS, ConvJob


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Measurements of the tests go to a folder of their own."""
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def network(monkeypatch):
    """Made-up seconds of one run of a whole model, by the order of its images; each is run once all the same."""
    seconds = {AS_IS: 10.0, "contiguous": 4.0, "channels_last": 6.0, "mixed": 5.0}

    def fastest(candidates, budget_s, clock):
        for call in candidates.values():
            call()
        return dict(sorted(((name, seconds[name]) for name in candidates), key=lambda item: item[1]))

    monkeypatch.setattr("sparsekit.planning.planner.fastest", fastest)
    return seconds


@pytest.fixture
def measured(monkeypatch, network):
    """Made-up times instead of measured ones: by kernel name, the same for every layer; counts the measurements.

    The time of a convolution's kernel may be a function of the job; of those that refuse the job it is left out.
    """
    times = {
        "dense_linear_reference": 10.0,
        "dense_linear_onednn": 9.8,
        "csr_mv_native": 3.0,
        "csr_mm_native": 4.0,
        AS_IS: 10.0,
        "dense_conv_reference": 10.0,
        "dense_conv_onednn": 9.8,
        "csr_conv_native": 4.0,
    }
    jobs = []

    def measure(job):
        jobs.append(job)
        if isinstance(job, ConvJob):
            found = {name: times[name] for name in job.calls(job.example()) if name in times}
            return {name: time(job) if callable(time) else time for name, time in found.items()}
        linear = {name: time for name, time in times.items() if "conv" not in name and name != AS_IS}
        return {name: time for name, time in linear.items() if job.mask.sparsity or name.startswith("dense")}

    monkeypatch.setattr("sparsekit.planning.planner.measure", measure)
    monkeypatch.setattr("sparsekit.planning.planner.other_dtypes", lambda *_: ())
    return times, jobs
