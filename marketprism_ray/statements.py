"""What a statement may do in the embedded engine, which has no users of its own: pure rules over the engine's spelling.

The engine itself parses a statement and writes it down again (``formatQuerySingleLine``): one statement, without
comments, names quoted only where they must be. These rules read the words of that text, and that text is what runs, so
that what is judged and what is run cannot differ. In doubt a statement is refused: a column that has the name of a
function which reads files must be called by an alias of its table's position, or renamed.

Nobody may touch files, the network or processes, not even the writer: the engine runs with the rights of its user, and
its default database opens any name that is the path of a file as a table.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from marketprism_ray.errors import MarketPrismError

Role = Literal["writer", "reader"]

ACCESS_DENIED = 497
READONLY = 164

TABLE_FUNCTIONS = {
    *("numbers", "numbers_mt", "zeros", "zeros_mt", "primes", "values", "sqlstandardvalues", "view", "null", "format"),
    *("generateseries", "generate_series", "generaterandom"),
}
"""Table functions that make their rows out of nothing; every other one reaches a disk, the network or other tables."""
FUNCTIONS = {"file", "filesystemavailable", "filesystemcapacity", "filesystemunreserved", "catboostevaluate"}
"""Scalar functions that look at the machine; those of language models are found by their prefix."""
SYSTEM_TABLES = {
    *("one", "numbers", "numbers_mt", "zeros", "zeros_mt", "tables", "columns", "databases", "parts", "parts_columns"),
    *("functions", "settings", "formats", "data_type_families", "time_zones", "table_functions", "table_engines"),
    *("build_options", "contributors", "licenses", "keywords", "metrics", "events", "asynchronous_metrics", "merges"),
    *("mutations", "collations", "aggregate_function_combinators", "data_skipping_indices", "projections"),
}
ENGINES = {
    *("MergeTree", "ReplacingMergeTree", "SummingMergeTree", "AggregatingMergeTree", "CollapsingMergeTree"),
    *("VersionedCollapsingMergeTree", "CoalescingMergeTree", "Memory", "Null", "Log", "TinyLog", "StripeLog"),
    *("View", "MaterializedView", "Set", "Join", "Buffer", "Atomic"),
}
SHOWN = {"TABLES", "DATABASES", "COLUMNS", "FULL", "CREATE", "INDEX", "INDEXES", "FUNCTIONS", "SETTINGS", "ENGINES"}
READS = {"SELECT", "WITH", "(", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN"}
WRITES = re.compile(
    r"INSERT INTO|CREATE (OR REPLACE )?(TEMPORARY )?(TABLE|VIEW|MATERIALIZED VIEW|DATABASE)|REPLACE TABLE"
    r"|DROP (TEMPORARY )?(TABLE|VIEW|DATABASE)|TRUNCATE (TABLE|DATABASE)|ALTER TABLE|RENAME (TABLE|DATABASE)"
    r"|EXCHANGE TABLES|OPTIMIZE TABLE|DELETE FROM|UPDATE |SYSTEM (START|STOP|FLUSH|SYNC) |KILL (QUERY|MUTATION)"
)
_PHRASES = {
    ("INTO", "OUTFILE"): "writes a file",
    ("FROM", "INFILE"): "reads a file",
    ("PARALLEL", "WITH"): "is several statements",
    ("ON", "CLUSTER"): "reaches other servers",
    ("IDENTIFIED", "BY"): "manages users",
}
_PART_WORDS = {"FREEZE", "UNFREEZE", "FETCH", "EXPORT"}

_READER_SETTINGS = re.compile(
    r"final|max_threads|max_block_size|max_rows_to_\w+|max_bytes_to_\w+|max_result_(rows|bytes)|(result|read)_overflow_mode"
    r"|session_timezone|join_\w+|date_time_(in|out)put_format|optimize_\w+|cast_\w+|decimal_check_overflow|limit|offset"
    r"|output_format_(json|arrow|parquet|native|csv|tsv|pretty|write)\w*|cancel_http_readonly_queries_on_client_close"
    r"|use_\w+_cache|http_\w+|do_not_merge_across_partitions_select_final|prefer_localhost_replica|log_comment"
)
_WRITER_REFUSED = re.compile(
    r"readonly|allow_ddl|\w*introspection\w*|(\w+_)?disk|storage_policy|\w*schema\w*|\w*template\w*|\w*path\w*"
    r"|\w*(url|script|s3|hdfs|azure|llm|proxy)\w*|output_format_\w*file\w*"
)
_TOKEN = re.compile(r"'(?:\\.|''|[^'\\])*'|`(?:\\.|``|[^`\\])*`|\w+|\S", re.S)
_PLAIN = re.compile(r"\w+")


class Denied(MarketPrismError):
    """A statement that its user may not run."""

    def __init__(self, code: int, text: str) -> None:
        name = "READONLY" if code == READONLY else "ACCESS_DENIED"
        super().__init__(f"Code: {code}. DB::Exception: {text}. ({name})")
        self.code = code


@dataclass(frozen=True)
class Statement:
    """One statement in the engine's own spelling, allowed for its user."""

    text: str
    is_read: bool
    has_settings: bool


