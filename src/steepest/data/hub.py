"""Data sets of the Hugging Face hub, or any local folder that ``datasets.load_dataset`` reads.

    hf:NAME                 the "train" split, or the only one
    hf:NAME:CONFIG          one configuration of it
    hf:NAME:CONFIG:SPLIT    one split; CONFIG may be empty: hf:NAME::validation

The rows are streamed, so nothing but the text column is fetched and no second copy is kept. The revision
(a commit of the data set's repository) is part of the corpus's identity. The last one seen is remembered, so
that a corpus that is already prepared opens without a network.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from steepest.config import nearest
from steepest.data.formats import Document, encode_text, missing_column, one_line
from steepest.errors import DataError


@dataclass(frozen=True)
class HubName:
    """A parsed ``hf:`` source.

    >>> HubName.parse("hf:owner/stories:en:test")
    HubName(name='owner/stories', config='en', split='test')
    """

    name: str
    config: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubName":
        """Read ``hf:NAME[:CONFIG[:SPLIT]]``."""
        name, *rest = text.removeprefix("hf:").split(":")
        if not name or len(rest) > 2:
            raise DataError(f'{text}: expected hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT; got "{text}"')
        return cls(name, *(part or None for part in rest))

    @property
    def is_local(self) -> bool:
        """Whether it names a folder on this machine."""
        return Path(self.name).expanduser().is_dir()


def revision_of(hub: HubName, cache: Path) -> str:
    """The commit a hub data set stands at now; without a network, where it was last seen."""
    memory = cache / "hub" / quote(hub.name, safe="")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        revision = str(HfApi().dataset_info(hub.name, timeout=10).sha)
    except GatedRepoError:
        raise DataError(
            f"hf:{hub.name}: it asks for a login: accept its terms, then run: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise DataError(f"hf:{hub.name}: the hub has no such public data set; check owner and name") from None
    except Exception as error:  # the transport library, and so the class, changes between versions
        if memory.is_file():
            return memory.read_text(encoding="utf-8")
        raise DataError(
            f"hf:{hub.name}: the Hugging Face hub cannot be reached ({one_line(error)}); "
            "connect to it, or give a local file or directory"
        ) from None
    return revision


def remember_revision(hub: HubName, revision: str, cache: Path) -> None:
    """Keep the revision for the day without a network."""
    memory = cache / "hub" / quote(hub.name, safe="")
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(revision, encoding="utf-8")


def hub_documents(hub: HubName, revision: str | None, column: str) -> Iterator[Document]:
    """One document per row, the text under ``column``."""
    label = f"hf:{hub.name}"
    with _quiet(), tempfile.TemporaryDirectory() as scratch:  # rows are streamed: hardly more than locks
        import datasets

        try:
            rows = datasets.load_dataset(
                str(Path(hub.name).expanduser()) if hub.is_local else hub.name,
                hub.config,
                split=hub.split,
                revision=revision,
                streaming=True,
                cache_dir=scratch,
                download_config=datasets.DownloadConfig(cache_dir=scratch, disable_tqdm=True),
            )
            if isinstance(rows, dict):
                rows = _the_split(rows, label)
            names = rows.column_names or list(next(iter(rows), {}))
            if column not in names:
                raise missing_column(label, column, names)
            for number, row in enumerate(rows.select_columns([column]), start=1):
                yield (encode_text(row[column], f"{label}, row {number}", column),)
        except DataError:
            raise
        except Exception as error:  # builders raise whatever their formats' libraries raise
            raise DataError(f"{label}: datasets cannot read it: {one_line(error)}") from None


def _the_split(splits: dict[str, Any], label: str) -> Any:
    names = list(splits)
    if "train" in splits:
        return splits["train"]
    if len(names) == 1:
        return splits[names[0]]
    guess = nearest("train", names)
    raise DataError(
        f"{label}: it has the splits {', '.join(names)}{guess or ';'} choose one: {label}::{names[0]}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the progress bars and notes of ``datasets``, and give them back afterwards."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from datasets.utils import logging as notes

    hidden, level = are_progress_bars_disabled(), notes.get_verbosity()
    disable_progress_bars()
    notes.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        notes.set_verbosity(level)
        if not hidden:
            enable_progress_bars()
