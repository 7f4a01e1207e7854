"""The wheel: its content and metadata, and that it works where only the wheel is installed."""

import email
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = "--steps 5 --num-tokens 2 --width 16 --depth 1 --heads 2 --codebook-size 8 --limit 60"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps"]
    command += ["--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_templates_and_types_and_no_pictures(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    templates = {Path(name).name for name in names if "/templates/" in name}
    assert {path.name for path in (ROOT / "reports").glob("*.ipynb")} <= templates
    assert "workbench/py.typed" in names
    assert not [name for name in names if name.endswith((".png", ".jpg", ".gif"))]
    assert {Path(name).parts[0] for name in names if "dist-info" not in name} == {"workbench"}


@pytest.mark.slow
def test_wheel_metadata_is_complete(wheel):
    archive = zipfile.ZipFile(wheel)
    path = next(name for name in archive.namelist() if name.endswith("METADATA"))
    metadata = email.message_from_bytes(archive.read(path))
    assert metadata["Name"] == "visual-tokenizer-workbench"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"]
    assert metadata["Keywords"]
    assert metadata.get_all("Classifier")
    assert metadata["Requires-Python"] == ">=3.11"


@pytest.mark.slow
def test_wheel_trains_and_reports_without_the_checkout(wheel, tmp_path):
    """Install the wheel into an environment without the checkout.

    The dependencies come from this environment through a path file. Path files in that folder are
    not read, so the editable installation of the checkout is not visible.
    """
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    scheme = {"base": str(environment), "platbase": str(environment)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    dependencies = sysconfig.get_path("purelib")
    (site_packages / "dependencies.pth").write_text(f"{dependencies}\n", encoding="utf-8")
    (environment / "share").mkdir(exist_ok=True)
    (environment / "share" / "jupyter").symlink_to(Path(sys.prefix) / "share" / "jupyter")
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    command += ["install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, text=True)

    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def workbench(*words: str) -> str:
        done = subprocess.run(
            [str(environment / "bin" / "workbench"), *words],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import workbench; print(workbench.__file__)"
    python = [str(environment / "bin" / "python"), "-c", code]
    location = subprocess.run(python, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert Path(location.stdout.strip()).is_relative_to(environment)
    assert "train" in workbench("--help")
    workbench("train", "softvq-digits", "--out", "runs/a", *TINY.split())
    workbench("report", "codebook", "--run", "runs/a", "--out", "report.html")
    assert (tmp_path / "report.html").stat().st_size > 100_000
