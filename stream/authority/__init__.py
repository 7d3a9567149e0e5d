"""The project authority: who says what a token may do.

`interface` is what the rest of Stream knows. `own` is the authority of projects that belong to no
other service: its tokens are in etcd. The other one is the Storage API (`stream.target.keboola`).
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
