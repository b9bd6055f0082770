"""The promises between rooms: Arrow schemas, versioned, one file a contract, and `check`."""

from tilth.contracts.contamination import CONTAMINATION
from tilth.contracts.contract import Contract, check, uuid_array, uuid_bytes
from tilth.contracts.document_losses import DOCUMENT_LOSSES
from tilth.contracts.documents import DOCUMENTS, OCCURRENCES, REJECTS
from tilth.contracts.duplicates import DUPLICATES
from tilth.contracts.edits import EDITS
from tilth.contracts.keepers import KEEPERS, METHOD_KEEPERS
from tilth.contracts.licences import LICENCES
from tilth.contracts.runs import LOSSES
from tilth.contracts.samples import SAMPLES
from tilth.contracts.seen import SEEN
from tilth.contracts.signals import SIGNALS, family_contract
from tilth.contracts.subset import SUBSET
from tilth.contracts.token_spans import TOKEN_SPANS
from tilth.contracts.tokens import TOKENS_INDEX

__all__ = [
    "CONTAMINATION",
    "DOCUMENTS",
    "DOCUMENT_LOSSES",
    "DUPLICATES",
    "EDITS",
    "KEEPERS",
    "LICENCES",
    "LOSSES",
    "METHOD_KEEPERS",
    "OCCURRENCES",
    "REJECTS",
    "SAMPLES",
    "SEEN",
    "SIGNALS",
    "SUBSET",
    "TOKENS_INDEX",
    "TOKEN_SPANS",
    "Contract",
    "check",
    "family_contract",
    "uuid_array",
    "uuid_bytes",
]
