"""What commands share: how options are written, and how refusals of the detector are said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from cyclopts import Parameter

from gapcell.refusal import Refusal

Names = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


@contextmanager
def told() -> Iterator[None]:
    """Turns what the detector refuses, and what the file system does, into a `Refusal`."""
    from gapcell.detect import ModelError, ProcessError, TableError

    try:
        yield
    except (TableError, ModelError, ProcessError, OSError) as error:
        raise Refusal(" ".join(str(error).split())) from None
