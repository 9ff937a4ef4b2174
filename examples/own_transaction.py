"""A signal and a row of your own in one transaction. Needs a PostgreSQL log: its URL in DATABASE_URL, its key file in POSTSALE_KEYS."""

import os
from datetime import UTC, datetime

import psycopg

from postsale import PostSale
from postsale.aggregates.signals import InvoicePaid

url = os.environ["DATABASE_URL"]
with PostSale.open(url) as ps, psycopg.connect(url) as conn:
    acme = ps.tenant("acme")
    conn.execute("CREATE TEMP TABLE invoices (id text PRIMARY KEY)")  # yours would be there already
    conn.commit()
    for number, end in (("inv_1", conn.rollback), ("inv_2", conn.commit)):
        conn.execute("INSERT INTO invoices VALUES (%s)", [number])
        signal = InvoicePaid(source="billing", id=number, occurred_at=datetime.now(UTC), amount_minor=4900, currency="EUR")
        acme.record("cus_42", signal, connection=conn)  # the last statement: other writers wait for the end
        end()
    print("invoices:", *(row[0] for row in conn.execute("SELECT id FROM invoices")))
    print("signals: ", *(event.header.source_id for event in acme.timeline("cus_42")))
