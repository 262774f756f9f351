"""A folder of XML files, one row each: BOLT's conversations."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from pe_rlhf_mm.data.sources.source import BadRow, Row
from pe_rlhf_mm.errors import UserError


class XmlFolder:
    """The *.xml files of a folder by name, each a row {"path": Path, "root": Element}.

    Names keep their prefix as it is written. A document type may be named, as BOLT's is, and is not looked up; one that
    declares entities is refused, as a kilobyte of them can stand for gigabytes of text or for other files.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @cached_property
    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is no folder; expected one with *.xml files.")
        paths = sorted(path for path in self.folder.glob("*.xml") if not path.name.startswith("."))
        if not paths:
            raise UserError(f"{self.folder} has no *.xml files.")
        return paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Row:
        path = self._paths[index]
        try:
            return {"path": path, "root": parse_xml(path.read_bytes())}
        except OSError as error:
            raise BadRow(f"{path}: it cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise BadRow(f"{path}, {error}") from error

    def where(self, index: int) -> str:
        """Names a row by its file."""
        return str(self._paths[index])


def parse_xml(content: bytes) -> Element:
    """The root of a document. Raises ValueError, `line 3: <reason>`, if it is broken or has entities of its own."""
    parser, builder = expat.ParserCreate(), TreeBuilder()

    def refuse(name: str, *_: object) -> NoReturn:
        what = f"the entity {name[:100]!r}, which is none of XML's own"
        raise ValueError(f"line {parser.CurrentLineNumber}: it has {what}. Take the file out.")

    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    parser.SkippedEntityHandler = refuse  # undeclared, which expat lets pass where a document type is named
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        broken = f"broken XML at column {error.offset + 1} ({expat.ErrorString(error.code)})"
        reason = broken if content else "it is empty"
        raise ValueError(f"line {error.lineno}: {reason}. Copy the file again.") from error
    return builder.close()
