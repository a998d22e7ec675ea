"""Fair shares between tenants, due times, a row for every prefix of objects, counters of workers."""

from migrations import execute_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    execute_file("versions/0002_share_fairly.sql")
    execute_file("views/omni_v1.sql")


def downgrade() -> None:
    execute_file("versions/0002_share_fairly_down.sql")
