"""Every piece of Python in the README and the guides runs, prints what stands below it, and draws its picture."""

import importlib.util
import re
from pathlib import Path

import pytest
from docs.pictures import SAVED, blocks, programs, ran

ROOT = Path(__file__).parents[1]
BLOCKS = [
    pytest.param(document, code, printed, id=f"{document.relative_to(ROOT)}-{place}")
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for place, (code, printed) in enumerate(programs(document))
]


@pytest.mark.parametrize(("document", "code", "printed"), BLOCKS)
def test_a_piece_of_python_does_what_the_text_says(document, code, printed, tmp_path, request):
    for package in ("torch", "jax", "keras", "onnxruntime", "pyspark"):
        if re.search(rf"^(import|from) {package}\b", code, re.MULTILINE) and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if "pyspark" in code:
        request.getfixturevalue("java")
    done = ran(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert printed is None or done.stdout == printed
    for picture in SAVED.findall(code):
        assert (tmp_path / picture).stat().st_size > 1000
        assert (document.parent / picture).is_file(), "python docs/pictures.py draws it"
        assert f"]({picture})" in document.read_text(encoding="utf-8"), "a picture that is drawn is shown"


def test_what_a_text_says_is_compared(tmp_path):
    ((code, printed),) = blocks("So:\n\n```python\nprint(1)\n```\n\n```\n2\n```\n")
    assert ran(code, tmp_path).stdout != printed
    assert blocks("```python\nraise SystemExit(3)\n```\n")[0][1] is None
    assert ran("raise SystemExit(3)", tmp_path).returncode == 3
