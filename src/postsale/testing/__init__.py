"""What users import in their tests. Needs pytest."""

import pytest

# Before their import, so that a failed assertion shows its values.
pytest.register_assert_rewrite(
    *(f"postsale.testing.store_{name}" for name in ("building", "contract", "contract_append", "contract_beside", "contract_proofs")),
    "postsale.testing.tool_contract",
)

from postsale.testing.evolution import assert_schemas_kept, upcasted  # noqa: E402
from postsale.testing.parity import assert_parity, random_facts  # noqa: E402
from postsale.testing.rows import given  # noqa: E402
from postsale.testing.store_building import Events  # noqa: E402
from postsale.testing.store_contract import StoreContract  # noqa: E402
from postsale.testing.tool_contract import ToolContract, dispatched  # noqa: E402
from postsale.testing.tool_server import Answer, Request, Shape, ToolServer  # noqa: E402

__all__ = [
    "Answer",
    "Events",
    "Request",
    "Shape",
    "StoreContract",
    "ToolContract",
    "ToolServer",
    "assert_parity",
    "assert_schemas_kept",
    "dispatched",
    "given",
    "random_facts",
    "upcasted",
]
