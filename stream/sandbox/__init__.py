"""A local emulation of the Storage API, with which the product runs without a network.

It implements the calls that the product makes, accepts staged files in a local folder or an object
store, and loads them into SQLite tables that can be queried while the sandbox runs. The rest of the
product uses it only through its URL.
"""

from stream.sandbox.auth import FixedToken
from stream.sandbox.objects import ObjectStaging
from stream.sandbox.programs import Program
from stream.sandbox.service import SandboxService

__all__ = ["FixedToken", "ObjectStaging", "Program", "SandboxService"]
