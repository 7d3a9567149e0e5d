"""The interface to etcd: client, mirror, atomic operation, session, lock, distribution.

Only this package communicates with etcd. Only the module `request` knows the format of requests.
"""

from stream.etcd.atomic import AtomicConflict, AtomicTxn, LockLost, atomic
from stream.etcd.claims import NameHeld
from stream.etcd.client import EtcdClient, RangeResult
from stream.etcd.distribution import Group, HashRing
from stream.etcd.embedded import EmbeddedEtcd
from stream.etcd.errors import (
    Compacted,
    EtcdError,
    EtcdUnavailable,
    LeaseNotFound,
    TxnTooLarge,
)
from stream.etcd.life import Life
from stream.etcd.lock import Lock, LockTimeout
from stream.etcd.mirror import Batch, Change, Mirror, json_values
from stream.etcd.request import KeyValue
from stream.etcd.session import Registration, Session

__all__ = [
    "AtomicConflict",
    "AtomicTxn",
    "Batch",
    "Change",
    "Compacted",
    "EmbeddedEtcd",
    "EtcdClient",
    "EtcdError",
    "EtcdUnavailable",
    "Group",
    "HashRing",
    "KeyValue",
    "LeaseNotFound",
    "Life",
    "Lock",
    "LockLost",
    "LockTimeout",
    "Mirror",
    "NameHeld",
    "RangeResult",
    "Registration",
    "Session",
    "TxnTooLarge",
    "atomic",
    "json_values",
]
