"""The tables of the store against the schemas: what is missing, what can be changed in place, what cannot.

Pure: what was read of a table goes in, statements or a refusal come out. A column that is missing is added, a comment,
the time rows are kept and a type that holds the same values are changed. Another engine, version, sorting key or type
is refused before a row is written: rows would be lost or changed without a word. Columns that nobody here knows are the
owner's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from marketprism_ray.records import RECORDS
from marketprism_ray.schemas import DEDUP_WINDOW, Field, create_table, fields_of, order_by, quote, ttl_of

SAME_VALUES = {("UInt8", "Bool")}
"""Types that a column can be changed from and to without a value being another one then."""
_OUR_TTL = re.compile(r"toDateTime\(\w+\) \+ toIntervalDay\((\d+)\)")


@dataclass(frozen=True)
class Column:
    """A column as the server describes it."""

    kind: str
    comment: str


@dataclass(frozen=True)
class Table:
    """A table as ``system.tables`` and ``system.columns`` describe it."""

    engine: str
    engine_full: str
    sorting_key: str
    columns: Mapping[str, Column]


@dataclass(frozen=True)
class Plan:
    """What makes a table fit."""

    statements: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    """Differences that no statement mends in place."""


def plan(data_type: str, found: Table | None, *, database: str, ttl_days: int | None) -> Plan:
    """Compare a table with its schema.

    Parameters
    ----------
    found : None if there is no such table
    ttl_days : days that rows are kept; None is for ever
    """
    if found is None:
        return Plan((create_table(data_type, database=database, ttl_days=ttl_days),))
    refusals = _refusals(data_type, found)
    if refusals:
        return Plan(refusals=tuple(refusals))
    changes = [*_column_changes(data_type, found), *_ttl_changes(data_type, found, ttl_days)]
    if "Replicated" not in found.engine and f"non_replicated_deduplication_window = {DEDUP_WINDOW}" not in (
        found.engine_full
    ):
        changes.append(f"MODIFY SETTING non_replicated_deduplication_window = {DEDUP_WINDOW}")
    return Plan(tuple(f"ALTER TABLE `{database}`.`{data_type}` {change}" for change in changes))


def _refusals(data_type: str, found: Table) -> list[str]:
    refusals = []
    version = RECORDS[data_type].version
    if not found.engine.endswith("ReplacingMergeTree"):
        refusals.append(f"its engine is {found.engine}, not ReplacingMergeTree")
    elif _version(found.engine_full) != version:
        refusals.append(f"its version column is {_version(found.engine_full) or 'none'}, not {version or 'none'}")
    wanted = ", ".join(order_by(data_type))
    if _bare(found.sorting_key) != _bare(wanted):
        refusals.append(f"it is sorted by ({found.sorting_key}), not ({wanted})")
    for field in fields_of(data_type):
        column = found.columns.get(field.name)
        if column is None:
            continue
        types = _plain_type(column.kind), _plain_type(field.clickhouse)
        if types[0] != types[1] and types not in SAME_VALUES:
            refusals.append(f"column {field.name} is {column.kind}, not {field.clickhouse}")
    return refusals


def _column_changes(data_type: str, found: Table) -> list[str]:
    changes = []
    before: Field | None = None
    for field in fields_of(data_type):
        comment = f"COMMENT {quote(field.description)}"
        column = found.columns.get(field.name)
        if column is None:
            place = "FIRST" if before is None else f"AFTER `{before.name}`"
            changes.append(f"ADD COLUMN IF NOT EXISTS `{field.name}` {field.clickhouse} {comment} {place}")
        elif (_plain_type(column.kind), _plain_type(field.clickhouse)) in SAME_VALUES:
            changes.append(f"MODIFY COLUMN `{field.name}` {field.clickhouse} {comment}")
        elif column.comment != field.description:
            changes.append(f"COMMENT COLUMN `{field.name}` {quote(field.description)}")
        before = field
    return changes


def _ttl_changes(data_type: str, found: Table, days: int | None) -> list[str]:
    """Change the time that rows are kept, unless the table's owner has a rule of another form."""
    match = re.search(r" TTL (.*?)(?: SETTINGS .*)?$", found.engine_full, re.DOTALL)
    is_ours = match is not None and _OUR_TTL.fullmatch(match[1])
    kept = int(is_ours[1]) if is_ours else None
    if (match is not None and not is_ours) or kept == (days or None):
        return []
    return [f"MODIFY TTL {ttl_of(data_type, days)}" if days else "REMOVE TTL"]


def _version(engine_full: str) -> str:
    """Give the version column; those of replicated engines come after a path and a replica's name."""
    match = re.match(r"\w+\(([^()]*)\)", engine_full)
    names = [part.strip() for part in match[1].split(",")] if match else []
    return next((name for name in names if name and not name.startswith("'")), "")


def _bare(text: str) -> str:
    return re.sub(r"[\s`]", "", text)


def _plain_type(kind: str) -> str:
    """Give a type without what only concerns how it is stored."""
    return re.sub(r"LowCardinality\((.*)\)$", r"\1", _bare(kind))


def refusal(database: str, refused: Mapping[str, tuple[str, ...]]) -> str:
    """Say in a sentence what is wrong with which tables, and what to do."""
    tables = "; ".join(f"table {database}.{name}: {' and '.join(what)}" for name, what in refused.items())
    renames = ", ".join(f"{database}.{name} TO {database}.{name}_before" for name in refused)
    return (
        f"ClickHouse: {tables}; this cannot be changed in place and nothing was written: "
        f"RENAME TABLE {renames}, and start again (the rows stay readable there)"
    )
