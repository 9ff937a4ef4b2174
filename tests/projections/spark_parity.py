"""Run as a process by test_columnar_spark: parity of Spark with the fold, and the loud overflow. Spark leaves sockets open, threads and a JVM."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet

from postsale.aggregates.signals import InvoicePaid, RenewalDue
from postsale.errors import InvalidInput
from postsale.events import DAY_US
from postsale.projections import Fact, Features, count, days, decayed, distinct, history, latest, total
from postsale.projections.columnar import value_table
from postsale.projections.columnar_spark import frame_of, table
from postsale.projections.feeding import facts_table
from postsale.testing import assert_parity

from .related import Friends
from .support import MEASURED, Measured

_OPTIONS = {
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
    # Tiny data: compiling queries takes longer than running them.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
}


class Traps(Features, version=1, owner="tests"):
    """What engines do differently by themselves: ties, absent values, division, empty arrays, days before 1970, decay."""

    last = latest(Measured, lambda e: e.amount)
    renews = latest(RenewalDue, lambda e: e.renews_at)
    rounded = total(Measured, lambda e: -e.amount * 3 // e.step + e.amount % -7)
    either = count(Measured, where=lambda e: (e.amount > 0) | (e.label == "a"), window=days(3))
    kinds_by_2d = distinct(Measured, lambda e: e.step, by=lambda e: e.good, window=days(2))
    fading = decayed(InvoicePaid, lambda e: e.amount_minor, half_life=days(2))
    about = distinct(Measured, lambda e: e.label, approximate=True)
    about_flag = distinct(Measured, lambda e: e.good, by=lambda e: e.step, window=days(2), approximate=True)
    past = history(Measured, lambda e: e.label, window=days(3))


class Sum(Features, version=1, owner="tests"):
    it = total(Measured, lambda e: e.amount)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main(folder: Path, seed: int) -> None:
    from pyspark.sql import SparkSession

    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    builder = SparkSession.builder.master("local[1]").config("spark.driver.bindAddress", "127.0.0.1")
    for name, value in _OPTIONS.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    numbers = itertools.count()

    def spark(facts: Any, expression: Any) -> list[dict[str, Any]]:
        path = folder / f"{next(numbers)}.parquet"
        pyarrow.parquet.write_table(facts, path)
        session.read.parquet(str(path)).createOrReplaceTempView("facts")
        return frame_of(session, expression(table(session, "facts"))).toArrow().to_pylist()

    assert_parity(Traps, engines={"Spark": spark}, seed=seed)
    assert_parity(Friends, engines={"Spark": spark}, seed=seed)
    say("parity held")

    facts = facts_table(Sum, [("a", Fact(MEASURED, n, DAY_US, DAY_US, {"amount": 2**62})) for n in (1, 2)])
    for ansi in ("true", "false"):
        session.conf.set("spark.sql.ansi.enabled", ansi)
        try:
            spark(facts, lambda t: value_table(Sum, t, keys=["key"], as_of=DAY_US))
        except InvalidInput as refused:
            say(f"{refused.field} refused")
        except Exception as error:
            say("overflow raised" if "ARITHMETIC_OVERFLOW" in str(error) else str(error))
        else:
            say("overflow went unnoticed")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(Path(directory), int(sys.argv[1]))
