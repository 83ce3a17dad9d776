"""The two texts that come with Python itself, so that a first run needs no download.

``python-docs``    the language reference that CPython carries for ``help()``: half a megabyte, one document a topic
``python-stdlib``  the source of the standard library without its tests: about twelve megabytes, one document a file
"""

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steepest.data.formats import Document
from steepest.errors import DataError

BUILTIN = ("python-docs", "python-stdlib")

_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def python_docs() -> Iterator[Document]:
    """The language reference, one document per topic, sorted by name.

    >>> len(list(python_docs())) > 50
    True
    """
    for _, text in sorted(_topics().items()):
        yield (text.encode(),)


def python_docs_identity() -> list[Any]:
    """What decides the content of ``python-docs``."""
    digest = hashlib.sha256()
    for name, text in sorted(_topics().items()):
        digest.update(f"{name}\0{text}\0".encode())
    return ["python-docs", digest.hexdigest()]


def python_stdlib_files() -> list[Path]:
    """The ``.py`` files of the standard library in sorted order, without tests and installed packages.

    >>> any(path.name == "argparse.py" for path in python_stdlib_files())
    True
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_LIBRARY and not name.startswith(".")]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    if not files:
        raise DataError(
            f"python-stdlib: this Python {sys.version.split()[0]} has no source files in {root}; give a text file"
        )
    return sorted(files, key=lambda path: path.relative_to(root).parts)


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            f"python-docs: this Python {sys.version.split()[0]} comes without pydoc_data; "
            "give a text file, or python-stdlib"
        ) from None
    return dict(topics)
