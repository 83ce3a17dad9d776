"""File formats to documents: plain text, JSON lines, CSV and Parquet, also compressed with gzip or zstandard.

A *document* is an iterable of UTF-8 blocks, so that a file of many gigabytes never stands in memory: plain
text comes in blocks of a mebibyte, everything else as one block per row. Whatever is not text is refused
with its place: binary files by what they look like, invalid UTF-8 by byte position and line, a broken row by
file and line.

Trap: the zstandard stream reader ends quietly where a truncated file ends; ``_unpack_zst`` asks for the end mark.
"""

import codecs
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from steepest.config import nearest
from steepest.errors import DataError

Document = Iterable[bytes]

BLOCK = 1 << 20

_MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive (also .docx, .xlsx, .npz, .pt)",
    b"\x1f\x8b": "a gzip archive (its name must end in .gz)",
    b"\x28\xb5\x2f\xfd": "a zstandard archive (its name must end in .zst)",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x7fELF": "a compiled program",
    b"SQLite format 3": "an SQLite data base",
    b"PAR1": "a Parquet file (its name must end in .parquet)",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"RIFF": "a RIFF file (sound or image)",
    b"OggS": "an Ogg file",
    b"ID3": "an MP3 file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


class NotTextError(DataError):
    """Input that is not UTF-8 text; ``reason`` is ``"binary"`` or ``"not UTF-8"``."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NoColumnError(DataError):
    """A table without the column that should hold the text."""


def text_blocks(path: Path, label: str) -> Iterator[bytes]:
    """The content of a text file in blocks, unpacked and checked.

    Raises:
        NotTextError: see ``checked_blocks``.
        DataError: the file cannot be read or unpacked.
    """
    return checked_blocks(_unpacked(path, label), label)


def checked_blocks(blocks: Iterable[bytes], label: str) -> Iterator[bytes]:
    """Pass blocks of UTF-8 text on; drop a byte-order mark, refuse anything else.

    Raises:
        NotTextError: names what the input looks like, or the position and line of the first bad byte.

    >>> list(checked_blocks([b"caf", b"\\xe9"], "notes.txt"))
    Traceback (most recent call last):
    ...
    steepest.data.formats.NotTextError: notes.txt: not valid UTF-8: byte 0xe9 at position 3 (line 1); ...
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    kind = ""
    position, line = 0, 1  # of the block's first byte
    for block in blocks:
        if position == 0:
            kind = _looks_like(block)
        if (zero := block.find(0)) >= 0:
            raise _binary(label, kind or f"binary data (a zero byte at position {position + zero})")
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            at = error.start
            line += error.object[:at].count(b"\n")
            raise _bad_utf8(label, kind, error.object[at], position - pending + at, line) from None
        yield block.removeprefix(codecs.BOM_UTF8) if position == 0 else block
        line += block.count(b"\n")
        position += len(block)
    if pending_bytes := decoder.getstate()[0]:
        raise _bad_utf8(label, kind, pending_bytes[0], position - len(pending_bytes), line)


def text_documents(path: Path, column: str, label: str) -> Iterator[Document]:
    """A plain text file is one document."""
    yield text_blocks(path, label)


def jsonl_documents(path: Path, column: str, label: str) -> Iterator[Document]:
    """One document per line: an object with the text under ``column``, or a bare JSON string."""
    for number, line in enumerate(_lines(text_blocks(path, label)), start=1):
        if not line.strip():
            continue
        where = f"{label}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = (
                f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            )
            raise DataError(
                f"{where}: not JSON: {reason}; a .jsonl file holds one JSON value per line"
            ) from None
        if isinstance(row, dict):
            if column not in row:
                raise missing_column(where, column, row)
            row = row[column]
        elif not isinstance(row, str):
            raise DataError(f"{where}: expected an object with a text, or a string; got {type(row).__name__}")
        yield (encode_text(row, where, column),)


