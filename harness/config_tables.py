"""TOML files into frozen structs; every fault of a file at once, each with its dotted key and its line."""

from __future__ import annotations

import difflib
import re
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec

from harness.errors import ConfigError

T = TypeVar("T")

MESSAGE_PLACE = re.compile(r" - at `[^`]*`$")
KEY_PART = re.compile(r""""[^"]*"|'[^']*'|[A-Za-z0-9_-]+""")
DOTTED_KEY = rf"(?:{KEY_PART.pattern})(?:\s*\.\s*(?:{KEY_PART.pattern}))*"
HEADER_LINE = re.compile(rf"\s*(\[\[?)\s*({DOTTED_KEY})\s*\]")
VALUE_LINE = re.compile(rf"\s*({DOTTED_KEY})\s*=")

Key = tuple[str | int, ...]


class _Fault(msgspec.Struct, frozen=True):
    """Where in the tables, and what is wrong there."""

    key: Key
    message: str


def read_toml(path: Path, struct_type: type[T]) -> T:
    """Reads a TOML file into `struct_type`, a msgspec struct; its nested structs, tuples, dicts and unions are walked.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has unknown keys, missing keys or values that do not
            fit. All faults stand in it, each as `models.NAME.size_bytes (line 12): ...`.
    """
    text = _read_text(path)
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise ConfigError([f"not TOML: {error}"], where=str(path)) from None
    faults = list(_faults(tables, struct_type, ()))
    if faults:
        lines = _line_numbers(text)
        raise ConfigError([_describe(fault, lines) for fault in faults], where=str(path))
    return msgspec.convert(tables, struct_type)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(["no such file"], where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {error}"], where=str(path)) from None


def _faults(value: object, wanted: Any, key: Key) -> Iterator[_Fault]:
    """Faults of the parts; where the parts are sound, the fault of the whole, if it has one."""
    inner = list(_inner_faults(value, _concrete(value, wanted), key))
    yield from inner
    if not inner:
        try:
            msgspec.convert(value, wanted)
        except msgspec.ValidationError as error:
            yield _Fault(key, MESSAGE_PLACE.sub("", str(error)))


def _inner_faults(value: object, wanted: Any, key: Key) -> Iterator[_Fault]:
    origin = get_origin(wanted)
    if isinstance(value, dict) and isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        yield from _struct_faults(value, wanted, key)
    elif isinstance(value, dict) and origin in (dict, Mapping):
        name_type, item_type = get_args(wanted)
        for name, item in value.items():
            yield from _faults(name, name_type, (*key, name))
            yield from _faults(item, item_type, (*key, name))
    elif isinstance(value, list) and origin in (list, tuple, frozenset, set):
        for index, item in enumerate(value):
            yield from _faults(item, get_args(wanted)[0], (*key, index))


def _struct_faults(table: dict[str, Any], wanted: type[msgspec.Struct], key: Key) -> Iterator[_Fault]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(wanted)}
    tag = wanted.__struct_config__.tag_field
    for name, item in table.items():
        if name in fields:
            yield from _faults(item, fields[name].type, (*key, name))
        elif name != tag:
            yield _Fault((*key, name), f"unknown key{_near(name, fields)}")
    for name, field in fields.items():
        if field.required and name not in table:
            yield _Fault((*key, name), "missing")


def _concrete(value: object, wanted: Any) -> Any:
    """The member of a union, or the type below an annotation, that `value` is meant to be."""
    if get_origin(wanted) is Annotated:
        return _concrete(value, get_args(wanted)[0])
    if get_origin(wanted) not in (Union, types.UnionType):
        return wanted
    members = [member for member in get_args(wanted) if member is not type(None)]
    if len(members) == 1:
        return _concrete(value, members[0])
    return next((member for member in members if _has_tag_of(value, member)), wanted)


def _has_tag_of(value: object, member: Any) -> bool:
    if not (isinstance(value, dict) and isinstance(member, type) and issubclass(member, msgspec.Struct)):
        return False
    config = member.__struct_config__
    return config.tag_field is not None and value.get(config.tag_field) == config.tag


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def _describe(fault: _Fault, lines: Mapping[Key, int]) -> str:
    dotted = ".".join(str(part) for part in fault.key) or "the file"
    place = next((lines[fault.key[:n]] for n in range(len(fault.key), 0, -1) if fault.key[:n] in lines), None)
    return f"{dotted}{f' (line {place})' if place else ''}: {fault.message}"


def _line_numbers(text: str) -> dict[Key, int]:
    """Line of each table header and of each `key =`; inline tables and multi-line values count by their first line."""
    found: dict[Key, int] = {}
    seen: dict[Key, int] = {}
    table: Key = ()
    inside_text = False
    for number, line in enumerate(text.splitlines(), start=1):
        if not inside_text and (header := HEADER_LINE.match(line)):
            table = _table_key(header, seen)
            found.setdefault(table, number)
        elif not inside_text and (assignment := VALUE_LINE.match(line)):
            found.setdefault((*table, *_parts(assignment[1])), number)
        if (line.count('"""') + line.count("'''")) % 2:
            inside_text = not inside_text
    return found


def _table_key(header: re.Match[str], seen: dict[Key, int]) -> Key:
    """The key of a header, with the index of each array of tables that it goes through."""
    parts = _parts(header[2])
    key: Key = ()
    for part in parts[:-1]:
        key = (*key, part)
        if key in seen:
            key = (*key, seen[key])
    key = (*key, parts[-1])
    if header[1] == "[[":
        seen[key] = seen.get(key, -1) + 1
        key = (*key, seen[key])
    return key


def _parts(dotted: str) -> Key:
    return tuple(part.strip("\"'") for part in KEY_PART.findall(dotted))
