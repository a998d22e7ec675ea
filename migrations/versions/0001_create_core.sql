-- Tables of the core. Ids are UUIDv7 made by the client (PostgreSQL 15 has no uuidv7()).
create schema if not exists omni;

-- Text as it is searched: no case, no accents, no ligatures, a space around each Han or Kana character, because the
-- parser would take a sentence of them for one word. Immutable, as generated columns ask for.
create function omni.fold(text) returns text language sql immutable strict parallel safe as $$
  select regexp_replace(
    replace(replace(replace(
      translate(lower(normalize(regexp_replace(normalize($1, nfkd), '[\u0300-\u036f]', '', 'g'), nfc)), 'øđłħı', 'odlhi'),
      'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'),
    '([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])(?=\w)|(\w)(?=[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])',
    '\1\2 ', 'g')
$$;

create table omni.tenants (
  tenant_id   text primary key check (tenant_id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  weight      double precision not null default 1 check (weight > 0),
  created_at  timestamptz not null default now()
);

create table omni.jobs (
  job_id           uuid primary key,
  tenant_id        text not null references omni.tenants,
  name             text not null,
  origin           text not null check (origin in ('api', 'folder', 'bucket')),
  origin_ref       jsonb not null default '{}',
  options          jsonb not null default '{}',
  secret           jsonb not null default '{}',
  metadata         jsonb not null default '{}',
  reuse            boolean not null default true,
  priority         integer not null default 0,
  state            text not null default 'queued'
                   check (state in ('queued', 'running', 'succeeded', 'partial', 'failed', 'cancelled')),
  phase            text not null default 'prepare' check (phase in ('prepare', 'map', 'reduce', 'deliver')),
  revision         integer not null default 1,
  error            jsonb,
  waiting          text,
  idempotency_key  text,
  request_digest   text,
  reused_from      uuid,
  event_seq        bigint not null default 0,
  result_revision  integer,
  created_at       timestamptz not null default now(),
  started_at       timestamptz,
  finished_at      timestamptz,
  swept_at         timestamptz,
  unique (tenant_id, idempotency_key)
);
create index jobs_listed on omni.jobs (tenant_id, created_at desc, job_id desc);
create index jobs_open on omni.jobs (job_id) where state in ('queued', 'running');
create index jobs_unswept on omni.jobs (finished_at) where swept_at is null and finished_at is not null;

create table omni.sources (
  source_id    uuid primary key,
  job_id       uuid not null references omni.jobs on delete cascade,
  position     integer not null,
  uri          text not null,
  name         text not null,
  tasks        text[] not null default '{}',
  snapshot     text,
  sha256       text,
  size_bytes   bigint,
  medium       text check (medium in ('audio', 'video', 'image', 'document')),
  container    text,
  duration_s   double precision,
  pages        integer,
  probe        jsonb,
  gaps         jsonb not null default '[]',
  speech       jsonb not null default '[]',
  reuse_key    text,
  error        jsonb,
  created_at   timestamptz not null default now(),
  unique (job_id, position)
);
create index sources_by_content on omni.sources (reuse_key) where reuse_key is not null;
create index sources_by_sha on omni.sources (sha256);

create table omni.workers (
  worker_id     uuid primary key,
  pool          text not null,
  host          text not null,
  pid           integer not null,
  pid_started   bigint not null,
  version       text not null,
  backend       jsonb,
  state         text not null default 'running' check (state in ('running', 'draining', 'gone')),
  progress      bigint not null default 0,
  started_at    timestamptz not null default now(),
  heartbeat_at  timestamptz not null default now()
);
create index workers_live on omni.workers (heartbeat_at) where state <> 'gone';

create table omni.units (
  unit_id        uuid primary key,
  job_id         uuid not null references omni.jobs on delete cascade,
  source_id      uuid references omni.sources on delete cascade,
  revision       integer not null,
  kind           text not null check (kind in
                 ('prepare', 'span', 'clip', 'page', 'words', 'speakers', 'reduce', 'deliver')),
  pool           text not null check (pool in ('cpu', 'gpu', 'io')),
  position       integer not null default 0,
  priority       integer not null default 0,
  cost           double precision not null default 1,
  amount         double precision not null default 0,
  input          jsonb not null default '{}',
  reuse_key      text,
  state          text not null default 'ready' check (state in ('ready', 'running', 'done', 'dead')),
  generation     integer not null default 0,
  worker_id      uuid,
  rung           integer not null default 0,
  ready_at       timestamptz not null default now(),
  claimed_at     timestamptz,
  deadline_at    timestamptz,
  time_limit_s   double precision not null default 3600,
  progress       real not null default 0,
  lost           integer not null default 0,
  failed         integer not null default 0,
  rejected       integer not null default 0,
  released       integer not null default 0,
  answer         jsonb,
  answer_digest  text,
  kept           jsonb,
  error          jsonb,
  reused_from    uuid,
  created_at     timestamptz not null default now(),
  finished_at    timestamptz,
  unique nulls not distinct (job_id, revision, kind, source_id, position)
) with (fillfactor = 80);
create index units_ready on omni.units (pool, priority desc, job_id, position) where state = 'ready';
create index units_running on omni.units (worker_id) where state = 'running';
create index units_of_job on omni.units (job_id, revision, kind);
create index units_reusable on omni.units (reuse_key) where state = 'done' and reuse_key is not null;

create table omni.attempts (
  unit_id      uuid not null references omni.units on delete cascade,
  generation   integer not null,
  worker_id    uuid not null,
  rung         integer not null default 0,
  started_at   timestamptz not null default now(),
  finished_at  timestamptz,
  outcome      text check (outcome in ('succeeded', 'failed', 'lost', 'rejected', 'released')),
  error        jsonb,
  primary key (unit_id, generation)
);

create table omni.events (
  job_id  uuid not null references omni.jobs on delete cascade,
  seq     bigint not null,
  at      timestamptz not null default now(),
  type    text not null,
  data    jsonb not null default '{}',
  primary key (job_id, seq)
);

create table omni.results (
  job_id        uuid not null references omni.jobs on delete cascade,
  revision      integer not null,
  generation    integer not null,
  prefix        text not null,
  answered_by   jsonb not null,
  delivered_at  timestamptz not null default now(),
  primary key (job_id, revision)
);

create table omni.artifacts (
  job_id      uuid not null references omni.jobs on delete cascade,
  revision    integer not null,
  generation  integer not null,
  source_id   uuid references omni.sources on delete cascade,
  name        text not null,
  format      text not null,
  key         text not null,
  media_type  text not null,
  size_bytes  bigint not null,
  sha256      text not null,
  primary key (job_id, revision, name)
);

create table omni.segments (
  job_id      uuid not null references omni.jobs on delete cascade,
  revision    integer not null,
  source_id   uuid not null references omni.sources on delete cascade,
  position    integer not null,
  start_s     double precision not null,
  end_s       double precision not null,
  text        text not null,
  language    text not null default '',
  speaker     text,
  confidence  double precision,
  words       jsonb not null default '[]',
  search      tsvector generated always as (to_tsvector('simple', omni.fold(text))) stored,
  primary key (job_id, revision, source_id, position)
);
-- Without fastupdate: a search would read the list of pending rows each time, and few rows come at once.
create index segments_search on omni.segments using gin (search) with (fastupdate = off);

create table omni.captions (
  job_id     uuid not null references omni.jobs on delete cascade,
  revision   integer not null,
  source_id  uuid not null references omni.sources on delete cascade,
  position   integer not null,
  start_s    double precision not null,
  end_s      double precision not null,
  text       text not null,
  sound      text not null,
  on_screen  jsonb not null default '[]',
  evidence   jsonb not null default '{}',
  screen     text not null default '',
  search     tsvector generated always as (to_tsvector('simple', omni.fold(screen))) stored,
  primary key (job_id, revision, source_id, position)
);
create index captions_search on omni.captions using gin (search) with (fastupdate = off);

create table omni.pages (
  job_id       uuid not null references omni.jobs on delete cascade,
  revision     integer not null,
  source_id    uuid not null references omni.sources on delete cascade,
  page         integer not null,
  width_pt     double precision not null,
  height_pt    double precision not null,
  rotation     integer not null default 0,
  text_source  text not null,
  reason       text not null default '',
  text         text not null,
  primary key (job_id, revision, source_id, page)
);

create table omni.blocks (
  job_id      uuid not null references omni.jobs on delete cascade,
  revision    integer not null,
  source_id   uuid not null references omni.sources on delete cascade,
  page        integer not null,
  block       integer not null,
  kind        text not null,
  text        text not null,
  rows        jsonb,
  x0          double precision not null,
  y0          double precision not null,
  x1          double precision not null,
  y1          double precision not null,
  confidence  double precision,
  search      tsvector generated always as (to_tsvector('simple', omni.fold(text))) stored,
  primary key (job_id, revision, source_id, page, block)
);
create index blocks_search on omni.blocks using gin (search) with (fastupdate = off);

create table omni.coverage (
  job_id     uuid not null references omni.jobs on delete cascade,
  revision   integer not null,
  source_id  uuid not null references omni.sources on delete cascade,
  position   integer not null,
  medium     text not null check (medium in ('speech', 'video', 'page')),
  state      text not null check (state in ('done', 'empty', 'failed')),
  reason     text not null default '',
  start_s    double precision,
  end_s      double precision,
  page       integer,
  primary key (job_id, revision, source_id, position)
);

create table omni.summaries (
  job_id     uuid not null references omni.jobs on delete cascade,
  revision   integer not null,
  source_id  uuid not null references omni.sources on delete cascade,
  position   integer not null,
  method     text not null,
  text       text not null,
  start_s    double precision,
  end_s      double precision,
  page       integer,
  primary key (job_id, revision, source_id, position)
);

create table omni.ledger (
  ledger_id   uuid primary key,
  tenant_id   text not null references omni.tenants,
  watch       text not null,
  object      text not null,
  version     text not null,
  size_bytes  bigint not null,
  state       text not null default 'seen' check (state in ('seen', 'taken', 'refused', 'delivered')),
  reason      text,
  job_id      uuid references omni.jobs on delete set null,
  seen_at     timestamptz not null default now(),
  changed_at  timestamptz not null default now(),
  unique (tenant_id, watch, object, version)
);
create index ledger_of_job on omni.ledger (job_id);

-- The moves of job.py; a test compares the two.
create function omni.check_job_move() returns trigger language plpgsql as $$
begin
  if old.state <> new.state and (old.state, new.state) not in (
    ('queued', 'running'), ('queued', 'cancelled'), ('queued', 'failed'),
    ('running', 'succeeded'), ('running', 'partial'), ('running', 'failed'), ('running', 'cancelled'),
    ('partial', 'running'), ('failed', 'running')
  ) then
    raise exception 'job %: % -> % is not a move', new.job_id, old.state, new.state using errcode = 'check_violation';
  end if;
  return new;
end $$;
create trigger job_moves before update of state on omni.jobs
  for each row execute function omni.check_job_move();

create function omni.check_unit_move() returns trigger language plpgsql as $$
begin
  if old.state <> new.state and (old.state, new.state) not in (
    ('ready', 'running'), ('ready', 'dead'), ('running', 'ready'), ('running', 'done'), ('running', 'dead'),
    ('dead', 'ready')
  ) then
    raise exception 'unit %: % -> % is not a move', new.unit_id, old.state, new.state using errcode = 'check_violation';
  end if;
  return new;
end $$;
create trigger unit_moves before update of state on omni.units
  for each row execute function omni.check_unit_move();
