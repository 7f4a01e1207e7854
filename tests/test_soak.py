"""A short soak. `make soak` runs a long one over every system."""

import pytest

from benchmarks import soak


@pytest.mark.slow
def test_short_soak_finds_no_failure(capsys):
    arguments = ["--minutes", "0", "--sessions", "1", "--systems", "softvq"]
    status = soak.main([*arguments, "--commands", "train,collect,dashboard"])
    output = capsys.readouterr().out
    assert status == 0, output
    assert "kills: dashboard" in output and "weights and log are equal" in output
