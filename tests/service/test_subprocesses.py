"""Processes that the service starts beside itself run its own code, whatever lies in the folder they are started in."""

import subprocess

from service.subprocesses import child_environment, module_command


def test_nothing_of_the_current_folder_is_imported(tmp_path):
    for name in ("secrets", "model", "service", "hashlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the file of the folder was run')\n")
    # a module of ours that imports one of Python's with such a name
    command = module_command("service.access.keys")
    ended = subprocess.run(command, cwd=tmp_path, env=child_environment(), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