def denied_words(table_functions: Collection[str], functions: Collection[str]) -> frozenset[str]:
    """Give the words that no statement may hold, in lower case.

    Parameters
    ----------
    table_functions, functions : all that the engine has: what a later engine adds is refused until it is known
    """
    models = {name.lower() for name in functions if re.match(r"(ai|AI)[A-Z]", name)}
    return frozenset({name.lower() for name in table_functions} - TABLE_FUNCTIONS | FUNCTIONS | models)


def check(text: str, role: Role, *, only_read: bool, denied: Collection[str], bound: Mapping[str, str]) -> Statement:
    """Judge a statement.

    Parameters
    ----------
    text : as the engine formats it
    only_read : nothing may be changed, whoever asks
    denied : of `denied_words`
    bound : parameters of the statement

    Raises
    ------
    Denied
        If the user may not run it; says which word is the reason.
    """
    tokens = _TOKEN.findall(text)
    words = [token.upper() for token in tokens]
    if not words:
        raise Denied(ACCESS_DENIED, "the statement is empty")
    is_read = words[0] in READS
    if not is_read and not WRITES.match(text):
        raise Denied(ACCESS_DENIED, f"{' '.join(words[:2])} is not served here")
    if not is_read and (only_read or role == "reader"):
        why = "it is the reader" if role == "reader" else "this request only reads (GET does; changes need POST)"
        raise Denied(READONLY, f"{words[0]} changes the store, {role} may not: {why}")
    if words[0] == "SHOW" and role == "reader" and words[1] not in SHOWN:
        raise Denied(ACCESS_DENIED, f"SHOW {words[1]} is not for the reader")
    has_settings = False
    for at, token in enumerate(tokens):
        if token[0] == "'":
            continue
        name = token[1:-1] if token[0] == "`" else token
        if name.lower() in denied:
            raise Denied(ACCESS_DENIED, f"{name} reaches files, the network, other servers or processes")
        if token[0] == "`" and "/" in token:
            raise Denied(ACCESS_DENIED, f"{token} could be the path of a file")
        phrase = _PHRASES.get((words[at], words[at + 1] if at + 1 < len(words) else ""))
        if phrase is not None:
            raise Denied(ACCESS_DENIED, f"{words[at]} {words[at + 1]} {phrase}")
        if words[at] == "SETTINGS":
            has_settings = _check_clause(tokens, at + 1, role) or has_settings
        if words[at] == "ENGINE" and tokens[at + 1 : at + 2] == ["="] and tokens[at + 2] not in ENGINES:
            raise Denied(ACCESS_DENIED, f"the engine {tokens[at + 2]} is not served here")
        if words[at] == "SYSTEM" and tokens[at + 1 : at + 2] == ["."] and role == "reader":
            table = tokens[at + 2] if at + 2 < len(tokens) else ""
            if table not in SYSTEM_TABLES:
                raise Denied(ACCESS_DENIED, f"system.{table} is not for the reader")
        if words[at] == "IDENTIFIER" and tokens[at - 1] == ":" and tokens[at + 1 : at + 2] == ["}"]:
            value = bound.get(tokens[at - 2], "")
            if role == "reader" or not _PLAIN.fullmatch(value) or value.lower() in denied:
                raise Denied(ACCESS_DENIED, f"the parameter {tokens[at - 2]} may not be a name")
    if words[0] == "ALTER" and (found := _PART_WORDS.intersection(words)):
        raise Denied(ACCESS_DENIED, f"{min(found)} is not served here")
    return Statement(text, is_read, has_settings)


def _check_clause(tokens: list[str], at: int, role: Role) -> bool:
    """Check the settings of a clause; False if it is none (a column may have that name)."""
    found = False
    while tokens[at + 1 : at + 2] == ["="]:
        check_setting(tokens[at], role)
        found = True
        depth, at = 0, at + 2
        while at < len(tokens) and (depth or tokens[at] != ","):
            depth += (tokens[at] in "([{") - (tokens[at] in ")]}")
            if depth < 0:
                return found
            at += 1
        at += 1
    return found


def check_setting(name: str, role: Role) -> None:
    """Make sure that a setting is none that opens a door.

    Raises
    ------
    Denied
        If it is, or if the reader has no use for it.
    """
    allowed = _READER_SETTINGS.fullmatch(name) if role == "reader" else not _WRITER_REFUSED.fullmatch(name)
    if not allowed or not _PLAIN.fullmatch(name):
        raise Denied(READONLY if role == "reader" else ACCESS_DENIED, f"{role} may not set {name}")


def check_database(name: str, role: Role) -> None:
    """Make sure that a database is a plain name, and that the reader does not begin among the system's tables.

    Raises
    ------
    Denied
        If it is not.
    """
    if not _PLAIN.fullmatch(name) or (role == "reader" and name.lower() == "system"):
        raise Denied(ACCESS_DENIED, f"database {name!r} is not for {role}")
