create or replace function omni.check_unit_move() returns trigger language plpgsql as $$
begin
  if old.state <> new.state and (old.state, new.state) not in (
    ('ready', 'running'), ('ready', 'dead'), ('running', 'ready'), ('running', 'done'), ('running', 'dead'),
    ('dead', 'ready')
  ) then
    raise exception 'unit %: % -> % is not a move', new.unit_id, old.state, new.state using errcode = 'check_violation';
  end if;
  return new;
end $$;
drop table omni.compatible, omni.blobs, omni.pools, omni.clocks;
alter table omni.workers drop column slots, drop column counters, drop column verdict;
alter table omni.units add foreign key (source_id) references omni.sources on delete cascade;
alter table omni.artifacts add foreign key (source_id) references omni.sources on delete cascade;
alter table omni.segments add foreign key (source_id) references omni.sources on delete cascade;
alter table omni.captions add foreign key (source_id) references omni.sources on delete cascade;
alter table omni.pages add foreign key (source_id) references omni.sources on delete cascade;
alter table omni.blocks add foreign key (source_id) references omni.sources on delete cascade;
alter table omni.coverage add foreign key (source_id) references omni.sources on delete cascade;
alter table omni.summaries add foreign key (source_id) references omni.sources on delete cascade;
drop index omni.units_claimable, omni.units_alone, omni.units_open, omni.units_dead, omni.jobs_open_of_tenant,
  omni.jobs_finished;
create index units_ready on omni.units (pool, priority desc, job_id, position) where state = 'ready';
create index units_of_job on omni.units (job_id, revision, kind);
drop trigger unit_tenant on omni.units;
drop function omni.set_unit_tenant;
alter table omni.units drop column tenant_id, drop column due_at, drop column bytes, drop column alone,
  drop column beside;
alter table omni.units reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_cost_delay);
alter table omni.jobs drop column due_at;
alter table omni.jobs reset (fillfactor, autovacuum_vacuum_scale_factor);
alter table omni.tenants drop column max_open_jobs;
