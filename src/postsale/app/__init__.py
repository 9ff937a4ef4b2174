"""The application: `PostSale` and `Tenant`, where the rooms are wired together. Holds no rules."""

from postsale.app.exporting import Exports
from postsale.app.health import CustomerRow
from postsale.app.importing import ImportReport, Refused
from postsale.app.models import ModelScore, TenantModels
from postsale.app.people import AuthorityHandle, Due
from postsale.app.postsale import PostSale
from postsale.app.recorder import Receipt, RecordReport, Reject
from postsale.app.tenant import Tenant
from postsale.app.tools import PlannerStatus, ToolStatus
from postsale.projections.export import ExportReport

__all__ = [
    "AuthorityHandle",
    "CustomerRow",
    "Due",
    "ExportReport",
    "Exports",
    "ImportReport",
    "ModelScore",
    "PlannerStatus",
    "PostSale",
    "Receipt",
    "RecordReport",
    "Refused",
    "Reject",
    "Tenant",
    "TenantModels",
    "ToolStatus",
]
