"""What users import in their tests. Needs the extra `testing`: pytest."""

from postsale.errors import MissingExtra

try:
    import pytest
except ImportError:
    raise MissingExtra(feature="postsale.testing", extra="testing") from None

# Before their import, so that a failed assertion shows its values.
pytest.register_assert_rewrite(
    *(f"postsale.testing.store_{name}" for name in ("building", "contract", "contract_append", "contract_beside", "contract_proofs")),
    "postsale.testing.tool_contract",
    "postsale.testing.engine_contract",
)

from postsale.testing.engine_contract import EngineContract  # noqa: E402
from postsale.testing.engine_site import Site  # noqa: E402
from postsale.testing.engine_stage import Stage  # noqa: E402
from postsale.testing.evolution import assert_schemas_kept, upcasted  # noqa: E402
from postsale.testing.given import given  # noqa: E402
from postsale.testing.network import no_network  # noqa: E402
from postsale.testing.parity import assert_parity, random_facts, random_ids  # noqa: E402
from postsale.testing.scenario import Scenario, asked, consent, decision, effect  # noqa: E402
from postsale.testing.store_building import Events  # noqa: E402
from postsale.testing.store_contract import StoreContract  # noqa: E402
from postsale.testing.tool_contract import ToolContract, dispatched  # noqa: E402
from postsale.testing.tool_server import Answer, Request, Shape, ToolServer  # noqa: E402

__all__ = [
    "Answer",
    "EngineContract",
    "Events",
    "Request",
    "Scenario",
    "Shape",
    "Site",
    "Stage",
    "StoreContract",
    "ToolContract",
    "ToolServer",
    "asked",
    "assert_parity",
    "assert_schemas_kept",
    "consent",
    "decision",
    "dispatched",
    "effect",
    "given",
    "no_network",
    "random_facts",
    "random_ids",
    "upcasted",
]
