"""What the readers of XML formats share: a parser that strangers' files cannot harm, and numbers out of its elements.

Nothing outside the file is ever fetched. Definitions inside it, of entities above all, are refused, and its size, the
length of a tag, the depth and the number of elements are limited. Names come without their namespace.
"""

import re
from base64 import b64decode
from contextlib import suppress
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

import numpy as np

from ecg.formats import RecordError

MOST_BYTES = (
    32 << 20
)  # ten seconds of twelve leads are below 1 MB in all formats; 32 MB are a quarter of an hour of aECG
MOST_ELEMENTS = 100_000  # a resting ECG has some thousands
MOST_DEPTH = 100  # aECG, the deepest of them, goes down to 20
WRONG_ENCODING = (4, 18, 19)  # expat: invalid token, unknown encoding, encoding declared incorrectly
PIECE = 1 << 16  # bytes that are parsed at a time
LONGEST_TAG = 4 * PIECE  # bytes
CHUNK = 1 << 20  # characters of text whose numbers are split at a time
LARGEST = 1e12  # no gain, rate or voltage of an ECG, in whatever unit, is larger
MOST_TEXT = 200  # characters of a field that is no signal


class _Limited(TreeBuilder):
    """Builds the tree without namespaces, as long as it stays within the limits."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = self.elements = 0

    def start(self, tag: str, attributes: dict[str, str]) -> Element:
        self.depth += 1
        self.elements += 1
        if self.depth > MOST_DEPTH or self.elements > MOST_ELEMENTS:
            what = f"elements nested deeper than {MOST_DEPTH}" if self.depth > MOST_DEPTH else "far too many elements"
            raise RecordError(f"{what}: no ECG looks like that")
        return super().start(tag.rpartition("}")[2], attributes)

    def end(self, tag: str) -> Element:
        self.depth -= 1
        return super().end(tag.rpartition("}")[2])


def root_name(head: bytes) -> str:
    """Return the name of the first element, without its namespace, of the XML that begins with `head`, or ""."""
    from xml.parsers import expat

    names: list[str] = []

    def doctype(name: str, system: str | None, public: str | None, has_definitions: bool) -> None:
        if has_definitions:  # the name is the first element's; going on could expand what is defined
            names.append(name)
            raise ValueError

    def element(name: str, attributes: dict[str, str]) -> None:
        names.append(name)

    for encoding in (None, _likely_encoding(head)):
        with suppress(expat.ExpatError, LookupError, ValueError):
            parser = expat.ParserCreate(encoding)
            parser.StartDoctypeDeclHandler = doctype
            parser.StartElementHandler = element
            parser.Parse(head)
        if names:
            return names[0].rpartition(":")[2]
    return ""


def parse(path: Path, root: str, format_name: str) -> Element:
    """Return the root element of an XML file, which has to be called `root`; its elements' names have no namespace.

    A file whose encoding is not what it declares, which is common after an export was opened and saved again, is read
    in the encoding that it seems to have. Raises `RecordError` for everything else that is wrong.
    """
    from defusedxml.common import DefusedXmlException

    try:
        if path.stat().st_size > MOST_BYTES:
            raise RecordError(f"{format_name} of more than {MOST_BYTES >> 20} MB: too large to be read")
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot be read: {error.strerror}") from None
    try:
        try:
            tree = _tree(content, None)
        except (SyntaxError, LookupError, ValueError) as error:
            if isinstance(error, DefusedXmlException) or getattr(error, "code", 18) not in WRONG_ENCODING:
                raise
            tree = _tree(content, _likely_encoding(content))
    except DefusedXmlException:
        raise RecordError("defines or includes XML entities, which no ECG needs: refused") from None
    except (SyntaxError, LookupError, ValueError) as error:
        raise RecordError(f"damaged or cut off, it is not whole XML ({error})") from None
    if tree.tag != root:
        raise RecordError(f"its first element is {tree.tag[:40]}, {format_name} begins with {root}")
    return tree


def _tree(content: bytes, encoding: str | None) -> Element:
    from defusedxml.ElementTree import DefusedXMLParser

    def doctype(name: str, system: str | None, public: str | None, has_definitions: bool) -> None:
        if has_definitions:  # the usual `<!DOCTYPE RestingECG SYSTEM "restecg.dtd">` has none
            raise RecordError("its DOCTYPE defines entities or elements, which no ECG needs: remove what is in [ ]")

    parser = DefusedXMLParser(target=_Limited(), encoding=encoding)
    parser.parser.StartDoctypeDeclHandler = doctype
    for begin in range(0, len(content), PIECE):
        piece = content[begin : begin + PIECE]
        parser.feed(piece)
        if begin + len(piece) - parser.parser.CurrentByteIndex > LONGEST_TAG:  # since the last tag or text began
            raise RecordError(f"a tag or comment of more than {LONGEST_TAG >> 10} kB: no ECG looks like that")
    return parser.close()


def _likely_encoding(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"<\0"):
        return "utf-16le"
    if content[:2] in (b"\xfe\xff", b"\0<"):
        return "utf-16be"
    with suppress(UnicodeDecodeError):
        content[: content.rfind(b">") + 1].decode()  # `content` may be a beginning, cut within a character
        return "utf-8"
    return "iso-8859-1"


def text_of(element: Element | None, path: str) -> str:
    """Return the text below `element`, on one line; "" where there is none."""
    return " ".join((element.findtext(path) or "")[:MOST_TEXT].split()) if element is not None else ""


def number(text: str, field: str) -> float:
    """Return `text` as a number, or raise `RecordError` that names the field."""
    with suppress(ValueError):
        if abs(value := float(text)) <= LARGEST:
            return value
    raise RecordError(f"{field} is {text[:40]!r}, expected a number" if text else f"{field} is missing")


def numbers(text: str, field: str) -> np.ndarray:
    """Return the numbers in `text`, separated by white space, (n,) float."""
    parts, begin = [], 0
    while begin < len(text):
        space = re.compile(r"\s").search(text, begin + CHUNK)
        end = space.start() if space else len(text)
        try:
            parts.append(np.array(text[begin:end].split(), dtype=float))
        except ValueError as error:
            raise RecordError(f"{field} holds something that is no number ({str(error)[:80]})") from None
        begin = end
    return np.concatenate(parts) if parts else np.empty(0)


def base64(text: str, field: str) -> bytes:
    """Return what `text` holds in base64, whatever its line breaks."""
    try:
        return b64decode(text.encode("ascii", "replace").translate(None, b" \t\r\n"), validate=True)
    except ValueError as error:
        raise RecordError(f"{field} is damaged, it is not base64 ({error})") from None
