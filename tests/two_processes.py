"""A script that trains in two processes at once, and that a test also imports, to compare with what it computes."""

import importlib.util
import subprocess
import sys

import torch

GLOO = torch.distributed.is_available() and torch.distributed.is_gloo_available()
WITHOUT_GLOO = "this PyTorch is built without torch.distributed and gloo"


def imported(path):
    """The script as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(path, folder):
    """Run the script as ranks 0 and 1 of 2; one that waits for the other for ever is stopped after two minutes."""
    commands = [[sys.executable, str(path), str(folder), str(rank), "2"] for rank in range(2)]
    running = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in commands]
    try:
        said = [process.communicate(timeout=600)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
