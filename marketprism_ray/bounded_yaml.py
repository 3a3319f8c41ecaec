"""Configuration text as plain values, however hostile: what it may expand to is bounded before it is built.

A few lines of YAML with aliases of aliases stand for billions of values, a thousand brackets for a thousand calls of a
parser. Sizes are therefore counted on the stream of events and on the graph of nodes, where an alias costs nothing.
"""

from __future__ import annotations

from typing import Any

import yaml

from marketprism_ray.errors import ConfigError, shorten

FILE_BYTES = 1 << 20
NODES = 20_000
"""Values that a text may stand for, aliases written out. A thousand symbols at each of six venues are a third of it."""
DEPTH = 20
TEXT = 4096
"""Characters of one value."""
DIGITS = 40

# The parser in C where there is one.
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):  # type: ignore[misc]
    """Refuses a key that is given twice: one of them would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # no option: refused by name later
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def load_bounded(text: str, origin: str) -> Any:
    """Read YAML.

    Parameters
    ----------
    origin : where it comes from, for messages

    Raises
    ------
    ConfigError
        If it is no YAML, or stands for more than a configuration ever needs.
    """
    if len(text) > FILE_BYTES:
        raise ConfigError(f"{origin}: {len(text):,} characters; a configuration has {FILE_BYTES:,} at most")
    try:
        _count_events(text, origin)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_nodes(node, origin)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not YAML: {error}") from error
    except (ValueError, OverflowError, RecursionError) as error:
        # A date that is none, a number of thousands of digits, a value within itself.
        raise ConfigError(f"{origin}: a value cannot be read: {shorten(str(error))}") from error


def _count_events(text: str, origin: str) -> None:
    """Bound what stands there as it is written."""
    depth = nodes = 0
    for event in yaml.parse(text, _BASE):
        match event:
            case yaml.CollectionStartEvent():
                depth += 1
                nodes += 1
            case yaml.CollectionEndEvent():
                depth -= 1
            case yaml.ScalarEvent():
                nodes += 1
                if len(event.value) > TEXT:
                    raise ConfigError(
                        f"{_at(origin, event)}: a value of {len(event.value):,} characters, {TEXT:,} at most"
                    )
            case yaml.AliasEvent():
                nodes += 1
        if depth > DEPTH:
            raise ConfigError(f"{_at(origin, event)}: nested more than {DEPTH} deep")
        if nodes > NODES:
            raise ConfigError(f"{_at(origin, event)}: more than {NODES:,} values")


def _count_nodes(root: yaml.Node, origin: str) -> None:
    """Bound what it stands for with every alias written out; each node is looked at once."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in open_nodes:
            raise ConfigError(f"{_at(origin, node)}: an alias stands within what it names")
        open_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            found = 1 + sum(size(key) + size(value) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            found = 1 + sum(size(item) for item in node.value)
        else:
            found = 1
            if node.tag == "tag:yaml.org,2002:int" and len(node.value) > DIGITS:
                raise ConfigError(f"{_at(origin, node)}: a number of {len(node.value):,} digits")
        open_nodes.discard(id(node))
        if found > NODES:
            raise ConfigError(f"{_at(origin, node)}: aliases stand for more than {NODES:,} values")
        sizes[id(node)] = found
        return found

    size(root)


def _at(origin: str, place: Any) -> str:
    return f"{origin}:{place.start_mark.line + 1}"
