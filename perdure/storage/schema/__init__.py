"""The tables. SQLAlchemy owns the schema and the migrations; the statements are in `perdure.storage.postgres`.

What is written down here is compared with the migrated database by tests/migrations.
"""

from perdure.storage.schema import operating, tasks, views, webhooks  # noqa: F401 -- they put their tables into `metadata`
from perdure.storage.schema.base import VERSION_TABLE, metadata
from perdure.storage.schema.walls import FUNCTIONS, OWNERLESS, WALLED, policy

__all__ = ["FUNCTIONS", "OWNERLESS", "VERSION_TABLE", "WALLED", "metadata", "policy"]
