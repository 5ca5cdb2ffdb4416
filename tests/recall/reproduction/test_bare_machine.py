"""The core of the table needs torch, numpy, safetensors and pyyaml, and nothing else that has to be installed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CODE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not on a bare machine")
sys.meta_path.insert(0, Blocker())
import MODULE
"""
MODULES = ("recall.reproduction.runner", "recall.reproduction.report", "benchmarks.gpu_quality")
BLOCKED = "polars typer rich fastapi pydantic redis structlog httpx faiss optuna matplotlib service index"


def test_modules_are_importable_alone():
    code = CODE.replace("BLOCKED", repr(set(BLOCKED.split()))).replace("MODULE", ", ".join(MODULES))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks():
    code = CODE.replace("BLOCKED", repr(set(BLOCKED.split()))).replace("MODULE", "model.data.prepare")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "polars is not on a bare machine" in done.stderr


def test_the_script_writes_rows(folder, tmp_path):
    target = tmp_path / "kuairec"  # a name that has a recipe
    target.symlink_to(folder)
    command = [sys.executable, "-m", "benchmarks.gpu_quality", str(target), "--systems", "popularity", "--seeds", "1"]
    command += ["--processes", "2"]  # one of them has nothing to do
    more = ["--recipe", "best", "--results", str(tmp_path / "q.jsonl"), "--device", "cpu"]
    done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kuairec popularity best seed 0" in (tmp_path / "q.jsonl").read_text() + done.stdout
