"""Sweeps: many reports in parallel on Dask; complete reports are not made again."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from dask.distributed import Client
from forked_workers import forked_workers
from template import OPEN, template
from waiting import wait_for

from workbench import cli
from workbench.core.errors import UserError
from workbench.hosts.reports.manifest import read_manifest
from workbench.hosts.reports.sweep import parse_grid, sweep
from workbench.launch.cluster import local_cluster
from workbench.launch.parameter_list import read_parameter_list

SHOW_USAGE = 'report.show("codebook_usage")'
WAIT_WHILE_FILE_EXISTS = """
import time
from pathlib import Path
while seed == 1 and hold and Path(hold).exists():
    time.sleep(0.1)
""".strip()
PARAMETERS = 'run: str = ""\nseed: int = 0\nhold: str = ""'
EXIT_TIMEOUT_S = 120


@pytest.fixture
def source(tmp_path) -> Path:
    """Return a template of one section that waits if seed is 1 and the file `hold` exists."""
    cells = (OPEN, WAIT_WHILE_FILE_EXISTS, SHOW_USAGE)
    return template(tmp_path / "short.ipynb", *cells, parameters=PARAMETERS)


def command(source: Path, out: Path, *options: object) -> list[str]:
    python = [sys.executable, "-X", "faulthandler", "-m", "workbench"]
    return [*python, "sweep", str(source), "--out", str(out), *map(str, options)]


def allow_interrupts() -> None:
    """Undo that a shell lets the commands it starts in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def exit_code(process: subprocess.Popen, log: Path) -> int:
    """Return the exit code of a process; if it hangs, fail with the stacks of its threads."""
    try:
        return process.wait(EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        process.wait()
        message = f"no exit within {EXIT_TIMEOUT_S} s:\n{log.read_text()}"
        raise AssertionError(message) from None


def report_page(out: Path, trial: str) -> Path:
    return out / trial / "reports" / "short.html"


def write_times(out: Path) -> dict[str, float]:
    """Return the modification time of each report of a sweep."""
    pages = out.glob("*/reports/short.html")
    return {page.parents[1].name: page.stat().st_mtime for page in pages}


# Parameters


def test_grid_contains_every_combination():
    points = parse_grid("codebook_size=64, 256; num_tokens=4,8")
    assert [(point["codebook_size"], point["num_tokens"]) for point in points] == [
        ("64", "4"),
        ("64", "8"),
        ("256", "4"),
        ("256", "8"),
    ]


@pytest.mark.parametrize("text", ["codes", "codes=", "codes=1,,2", "=1", "codes=1;codes=2", " ; "])
def test_invalid_grid_raises(text):
    with pytest.raises(UserError):
        parse_grid(text)


def test_parameter_list_is_read_from_csv_and_json(tmp_path):
    table, objects = tmp_path / "a.csv", tmp_path / "a.json"
    table.write_text("codebook_size,num_tokens\n64,4\n256,\n", encoding="utf-8")
    objects.write_text(json.dumps([{"codebook_size": 64, "compare_with": ["x", "y"]}]), "utf-8")
    assert read_parameter_list(table) == [
        {"codebook_size": "64", "num_tokens": "4"},
        {"codebook_size": "256"},
    ]
    assert read_parameter_list(objects) == [{"codebook_size": 64, "compare_with": ["x", "y"]}]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", "{}"), ("a.json", "[1]"), ("a.json", "["), ("a.csv", "a\n1,2\n"), ("a.csv", "")],
)
def test_invalid_parameter_list_raises(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_parameter_list(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameter_sets", "options", "parts"),
    [
        ([{"seed": "0"}, {"seed": "x"}], {}, ["seed-x: ", "`x`"]),
        ([{"seed": 0}, {"sed": 1}], {}, ["sed-1: ", "Did you mean `seed`"]),
        ([{"seed": 0}, {"seed": "0"}], {}, ["seed-0"]),
        ([{"seed": 0}], {"memory": "much"}, ["memory", "`much`"]),
    ],
)
def test_parameters_are_checked_before_running(
    trained, tmp_path, source, parameter_sets, options, parts
):
    out = tmp_path / "out"
    with pytest.raises(UserError) as error:
        sweep(str(source), parameter_sets, out, run=str(trained / "soft-4"), **options)
    assert all(part in str(error.value) for part in parts)
    assert not out.exists()


def test_sweep_needs_a_grid_or_a_list(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["workbench", "sweep", str(source), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_request:
        cli.main()
    assert "--grid" in exit_request.value.code and "--list" in exit_request.value.code


# Results


@pytest.fixture
def fast_workers() -> Iterator[None]:
    """Fork the Dask workers of a test."""
    with forked_workers():
        yield


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.usefixtures("fast_workers")
def test_sweep_compares_runs_and_skips_complete_reports(trained, tmp_path, source):
    parameter_sets = [{"run": str(trained / "soft-4")}, {"run": str(trained / "soft-2")}]
    out = tmp_path / "out"
    page = sweep(str(source), parameter_sets[:1], out, seed=3)
    assert page == out / "index.html" and not (out / "reports").exists()
    first_times = write_times(out)
    (first_trial,) = first_times
    sweep(str(source), parameter_sets, out, workers=1, seed=3)
    second_times = write_times(out)
    assert len(second_times) == 2 and second_times[first_trial] == first_times[first_trial]
    comparison = read_manifest(out / "reports" / "comparison.html")
    assert [run["name"] for run in comparison["runs"]] == ["soft-4", "soft-2"]
    assert page.read_text(encoding="utf-8").count("<article") == 3
    assert all(read_manifest(report_page(out, trial))["seed"] == 3 for trial in second_times)


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.usefixtures("fast_workers")
def test_sweep_of_trainings_on_a_given_scheduler(tmp_path):
    from dask.distributed import LocalCluster

    tiny = {"recipe": "ae-digits", "steps": 10, "width": 16, "depth": 1, "warmup_steps": 5}
    out = tmp_path / "out"
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        address = cluster.scheduler_address
        sweep("training", [{"num_tokens": 2}], out, scheduler=address, **tiny)
    manifest = read_manifest(out / "num_tokens-2" / "reports" / "training.html")
    assert manifest["runs"][0]["num_tokens"] == 2 and manifest["failed"] == 0
    assert (out / "num_tokens-2" / "step-000010.safetensors").exists()


@pytest.mark.slow
def test_unreachable_scheduler_raises(trained, tmp_path, source):
    address = "tcp://127.0.0.1:9"
    run = str(trained / "soft-4")
    with pytest.raises(UserError) as error:
        sweep(str(source), [{}], tmp_path / "out", run=run, scheduler=address)
    assert address in str(error.value)


@pytest.mark.slow
def test_cluster_refuses_clients_without_its_certificate():
    with local_cluster(1) as cluster:
        with Client(cluster) as client:
            assert client.submit(sum, [1, 2]).result(timeout=30) == 3
        address = cluster.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        assert not can_connect(address, "Security.temporary()")
        assert not can_connect(address, "None")
        assert not can_connect(address.replace("tls://", "tcp://"), "None")
        assert [page for page in listening_pages() if page.startswith("HTTP/1.1 200")] == []


def can_connect(address: str, security: str) -> bool:
    """Return whether another process can connect to a scheduler.

    A client that failed to connect may block when it is deleted, so that it gets its own process.
    """
    code = "from dask.distributed import Client, Security; import os\n"
    code += f"Client({address!r}, security={security}, timeout=2)\n"
    code += "os._exit(0)"
    command = [sys.executable, "-c", code]
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def listening_pages() -> list[str]:
    """Return the answers of all ports of this process and its children to a browser."""
    process = psutil.Process()
    answers = []
    for owner in (process, *process.children(recursive=True)):
        for connection in owner.net_connections():
            if connection.status == psutil.CONN_LISTEN:
                with socket.create_connection(connection.laddr, timeout=5) as stream:
                    stream.sendall(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
                    with suppress(OSError):
                        answers.append(stream.recv(100).decode(errors="replace"))
    return answers


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.usefixtures("fast_workers")
def test_failed_reports_leave_the_others_intact(trained, tmp_path):
    cell = """
if seed == 1:
    1 / 0
if seed == 2:
    import time
    import numpy
    array = numpy.ones(400_000_000)
    time.sleep(60)
""".strip()
    source = template(tmp_path / "short.ipynb", OPEN, SHOW_USAGE, "## Memory", cell)
    out = tmp_path / "out"
    options = {"run": str(trained / "soft-4"), "workers": 2, "memory": "1.5GB"}
    with pytest.raises(UserError) as error:
        sweep(str(source), [{"seed": seed} for seed in range(3)], out, **options)
    message = str(error.value)
    assert "2 of 3 reports failed" in message and "index.html" in message
    assert ("seed-2: " in message and "1.5 GB" in message) or "seed-1: 1 of 2" in message
    manifests = [read_manifest(report_page(out, f"seed-{seed}")) for seed in range(3)]
    assert [manifest["failed"] for manifest in manifests] == [0, 1, 1]
    assert all(manifest["done"] == 1 for manifest in manifests)


# Interruption


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_sweep_leaves_no_process_and_resumes(trained, tmp_path, source, number):
    out, hold, log = tmp_path / "out", tmp_path / "hold", tmp_path / "log.txt"
    options = ("--grid", "seed=0,1", "--run", trained / "soft-4", "--workers", 1, "--hold", hold)
    words = command(source, out, *options)
    hold.touch()
    with log.open("w") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=file, process_group=0, preexec_fn=allow_interrupts
        )
        wait_for(lambda: len(write_times(out)) == 1 and len(kernels(process)) == 1)
        descendants = psutil.Process(process.pid).children(recursive=True)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # like Ctrl-C, which also reaches the workers
        else:
            process.kill()
        expected_code = 130 if number == signal.SIGINT else -9
        assert exit_code(process, log) == expected_code
    assert "Traceback" not in log.read_text()
    assert psutil.wait_procs(descendants, timeout=20)[1] == []
    times = write_times(out)
    hold.unlink()
    resumed = subprocess.run(words, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1] == str(out / "index.html")
    final_times = write_times(out)
    assert final_times.keys() == {"seed-0", "seed-1"}
    assert final_times["seed-0"] == times["seed-0"]
    assert all(read_manifest(report_page(out, trial))["failed"] == 0 for trial in final_times)


def kernels(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "ipykernel" in " ".join(child.cmdline())]
