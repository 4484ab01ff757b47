"""What an upgrade of the definition would do to objects that exist: every change that could make one invalid or
different, found by comparing two CustomResourceDefinitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

# Bounds by which of two values allows less.
_LOWER = ("minimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "maxLength", "maxItems", "maxProperties")
ANYTHING = {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
_EXACT = ("type", "pattern", "format", "multipleOf", "x-kubernetes-int-or-string", "x-kubernetes-list-type")
_EXCLUSIVE = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"}
_NEUTRAL: tuple[Any, ...] = (False, 0, "", [], {})  # defaults that switch nothing on


def incompatible(old: Schema, new: Schema) -> Iterator[str]:
    """One line for each change that an object, a client or a stored status of the old definition might not survive."""
    for part in ("group", "scope"):
        if old["spec"][part] != new["spec"][part]:
            yield f"{part} changed"
    for name in ("kind", "plural"):
        if old["spec"]["names"][name] != new["spec"]["names"][name]:
            yield f"names.{name} changed"
    versions = {version["name"]: version for version in new["spec"]["versions"]}
    for before in old["spec"]["versions"]:
        after = versions.get(before["name"])
        if after is None or (before["served"] and not after["served"]):
            yield f"{before['name']}: no longer served"
            continue
        if before.get("subresources", {}).keys() - after.get("subresources", {}).keys():
            yield f"{before['name']}: a subresource is gone"
        was, now = (version["schema"]["openAPIV3Schema"] for version in (before, after))
        yield from _node(was, now, before["name"])


def _keeps_all(schema: Schema) -> bool:
    """Whether an object's fields are kept whatever they are: as unknown ones, or as a map of anything."""
    return bool(schema.get("x-kubernetes-preserve-unknown-fields")) or schema.get("additionalProperties") == ANYTHING


def _node(old: Schema, new: Schema, path: str) -> Iterator[str]:
    yield from _values(old, new, path)
    if old.get("default") != new.get("default") and "properties" not in new:  # of an object: by its fields
        yield f"{path}: default {old.get('default')} became {new.get('default')}"
    rules = {rule["rule"] for rule in old.get("x-kubernetes-validations", ())}
    for rule in new.get("x-kubernetes-validations", ()):
        if rule["rule"] not in rules:
            yield f"{path}: new rule: {rule['message']}"
    if _keeps_all(old) and not _keeps_all(new):
        yield f"{path}: fields that it does not list are dropped"
    was, now = old.get("properties", {}), new.get("properties", {})
    for name in sorted(was.keys() - now.keys()) if not _keeps_all(new) else ():
        yield f"{path}.{name}: removed"
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{path}.{name}: required"
    for name in sorted(now.keys() - was.keys()):
        yield from _defaults(now[name], f"{path}.{name}")
    for name in sorted(was.keys() & now.keys()):
        yield from _node(was[name], now[name], f"{path}.{name}")
    for holder, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(old.get(holder), dict) and isinstance(new.get(holder), dict):
            yield from _node(old[holder], new[holder], path + mark)
        elif bool(old.get(holder)) != bool(new.get(holder)) and not _keeps_all(new):
            yield f"{path}: {holder} came or went"


def _values(old: Schema, new: Schema, path: str) -> Iterator[str]:
    for word in _EXACT:
        if old.get(word) != new.get(word) and (word in new or word == "type"):
            yield f"{path}: {word} {old.get(word)} became {new.get(word)}"
    if "enum" in new and not set(old.get("enum", (None,))) <= set(new["enum"]):
        yield f"{path}: enum {old.get('enum')} became {new['enum']}"
    for word, less in [(word, False) for word in _LOWER] + [(word, True) for word in _UPPER]:
        if word not in new:
            continue
        if word not in old or (new[word] < old[word] if less else new[word] > old[word]):
            yield f"{path}: {word} {old.get(word)} became {new[word]}"
        elif new[word] == old[word] and new.get(_EXCLUSIVE.get(word, "")) and not old.get(_EXCLUSIVE.get(word, "")):
            yield f"{path}: {word} {new[word]} is excluded now"


def _defaults(new: Schema, path: str) -> Iterator[str]:
    """What a field that is new does to objects that were written without it."""
    if "properties" in new:
        if "default" in new:
            for name, child in new["properties"].items():
                yield from _defaults(child, f"{path}.{name}")
    elif "default" in new and new["default"] not in _NEUTRAL:
        yield f"{path}: new, and {new['default']} for objects that exist"
