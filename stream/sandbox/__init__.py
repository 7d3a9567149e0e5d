"""A local stand-in for the Storage API: the whole product runs without a network.

It answers the calls the product makes, takes staged files from a local folder or an object store,
and loads them into SQLite tables that can be queried while it runs. Nothing else in the product
knows of it; it is met through its URL.
"""

from stream.sandbox.auth import FixedToken
from stream.sandbox.objects import ObjectStaging
from stream.sandbox.programs import Program
from stream.sandbox.service import SandboxService

__all__ = ["FixedToken", "ObjectStaging", "Program", "SandboxService"]
