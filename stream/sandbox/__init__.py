"""A local emulation of the Storage API, for running the whole product without a network.

It implements the calls of the product, accepts staged files in a local folder or an object store,
and loads them into SQLite tables that can be queried while it runs. The rest of the product uses it
only through its URL.
"""

from stream.sandbox.auth import FixedToken
from stream.sandbox.objects import ObjectStaging
from stream.sandbox.programs import Program
from stream.sandbox.service import SandboxService

__all__ = ["FixedToken", "ObjectStaging", "Program", "SandboxService"]
