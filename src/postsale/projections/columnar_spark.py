"""Spark: the same expressions on a cluster, over facts in a table or in files. The session is the caller's.

    spark.read.parquet("…/facts").createOrReplaceTempView("facts")
    frame = frame_of(spark, value_table(Billing, table(spark, "facts"), keys=["key"], as_of=now_us))

Needs the extra `spark` and Java 17. Imports columnar.
"""

from __future__ import annotations

from typing import Any, Final

from postsale.errors import InvalidInput, MissingExtra
from postsale.projections.columnar_expressions import Table, ibis

_TYPES: Final = {"bigint": "int64", "int": "int32", "string": "string", "boolean": "boolean", "double": "float64"}


def table(session: Any, name: str) -> Table:
    """A table or view of the session, for Ibis. Columns of types that no feature can use are left out."""
    columns = {column: _TYPES[type_] for column, type_ in session.table(name).dtypes if type_ in _TYPES}
    return ibis().table(columns, name=name)


def frame_of(session: Any, expression: Table) -> Any:
    """The Spark DataFrame of an expression over tables of this session; it runs when it is read.

    InvalidInput for a session that does not follow ANSI (`spark.sql.ansi.enabled=true`): there a sum beyond 64 bits wraps silently.
    """
    try:
        import pyspark  # noqa: F401
    except ImportError:
        raise MissingExtra(feature="features on Spark", extra="spark") from None
    if session.conf.get("spark.sql.ansi.enabled") != "true":
        raise InvalidInput(what="Spark session", field="spark.sql.ansi.enabled", reason="expected true: else sums wrap silently")
    return session.sql(ibis().pyspark.compile(expression))
