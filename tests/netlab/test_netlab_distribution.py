"""netlab as another project has it: installed from its own distribution, with nothing of this repository in sight."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

LIMIT = 300  # seconds; the registry may be slow
SOURCE = Path(__file__).parents[2] / "netlab"
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def run(command: list[str], directory: Path) -> tuple[int, str]:
    """Run it with nothing of ours in the environment, where p2p might be found too; exit code and both outputs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV_"))}
    ran = subprocess.run(
        command, cwd=directory, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=LIMIT,
    )  # fmt: skip
    return ran.returncode, ran.stdout


def done(command: list[str], directory: Path) -> str:
    """What it said, which is shown when it fails."""
    code, said = run(command, directory)
    assert code == 0, said
    return said


@pytest.mark.netlab
def test_the_readmes_tests_run_in_an_empty_project_with_the_installed_wheel(tmp_path: Path) -> None:
    # Building writes beside the sources, and those may be others' to read only.
    source = tmp_path / "source"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    modules = {f"netlab/{path.relative_to(source)}" for path in source.rglob("*.py")}
    environment = tmp_path / "environment"
    done([sys.executable, "-m", "venv", str(environment)], tmp_path)
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    done([*pip, "wheel", "-q", "--no-deps", "-w", "dist", "./source"], tmp_path)
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name == "netlab-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.startswith("netlab-0.1.0.dist-info/")}
    assert packed == modules | {"netlab/py.typed"}
    done([*pip, "install", "-q", f"{wheel}[pytest]"], tmp_path)

    project = tmp_path / "project"
    project.mkdir()
    (example,) = EXAMPLE.findall((SOURCE / "README.md").read_text(encoding="utf-8"))
    (project / "test_others.py").write_text(example, encoding="utf-8")
    pytest_run = [python, "-m", "pytest", "-p", "no:cacheprovider", "--strict-markers", "-W", "error"]
    said = done(pytest_run, project)
    assert "2 passed" in said
    assert re.search(r"^netlab: 2 cases ran( without root)?$", said, re.MULTILINE), said
    # Who names the plugin in a conftest too, as for a copy that is not installed, gets it once.
    (project / "conftest.py").write_text('pytest_plugins = ["netlab.pytest_plugin"]\n', encoding="ascii")
    assert "2 tests collected" in done([*pytest_run, "--collect-only"], project)

    netlab = str(environment / "bin" / "netlab")
    assert "full-cone-x-symmetric" in done([netlab, "list", "full", "symmetric"], project)
    assert Path(done([python, "-c", "import netlab; print(netlab.__file__)"], project)).is_relative_to(environment)
    assert run([netlab, "matrix"], project) == (
        1,
        "netlab: the matrix runs p2p, and the Python package p2p is not installed here\n",
    )


@pytest.mark.netlab
def test_a_source_distribution_holds_the_sources_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    build = (
        "from setuptools import build_meta; import os, sys; os.makedirs(sys.argv[1], exist_ok=True);"
        " build_meta.build_sdist(sys.argv[1])"
    )
    done([sys.executable, "-c", build, str(tmp_path / "dist")], source)
    (sdist,) = (tmp_path / "dist").iterdir()
    with tarfile.open(sdist) as archive:
        packed = {str(Path(*Path(name).parts[1:])) for name in archive.getnames() if name.count("/")}
    generated = {name for name in packed if name.startswith("netlab.egg-info") or name in {"PKG-INFO", "setup.cfg"}}
    assert packed - generated == {path.name for path in source.glob("*.py")} | {
        "README.md", "pyproject.toml", "py.typed",
    }  # fmt: skip
