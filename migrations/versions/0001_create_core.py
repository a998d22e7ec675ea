"""The core: jobs, sources, units, attempts, workers, results, events, ledger, tenants."""

from migrations import execute_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    execute_file("versions/0001_create_core.sql")
    execute_file("views/omni_v1.sql")


def downgrade() -> None:
    from alembic import op

    op.execute("drop schema if exists omni_v1 cascade")
    op.execute(
        """
        drop table omni.ledger, omni.summaries, omni.coverage, omni.blocks, omni.pages, omni.captions, omni.segments,
          omni.artifacts, omni.results, omni.events, omni.attempts, omni.units, omni.workers, omni.sources, omni.jobs,
          omni.tenants;
        drop function omni.check_job_move, omni.check_unit_move, omni.found_in, omni.marked, omni.fold;
        """
    )
