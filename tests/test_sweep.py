"""Sweeps: many reports at once on Dask, each in a process of its own; what is finished is never made again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from template import OPEN, template

from workbench.core.errors import UserError
from workbench.hosts.reports.manifest import read
from workbench.hosts.reports.sweep import grid, listed, sweep

SHORT = 'pages.show("codebook_usage")'
HELD = "import time\nfrom pathlib import Path\nwhile seed == 1 and hold and Path(hold).exists():\n    time.sleep(0.1)"
PARAMETERS = 'run: str = ""\nseed: int = 0\nhold: str = ""'


@pytest.fixture
def source(tmp_path):
    """A template of one section, which waits where seed is 1 and the file `hold` is there."""
    return template(tmp_path / "short.ipynb", OPEN, HELD, SHORT, parameters=PARAMETERS)


def command(source: Path, out: Path, *more: object) -> list[str]:
    python = [sys.executable, "-X", "faulthandler"]
    return [*python, "-m", "workbench", "sweep", str(source), "--out", str(out), *map(str, more)]


def ended(process: subprocess.Popen, said: Path) -> int:
    """The exit code of a command that was told to end; if it hangs, it says where all its threads are."""
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        process.wait()
        raise AssertionError(f"it did not end in 30 s:\n{said.read_text()}") from None


def made(out: Path) -> dict[str, float]:
    """When each report of a sweep was last written."""
    return {p.parents[1].name: p.stat().st_mtime for p in out.glob("*/reports/short.html")}


def wait_for(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


# What is asked for


def test_a_grid_is_every_combination():
    found = grid("codebook_size=64, 256; num_tokens=4,8")
    assert [(one["codebook_size"], one["num_tokens"]) for one in found] == [
        ("64", "4"),
        ("64", "8"),
        ("256", "4"),
        ("256", "8"),
    ]


@pytest.mark.parametrize("text", ["codes", "codes=", "codes=1,,2", "=1", "codes=1;codes=2", " ; "])
def test_a_grid_that_cannot_be_read_is_refused(text):
    with pytest.raises(UserError, match="write name=value,value and ; between the axes"):
        grid(text)


def test_a_list_is_the_rows_of_a_table_or_the_objects_of_a_json_file(tmp_path):
    (tmp_path / "a.csv").write_text("codes,tokens\n64,4\n256,\n", encoding="utf-8")
    assert listed(tmp_path / "a.csv") == [
        {"codebook_size": "64", "num_tokens": "4"},
        {"codebook_size": "256"},
    ]
    (tmp_path / "a.json").write_text(
        json.dumps([{"codebook_size": 64, "others": ["x", "y"]}]), encoding="utf-8"
    )
    assert listed(tmp_path / "a.json") == [{"codebook_size": 64, "others": ["x", "y"]}]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", "{}"), ("a.json", "[1]"), ("a.json", "["), ("a.csv", "a\n1,2\n"), ("a.csv", "")],
)
def test_a_file_that_is_no_list_is_refused_by_name(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(name)):
        listed(tmp_path / name)


@pytest.mark.parametrize(
    ("points", "more", "sentence"),
    [
        ([{"seed": "0"}, {"seed": "x"}], {}, "seed-x: parameter seed is of type int; got `x`"),
        ([{"seed": 0}, {"sed": 1}], {}, "sed-1: .*has hold, run, seed. Did you mean `seed`"),
        ([{"seed": 0}, {"seed": "0"}], {}, "seed-0 is asked for twice"),
        ([{"seed": 0}], {"memory": "much"}, "memory takes a size such as 2GB; got `much`"),
    ],
)
def test_every_point_is_checked_before_anything_runs(
    trained, tmp_path, source, points, more, sentence
):
    with pytest.raises(UserError, match=sentence):
        sweep(str(source), points, tmp_path / "out", run=str(trained / "soft-4"), **more)
    assert not (tmp_path / "out").exists()


def test_a_sweep_takes_a_grid_or_a_list(source, tmp_path):
    done = subprocess.run(command(source, tmp_path / "out"), capture_output=True, text=True)
    assert (
        done.returncode == 1
        and "takes its parameters from --grid or from --list, one of them" in done.stderr
    )


# What is made


def test_a_sweep_makes_a_report_a_point_then_compares_the_runs_and_goes_on_where_it_was(
    trained, tmp_path, source
):
    points = [{"run": str(trained / "soft-4")}, {"run": str(trained / "soft-2")}]
    page = sweep(str(source), points[:1], tmp_path / "out", seed=3)
    assert page == tmp_path / "out" / "index.html" and not (tmp_path / "out" / "reports").exists()
    (name,) = before = made(tmp_path / "out")
    sweep(str(source), points, tmp_path / "out", workers=1, seed=3)
    after = made(tmp_path / "out")
    assert len(after) == 2 and after[name] == before[name]  # the first one was finished
    assert [
        run["name"] for run in read(tmp_path / "out" / "reports" / "comparison.html")["runs"]
    ] == [
        "soft-4",
        "soft-2",
    ]
    assert page.read_text(encoding="utf-8").count("<article") == 3
    assert all(read(tmp_path / "out" / n / "reports" / "short.html")["seed"] == 3 for n in after)


def test_any_scheduler_will_do_and_a_training_is_kept_beside_its_report(tmp_path):
    from dask.distributed import LocalCluster

    tiny = {"recipe": "ae-digits", "steps": 10, "width": 16, "depth": 1, "warmup_steps": 5}
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        sweep(
            "training",
            [{"num_tokens": 2}],
            tmp_path / "out",
            scheduler=cluster.scheduler_address,
            **tiny,
        )
    told = read(tmp_path / "out" / "tokens-2" / "reports" / "training.html")
    assert told["runs"][0]["tokens"] == 2 and told["failed"] == 0
    assert (tmp_path / "out" / "tokens-2" / "step-000010.safetensors").exists()


def test_a_scheduler_that_does_not_answer_is_named(trained, tmp_path, source):
    with pytest.raises(UserError, match="No Dask scheduler answers at tcp://127.0.0.1:9"):
        sweep(
            str(source),
            [{}],
            tmp_path / "out",
            run=str(trained / "soft-4"),
            scheduler="tcp://127.0.0.1:9",
        )


def test_a_report_that_fails_or_takes_too_much_memory_spares_the_others(trained, tmp_path):
    hungry = "import numpy\nkept = numpy.ones(400_000_000)\nimport time\ntime.sleep(60)"
    cell = (
        f"if seed == 1:\n    1 / 0\nif seed == 2:\n    {hungry.replace(chr(10), chr(10) + '    ')}"
    )
    source = template(tmp_path / "short.ipynb", OPEN, SHORT, "## Hunger", cell)
    how = {"run": str(trained / "soft-4"), "workers": 2, "memory": "1.5GB"}
    with pytest.raises(UserError, match="2 of 3 reports failed, see .*index.html: ") as told:
        sweep(str(source), [{"seed": n} for n in range(3)], tmp_path / "out", **how)
    memory = r"seed-2: it took \d\.\d GB of memory, more than the 1.5 GB it may"
    assert re.search(f"{memory}|seed-1: 1 of 2 sections", str(told.value))
    reports = [read(tmp_path / "out" / f"seed-{n}" / "reports" / "short.html") for n in range(3)]
    assert [one["failed"] for one in reports] == [0, 1, 1] and all(
        one["done"] == 1 for one in reports
    )


# What is cut short


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_cut_short_leaves_no_process_and_the_same_command_goes_on(
    trained, tmp_path, source, number
):
    out, hold = tmp_path / "out", tmp_path / "hold"
    words = command(
        source,
        out,
        "--grid",
        "seed=0,1",
        "--run",
        trained / "soft-4",
        "--workers",
        1,
        "--hold",
        hold,
    )
    hold.touch()
    with (tmp_path / "said.txt").open("w") as said:
        process = subprocess.Popen(words, stdout=said, stderr=said, process_group=0)
        wait_for(lambda: len(made(out)) == 1 and len(kernels(process)) == 1)
        started = psutil.Process(process.pid).children(recursive=True)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as Ctrl-C does: it reaches the workers too
        else:
            process.kill()
        assert ended(process, tmp_path / "said.txt") == (130 if number == signal.SIGINT else -9)
    assert "Traceback" not in (tmp_path / "said.txt").read_text()
    assert psutil.wait_procs(started, timeout=20)[1] == []
    before = made(out)
    hold.unlink()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out / "index.html")
    assert made(out).keys() == {"seed-0", "seed-1"} and made(out)["seed-0"] == before["seed-0"]
    assert all(read(out / name / "reports" / "short.html")["failed"] == 0 for name in made(out))


def kernels(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "ipykernel_launcher" in " ".join(child.cmdline())]