def csv_documents(path: Path, column: str, label: str) -> Iterator[Document]:
    """One document per row after the header, the text under ``column``."""
    limit = csv.field_size_limit(sys.maxsize)  # the standard 128 KiB is too small for documents
    try:
        rows = csv.reader((line.decode() for line in _lines(text_blocks(path, label))), strict=True)
        header = next(rows, [])
        if column not in header:
            raise missing_column(label, column, header)
        index = header.index(column)
        for row in rows:
            if row and len(row) != len(header):
                raise DataError(
                    f"{label}:{rows.line_num}: this row has {len(row)} columns, the header {len(header)}; "
                    'put quotation marks around a text with commas: "..."'
                )
            if row:
                yield (row[index].encode(),)
    except csv.Error as error:
        raise DataError(f"{label}: not CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def parquet_documents(path: Path, column: str, label: str) -> Iterator[Document]:
    """One document per row of a Parquet file, the text under ``column``; read in batches of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise missing_column(label, column, names)
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield (encode_text(value, f"{label}, row {row}", column),)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{label}: cannot be read as Parquet: {one_line(error)}") from None


def encode_text(value: Any, where: str, column: str) -> bytes:
    """UTF-8 of a text read from a table; ``None`` is an empty text.

    >>> encode_text(3, "notes.jsonl:7", "text")
    Traceback (most recent call last):
    ...
    steepest.errors.DataError: notes.jsonl:7: column "text" holds int, not text; name the column of the text with --text-column
    """
    if value is None:
        return b""
    if not isinstance(value, str):
        raise DataError(
            f'{where}: column "{column}" holds {type(value).__name__}, not text; '
            "name the column of the text with --text-column"
        )
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: U+{ord(value[error.start]):04X} at character {error.start} is half of a surrogate pair, "
            "not a Unicode character; repair the text"
        ) from None


def missing_column(where: str, column: str, columns: Iterable[str]) -> NoColumnError:
    """The error of a table without the wanted column: names the nearest one.

    >>> print(missing_column("notes.csv", "text", ["id", "texts"]))
    notes.csv: no column "text"; did you mean "texts"? Its columns: id, texts; choose with --text-column
    """
    names = [str(name) for name in columns]
    return NoColumnError(
        f'{where}: no column "{column}"{nearest(column, names) or "."} '
        f"Its columns: {', '.join(names[:12]) or 'none'}; choose with --text-column"
    )


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


READERS: dict[str, Callable[[Path, str, str], Iterator[Document]]] = {
    "text": text_documents,
    "jsonl": jsonl_documents,
    "csv": csv_documents,
    "parquet": parquet_documents,
}


def format_of(path: Path) -> str:
    """The format a file's name says; anything unknown is plain text.

    >>> format_of(Path("notes.jsonl.zst")), format_of(Path("notes.md"))
    ('jsonl', 'text')
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    known = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
    return known.get(suffixes[-1], "text") if suffixes else "text"


def _binary(label: str, kind: str) -> NotTextError:
    return NotTextError(
        f"{label}: not text: it looks like {kind}; give text, JSON lines, CSV or Parquet", "binary"
    )


def _bad_utf8(label: str, kind: str, byte: int, position: int, line: int) -> NotTextError:
    if kind:
        return _binary(label, kind)
    return NotTextError(
        f"{label}: not valid UTF-8: byte 0x{byte:02x} at position {position} (line {line}); "
        "convert it first, for example with: iconv -f latin1 -t utf-8",
        "not UTF-8",
    )


def _looks_like(block: bytes) -> str:
    """What the first bytes say the file is; asked only once it has failed to be text ("BZh" may start a poem)."""
    return next((kind for magic, kind in _MAGIC.items() if block.startswith(magic)), "")


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their ends, however the blocks cut them."""
    parts: list[bytes] = []
    for block in blocks:
        first, *rest = block.split(b"\n")
        parts.append(first)
        for piece in rest:
            yield b"".join(parts) + b"\n"
            parts = [piece]
    if last := b"".join(parts):
        yield last


def _unpacked(path: Path, label: str) -> Iterator[bytes]:
    """Non-empty blocks of a file, unpacked as its name says."""
    unpack = {".gz": _unpack_gz, ".zst": _unpack_zst}.get(path.suffix.lower(), _read)
    try:
        yield from unpack(path)
    except PermissionError:
        raise DataError(f"{label}: no permission to read it") from None
    except FileNotFoundError:
        raise DataError(f"{label}: it has gone since it was found") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{label}: cannot be read: {one_line(error)}") from None


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _unpack_gz(path: Path) -> Iterator[bytes]:
    with gzip.open(path) as file:
        while block := file.read(BLOCK):
            yield block


def _unpack_zst(path: Path) -> Iterator[bytes]:
    import zstandard

    try:
        frame = None
        with path.open("rb") as file:
            while packed := file.read(BLOCK // 16):
                while packed:
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    if block := frame.decompress(packed):
                        yield block
                    packed = frame.unused_data if frame.eof else b""
                    frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise OSError(f"not a zstandard file, or damaged ({one_line(error)})") from None
    if frame is not None:
        raise EOFError("the zstandard file ends before its end mark; it was cut off")
