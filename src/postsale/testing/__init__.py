"""What users import in their tests. Needs pytest."""

import pytest

# Before their import, so that a failed assertion shows its values.
pytest.register_assert_rewrite(
    "postsale.testing.store_contract", "postsale.testing.store_contract_append", "postsale.testing.store_building"
)

from postsale.testing.evolution import assert_schemas_kept, upcasted  # noqa: E402
from postsale.testing.store_building import Events  # noqa: E402
from postsale.testing.store_contract import StoreContract  # noqa: E402

__all__ = ["Events", "StoreContract", "assert_schemas_kept", "upcasted"]
