"""What a statement may do, against the engine itself: each attack is refused, and what people ask is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from marketprism_ray.clickhouse_http import Engine, split_insert
from marketprism_ray.statements import Denied, Role

MADE = "CREATE TABLE made (a Int64, s String) ENGINE = MergeTree ORDER BY a"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        running = Engine(folder)
        run(running, MADE)
        run(running, "INSERT INTO made VALUES (1, 'x')")
        yield running
        running.close()


def run(engine: Engine, sql: str, role: Role = "writer", *, only_read: bool = False, **parameters: str) -> str:
    return engine.run(sql, b"", parameters, role, only_read=only_read)[0].decode()


@pytest.fixture
def secret(tmp_path: Path) -> str:
    (tmp_path / "secret.csv").write_text("hunter2,1\n")
    return str(tmp_path / "secret.csv")


READING = [
    "SELECT * FROM file('{secret}', 'LineAsString')",
    "SELECT * FROM FILE('{secret}')",
    "SELECT * FROM `file`('{secret}')",
    "SELECT /* x */ fi/**/le('{secret}')",
    "SELECT file('{secret}')",
    "SELECT arrayMap(file, ['{secret}'])",
    "SELECT * APPLY(file) FROM values('a String', '{secret}')",
    "SELECT * APPLY file FROM values('a String', '{secret}')",
    "WITH x AS (SELECT * FROM file('{secret}')) SELECT * FROM x",
    "SELECT 1 WHERE 'hunter2' IN (SELECT * FROM file('{secret}'))",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM `{secret}`",
    'SELECT * FROM "{secret}"',
    "SELECT * FROM default.`{secret}`",
    "SELECT 1 IN `{secret}`",
    "DESCRIBE TABLE '{secret}'",
    "DESCRIBE file('{secret}')",
    "EXPLAIN SELECT * FROM file('{secret}')",
    "SELECT * FROM {{t:Identifier}}",
    "SELECT 'x' FORMAT Template SETTINGS format_template_resultset = '{secret}'",
    "SELECT * FROM format(CSV, 'a') SETTINGS format_schema = '{secret}'",
    "SELECT * FROM url('file://{secret}', 'LineAsString')",
    "SELECT * FROM url('http://127.0.0.1:9/', 'LineAsString')",
    "SELECT * FROM s3('http://127.0.0.1:9/b/x', 'CSV')",
    "SELECT * FROM remote('127.0.0.1:9', default.made)",
    "SELECT * FROM cluster('default', default.made)",
    "SELECT * FROM executable('x', 'TSV', 'a Int8')",
    "SELECT * FROM Python(secret)",
    "SELECT * FROM sqlite('{secret}', 'x')",
    "SELECT * FROM mysql('127.0.0.1:9', 'd', 't', 'u', 'p')",
    "SELECT * FROM merge('default', 'made')",
    "SELECT * FROM input('a Int8')",
    "SELECT * FROM filesystem('/etc')",
    "SELECT 1 INTO OUTFILE '{secret}.out'",
    "SELECT 1 /* x */ INTO /* y */ OUTFILE '{secret}.out' FORMAT CSV",
    "SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{secret}.out'",
    "SELECT 1 PARALLEL WITH DROP TABLE made",
    "SET readonly = 0",
    "USE system",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT (SELECT 1 SETTINGS readonly = 0)",
    "SELECT 1 SETTINGS max_threads = 1, allow_ddl = 1",
    "SELECT 1; DROP TABLE made",
    "SELECT 1 -- ;\n; DROP TABLE made",
    "SELECT 1\x00; DROP TABLE made",
    "SELECT 1 \u037e DROP TABLE made",
    "SELECT aiGenerate('x', 'y')",
    "SYSTEM SHUTDOWN",
    "BACKUP TABLE made TO File('{secret}.zip')",
    "",
]


@pytest.mark.parametrize("role", ["reader", "writer"])
@pytest.mark.parametrize("attack", READING)
def test_nobody_reaches_files_network_or_other_statements(engine: Engine, secret: str, attack: str, role: Role) -> None:
    with pytest.raises(Exception, match=r"Code: (62|497|164|456|457)\.") as refused:
        run(engine, attack.format(secret=secret), role, param_t=secret)
    assert "hunter2" not in str(refused.value)
    assert not Path(f"{secret}.out").exists()
    assert run(engine, "SELECT count() FROM made") == "1\n"


CHANGING = [
    "DROP TABLE made",
    "INSERT INTO made VALUES (2, 'y')",
    "INSERT INTO made SELECT 2, 'y'",
    "WITH 2 AS a INSERT INTO made SELECT a, 'y'",
    "INSERT INTO FUNCTION null('a Int8') SELECT 1",
    "CREATE TEMPORARY TABLE t (a Int8)",
    "CREATE VIEW v AS SELECT 1",
    "CREATE FUNCTION f AS x -> x + 1",
    "ALTER TABLE made DELETE WHERE 1",
    "TRUNCATE TABLE made",
    "OPTIMIZE TABLE made FINAL",
    "DELETE FROM made WHERE 1",
    "EXPLAIN SYNTAX SELECT 1 PARALLEL WITH DROP TABLE made",
    "SELECT * FROM system.processes",
    "SELECT * FROM `system`.`query_log`",
    "SELECT 1 IN system.named_collections",
    "SELECT * FROM {d:Identifier}.{t:Identifier}",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT 1 SETTINGS allow_introspection_functions = 1",
    "SHOW PROCESSLIST",
]


@pytest.mark.parametrize("change", CHANGING)
def test_the_reader_changes_nothing_and_sees_no_one_elses_queries(engine: Engine, change: str) -> None:
    with pytest.raises(Denied):
        run(engine, change, "reader", param_d="system", param_t="processes")
    with pytest.raises(Denied):
        run(engine, "SELECT 1", "reader", database="system")
    assert run(engine, "SELECT count() FROM made") == "1\n"


@pytest.mark.parametrize("change", CHANGING[:3])
def test_a_request_that_only_reads_changes_nothing_whoever_sends_it(engine: Engine, change: str) -> None:
    with pytest.raises(Denied, match="READONLY"):
        run(engine, change, only_read=True)
    with pytest.raises(Denied, match="READONLY"):
        run(engine, change, readonly="1")


@pytest.mark.parametrize(
    "attack",
    [
        "INSERT INTO made SELECT 2, * FROM file('{secret}', 'LineAsString')",
        "INSERT INTO made VALUES (2, file('{secret}'))",
        "INSERT INTO made FROM INFILE '{secret}' FORMAT CSV",
        "INSERT INTO FUNCTION file('{secret}.out') SELECT 1",
        "INSERT INTO FUNCTION file('{secret}.out') VALUES (1)",
        "INSERT INTO `{secret}` VALUES (1)",
        "CREATE TABLE f (a String) ENGINE = File(CSV, '{secret}')",
        "CREATE TABLE f (a String) ENGINE = URL('http://127.0.0.1:9/', CSV)",
        "CREATE TABLE f (a String) ENGINE = `Executable`('x', CSV)",
        "CREATE TABLE f AS file('{secret}')",
        "CREATE TABLE f (a String DEFAULT file('{secret}')) ENGINE = Memory",
        "CREATE TABLE f (a Int8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = local, path = '/tmp/')",
        "CREATE DATABASE d ENGINE = Filesystem('/etc')",
        "CREATE DATABASE d ENGINE = MySQL('127.0.0.1:9', 'd', 'u', 'p')",
        "CREATE VIEW v AS SELECT * FROM file('{secret}')",
        "CREATE FUNCTION f AS x -> file(x)",
        "CREATE DICTIONARY d (a Int8) PRIMARY KEY a SOURCE(FILE(path '{secret}' format 'CSV')) LAYOUT(FLAT())",
        "CREATE NAMED COLLECTION c AS a = 1",
        "ATTACH TABLE f FROM '{secret}' (a Int8) ENGINE = MergeTree ORDER BY a",
        "ALTER TABLE made FREEZE",
        "ALTER TABLE made FETCH PARTITION 1 FROM '/x'",
        "CREATE USER u IDENTIFIED BY 'x'",
        "RESTORE TABLE made FROM File('{secret}')",
        "ALTER TABLE made MODIFY COLUMN s DEFAULT file('{secret}')",
    ],
)
def test_the_writer_reaches_no_files_either(engine: Engine, secret: str, attack: str) -> None:
    with pytest.raises(Exception, match=r"Code: \d+\.") as refused:
        run(engine, attack.format(secret=secret))
    assert "hunter2" not in str(refused.value)
    assert not Path(f"{secret}.out").exists()
    assert run(engine, "SELECT count() FROM made") == "1\n"


def test_what_stands_among_the_values_is_a_value(engine: Engine) -> None:
    run(engine, "INSERT INTO made VALUES (5, 'y'); DROP TABLE made")
    run(engine, "INSERT INTO made (a, s) VALUES (5, '); DROP TABLE made; --')")
    assert run(engine, "SELECT s FROM made WHERE a = 5 ORDER BY s") == "); DROP TABLE made; --\ny\n"
    run(engine, "ALTER TABLE made DELETE WHERE a = 5", mutations_sync="2")


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        ("SELECT 'file', 1 AS `select`", "file\t1\n"),
        ("-- names\nSELECT count() AS `count(*)` FROM made -- done", "1\n"),
        ("SELECT s FROM made WHERE s = {x:String} SETTINGS final = 0", "x\n"),
        ("SELECT a FROM (SELECT a FROM made) ORDER BY a LIMIT 1 BY a", "1\n"),
        ("SELECT sum(number) FROM numbers(4)", "6\n"),
        ("SELECT count() > 0 FROM system.tables WHERE name = 'made'", "1\n"),
        ("EXISTS TABLE made", "1\n"),
        ("SELECT 'SETTINGS readonly = 0; INTO OUTFILE'", "SETTINGS readonly = 0; INTO OUTFILE\n"),
    ],
)
def test_the_reader_reads(engine: Engine, sql: str, answer: str) -> None:
    assert run(engine, sql, "reader", param_x="x", final="1") == answer
    assert run(engine, sql, "writer", only_read=True, param_x="x") == answer


def test_settings_of_one_request_do_not_stay_for_the_next(engine: Engine) -> None:
    assert run(engine, "SELECT getSetting('readonly')", "reader") == "1\n"
    assert run(engine, "SELECT getSetting('readonly')") == "0\n"
    assert run(engine, "SELECT getSetting('max_threads')", "reader", max_threads="3") == "3\n"
    assert run(engine, "SELECT getSetting('max_threads') = 3", "reader") == "0\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"INSERT INTO t FORMAT Arrow\nxyz", (b"INSERT INTO t FORMAT Arrow\n", "Arrow", b"xyz")),
        (
            b"/* x */ insert into `values` (a) values (1)",
            (b"/* x */ insert into `values` (a)  FORMAT Values", "Values", b"(1)"),
        ),
        (b"INSERT INTO t SELECT 1 FORMAT CSV", None),
        (b"SELECT 1 FORMAT CSV", None),
    ],
)
def test_an_insert_is_parted_from_its_data(text: bytes, parts: tuple[bytes, str, bytes] | None) -> None:
    found = split_insert(text)
    assert (found and (found[0], found[1], bytes(found[2]))) == parts
