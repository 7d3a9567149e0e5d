"""The project authority: verification of tokens and their rights.

`interface` is the interface used by the rest of Stream. `own` is the authority of projects that
belong to no other service; it stores its tokens in etcd. The other implementation is the Storage
API (`stream.target.keboola`).
"""

from stream.authority.interface import (
    Admin,
    Branch,
    ProjectAuthority,
    ProjectToken,
    SourceChange,
    TokenInfo,
)

__all__ = ["Admin", "Branch", "ProjectAuthority", "ProjectToken", "SourceChange", "TokenInfo"]
