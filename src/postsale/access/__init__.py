"""Who may see, unseal and approve; keys, sealing and masks. Facts are passed in; nothing here reads the log.

May import `aggregates` (for identifiers), `events` and `errors`.
"""

from postsale.access.principals import Person, authenticate, issue_token, os_user
from postsale.access.sealing import Unsealer, blind_index, content_mac, everything, fact_id, nothing, open_blob, seal_blob, seal_fields
from postsale.access.vault import FileVault, KeyVault, SubjectKey, TenantKeys

__all__ = [
    "FileVault",
    "KeyVault",
    "Person",
    "SubjectKey",
    "TenantKeys",
    "Unsealer",
    "authenticate",
    "blind_index",
    "content_mac",
    "everything",
    "fact_id",
    "issue_token",
    "nothing",
    "open_blob",
    "os_user",
    "seal_blob",
    "seal_fields",
]
