-- Fair shares, due times, every object we own, what workers count. Only additions and wider rules: the version before
-- goes on working beside the new one.

-- Versions of the code that work on this schema besides its own: the one before, during a deployment.
create table omni.compatible (revision text primary key);
insert into omni.compatible values ('0001');

alter table omni.tenants add column max_open_jobs integer check (max_open_jobs > 0);
alter table omni.jobs add column due_at timestamptz not null default 'infinity';
create index jobs_finished on omni.jobs (finished_at) where finished_at is not null;
create index jobs_open_of_tenant on omni.jobs (tenant_id) where state in ('queued', 'running');

-- What claims read lies in the unit: a claim looks at no other row but the clocks. `alone`: it was in question when a
-- process died, so it runs with nothing beside it. `beside`: how often one died around it.
alter table omni.units
  add column tenant_id text,
  add column due_at timestamptz not null default 'infinity',
  add column bytes bigint not null default 0,
  add column alone boolean not null default false,
  add column beside integer not null default 0;
update omni.units u set tenant_id = j.tenant_id from omni.jobs j where j.job_id = u.job_id;
create function omni.set_unit_tenant() returns trigger language plpgsql as $$
begin
  new.tenant_id = (select tenant_id from omni.jobs where job_id = new.job_id);
  return new;
end $$;
create trigger unit_tenant before insert on omni.units
  for each row when (new.tenant_id is null) execute function omni.set_unit_tenant();
alter table omni.units alter column tenant_id set not null;

drop index omni.units_ready;
create index units_claimable on omni.units (kind, tenant_id, priority desc, due_at, job_id, position)
  include (ready_at, alone) where state = 'ready';
create index units_alone on omni.units (pool) where state = 'ready' and alone;
drop index omni.units_of_job;  -- the unique index begins with the same columns
create index units_open on omni.units (job_id, revision, kind) where state in ('ready', 'running');
create index units_dead on omni.units (tenant_id, finished_at) where state = 'dead';
-- Ready rows come and go: without frequent vacuum a claim steps over the dead entries of all that were ready before.
alter table omni.units set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
alter table omni.jobs set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);

-- A source goes with its job and never alone; each of these would scan its whole table for every source deleted.
alter table omni.units drop constraint units_source_id_fkey;
alter table omni.artifacts drop constraint artifacts_source_id_fkey;
alter table omni.segments drop constraint segments_source_id_fkey;
alter table omni.captions drop constraint captions_source_id_fkey;
alter table omni.pages drop constraint pages_source_id_fkey;
alter table omni.blocks drop constraint blocks_source_id_fkey;
alter table omni.coverage drop constraint coverage_source_id_fkey;
alter table omni.summaries drop constraint summaries_source_id_fkey;

-- How much a tenant has had of a pool, by weight; the pool's own clock is where a tenant that was idle joins.
create table omni.clocks (
  tenant_id  text not null references omni.tenants on delete cascade,
  pool       text not null,
  clock      double precision not null default 0,
  primary key (tenant_id, pool)
) with (fillfactor = 50);
create table omni.pools (
  pool         text primary key,
  clock        double precision not null default 0,
  paused       boolean not null default false,  -- gpu: enough is ready, prepare waits
  ready_s      double precision not null default 0,
  ready_bytes  bigint not null default 0,
  checked_at   timestamptz not null default now()
) with (fillfactor = 50);
insert into omni.pools (pool) values ('cpu'), ('gpu'), ('io');

-- One row for each prefix of objects, before the first of them is put. It outlives its job: objects are deleted later.
create table omni.blobs (
  prefix      text primary key,
  tenant_id   text not null,
  job_id      uuid not null,
  unit_id     uuid,
  generation  integer,
  kind        text not null check (kind in ('source', 'media', 'result')),
  state       text not null default 'writing' check (state in ('writing', 'live', 'garbage', 'dropped')),
  changed_at  timestamptz not null default now()
);
create index blobs_of_job on omni.blobs (job_id);
create index blobs_sources on omni.blobs (job_id) where kind = 'source' and state = 'live';
create index blobs_not_live on omni.blobs (changed_at) where state <> 'live';
create index blobs_of_unit on omni.blobs (unit_id, generation) where state = 'writing';
insert into omni.blobs (prefix, tenant_id, job_id, kind, state)
  select distinct j.tenant_id || '/' || j.job_id || '/source/', j.tenant_id, j.job_id, 'source', 'live'
  from omni.sources s join omni.jobs j using (job_id) where s.snapshot is not null;
insert into omni.blobs (prefix, tenant_id, job_id, kind, state)
  select j.tenant_id || '/' || j.job_id || '/media/', j.tenant_id, j.job_id, 'media', 'live'
  from omni.jobs j where j.swept_at is null;
insert into omni.blobs (prefix, tenant_id, job_id, kind, state)
  select r.prefix, j.tenant_id, j.job_id, 'result', 'live' from omni.results r join omni.jobs j using (job_id);

-- `verdict`: of a process that died: {"suspects": [unit ids], "alone": one was all it worked on}; null: nobody could tell.
alter table omni.workers
  add column slots integer not null default 1,
  add column counters jsonb not null default '{}',
  add column verdict jsonb;

-- A holder that is late, and that nobody has replaced, may finish.
create or replace function omni.check_unit_move() returns trigger language plpgsql as $$
begin
  if old.state <> new.state and (old.state, new.state) not in (
    ('ready', 'running'), ('ready', 'done'), ('ready', 'dead'), ('running', 'ready'), ('running', 'done'),
    ('running', 'dead'), ('dead', 'ready')
  ) then
    raise exception 'unit %: % -> % is not a move', new.unit_id, old.state, new.state using errcode = 'check_violation';
  end if;
  return new;
end $$;
