-- The SQL contract: the current result of every job, for whoever may only read (role omni_read).
-- This file is run by each migration. Views are replaced, never dropped: what a user built on them stays, and
-- a column that is renamed or removed by mistake stops the migration.
create schema if not exists omni_v1;
comment on schema omni_v1 is
  'Results of omni-jobs. Columns are only ever added. Times are seconds of the source; boxes have their origin top left.';

create or replace view omni_v1.jobs as
select j.job_id, j.tenant_id, j.name, j.origin, j.state, j.phase, j.waiting,
       j.error ->> 'type' as error_type, j.error ->> 'message' as error_message,
       (j.error ->> 'retryable')::boolean as error_retryable,
       j.priority, j.options, j.metadata,
       s.sources, s.duration_s, s.pages,
       u.units_total, u.units_done, u.units_dead,
       j.result_revision as revision, r.answered_by, j.reused_from,
       j.created_at, j.started_at, j.finished_at, r.delivered_at
  from omni.jobs j
  left join omni.results r on r.job_id = j.job_id and r.revision = j.result_revision
  left join lateral (
    select count(*) as sources, sum(duration_s) as duration_s, sum(pages) as pages
      from omni.sources where job_id = j.job_id
  ) s on true
  left join lateral (
    select count(*) as units_total, count(*) filter (where state = 'done') as units_done,
           count(*) filter (where state = 'dead') as units_dead
      from omni.units where job_id = j.job_id and revision = j.revision
  ) u on true;
comment on view omni_v1.jobs is 'Every job, whatever its state: what was asked, how far it is, what went wrong.';
comment on column omni_v1.jobs.job_id is 'The job.';
comment on column omni_v1.jobs.tenant_id is 'Who submitted it.';
comment on column omni_v1.jobs.name is 'Its name, by default that of its first file.';
comment on column omni_v1.jobs.origin is 'How it came in: api, folder or bucket.';
comment on column omni_v1.jobs.state is 'queued, running, succeeded, partial (delivered, with gaps that coverage names), failed or cancelled.';
comment on column omni_v1.jobs.phase is 'The phase it is in, or ended in: prepare, map, reduce, deliver.';
comment on column omni_v1.jobs.waiting is 'What an open job waits for, when that is known.';
comment on column omni_v1.jobs.error_type is 'Why it failed, one of a closed list (unreadable, encrypted, timeout, ...).';
comment on column omni_v1.jobs.error_message is 'Why it failed, as a sentence.';
comment on column omni_v1.jobs.error_retryable is 'Whether a retry can help.';
comment on column omni_v1.jobs.priority is 'Higher goes first within a tenant.';
comment on column omni_v1.jobs.options is 'The options it was submitted with.';
comment on column omni_v1.jobs.metadata is 'The metadata its submitter attached.';
comment on column omni_v1.jobs.sources is 'Number of its sources.';
comment on column omni_v1.jobs.duration_s is 'Seconds of sound and video over its sources, as far as known.';
comment on column omni_v1.jobs.pages is 'Pages over its sources, as far as known.';
comment on column omni_v1.jobs.units_total is 'Pieces of work known so far in the revision being worked on; prepare and later phases add to them.';
comment on column omni_v1.jobs.units_done is 'Those of units_total that are done.';
comment on column omni_v1.jobs.units_dead is 'Those of units_total that are out of attempts.';
comment on column omni_v1.jobs.revision is 'The revision that the other views show; null until something is delivered.';
comment on column omni_v1.jobs.answered_by is 'Backend, models with versions, and digest of the weights that answered.';
comment on column omni_v1.jobs.reused_from is 'The job whose result was taken over instead of working again.';
comment on column omni_v1.jobs.created_at is 'When it was submitted.';
comment on column omni_v1.jobs.started_at is 'When work on it began.';
comment on column omni_v1.jobs.finished_at is 'When it reached its last state.';
comment on column omni_v1.jobs.delivered_at is 'When the revision shown was delivered.';

create or replace view omni_v1.sources as
select s.source_id, s.job_id, s.position + 1 as source, s.name, s.uri, s.tasks, s.medium, s.container, s.sha256,
       s.size_bytes, s.duration_s, s.pages,
       case when s.error is null then j.state else 'failed' end as state, j.phase,
       coalesce(s.error, j.error) ->> 'type' as error_type, coalesce(s.error, j.error) ->> 'message' as error_message,
       u.units_total, u.units_done, u.units_dead, j.reused_from, s.created_at, j.finished_at
  from omni.sources s
  join omni.jobs j on j.job_id = s.job_id
  left join lateral (
    select count(*) as units_total, count(*) filter (where state = 'done') as units_done,
           count(*) filter (where state = 'dead') as units_dead
      from omni.units where job_id = s.job_id and revision = j.revision and source_id = s.source_id
  ) u on true;
comment on view omni_v1.sources is 'Every file or object of every job, as prepare found it.';
comment on column omni_v1.sources.source_id is 'The source.';
comment on column omni_v1.sources.job_id is 'Its job.';
comment on column omni_v1.sources.source is 'Its place among the sources of the job, from 1.';
comment on column omni_v1.sources.name is 'File name.';
comment on column omni_v1.sources.uri is 'Where it was taken from.';
comment on column omni_v1.sources.tasks is 'What is done with it: transcribe, caption, document.';
comment on column omni_v1.sources.medium is 'What its bytes are: audio, video, image or document; null until prepared.';
comment on column omni_v1.sources.container is 'Container format, such as mp4 or pdf.';
comment on column omni_v1.sources.sha256 is 'SHA-256 of its bytes, hexadecimal.';
comment on column omni_v1.sources.size_bytes is 'Size.';
comment on column omni_v1.sources.duration_s is 'Length in seconds; null for pages.';
comment on column omni_v1.sources.pages is 'Number of pages; null for sound and video.';
comment on column omni_v1.sources.state is 'State of its job; failed when this source itself could not be read.';
comment on column omni_v1.sources.phase is 'Phase of its job.';
comment on column omni_v1.sources.error_type is 'Why there is no answer, one of a closed list; its own error before that of its job.';
comment on column omni_v1.sources.error_message is 'Why there is no answer, as a sentence.';
comment on column omni_v1.sources.units_total is 'Pieces of work on it known so far in the revision being worked on.';
comment on column omni_v1.sources.units_done is 'Those of units_total that are done.';
comment on column omni_v1.sources.units_dead is 'Those of units_total that are out of attempts.';
comment on column omni_v1.sources.reused_from is 'The job whose result was taken over instead of working again.';
comment on column omni_v1.sources.created_at is 'When it was submitted.';
comment on column omni_v1.sources.finished_at is 'When its job reached its last state.';

create or replace view omni_v1.coverage as
select c.job_id, c.source_id, s.name as source_name, c.position + 1 as entry, c.medium, c.state, c.reason,
       c.start_s, c.end_s, round((c.end_s - c.start_s)::numeric, 3) as duration_s, c.page
  from omni.coverage c
  join omni.jobs j on j.job_id = c.job_id and j.result_revision = c.revision
  left join omni.sources s on s.source_id = c.source_id;
comment on view omni_v1.coverage is
  'What became of every second of sound and video and of every page asked for. Entries of a medium leave no hole and do not overlap.';
comment on column omni_v1.coverage.job_id is 'The job.';
comment on column omni_v1.coverage.source_id is 'The source.';
comment on column omni_v1.coverage.source_name is 'File name of the source.';
comment on column omni_v1.coverage.entry is 'Its place among the entries of the source, from 1.';
comment on column omni_v1.coverage.medium is 'speech (sound asked to be transcribed), video or page.';
comment on column omni_v1.coverage.state is 'done, empty (looked at, nothing there) or failed (a gap).';
comment on column omni_v1.coverage.reason is 'Why it is empty or failed; of done, what is not known of it.';
comment on column omni_v1.coverage.start_s is 'Start in seconds; null for a page.';
comment on column omni_v1.coverage.end_s is 'End in seconds; null for a page.';
comment on column omni_v1.coverage.duration_s is 'Exact seconds from start to end; null for a page.';
comment on column omni_v1.coverage.page is 'Page number from 1; null for speech and video.';

create or replace view omni_v1.transcript_segments as
select t.job_id, t.source_id, s.name as source_name, t.position + 1 as segment, t.start_s, t.end_s, t.text, t.language,
       t.speaker, t.confidence
  from omni.segments t
  join omni.jobs j on j.job_id = t.job_id and j.result_revision = t.revision
  left join omni.sources s on s.source_id = t.source_id;
comment on view omni_v1.transcript_segments is 'What was said, sentence by sentence.';
comment on column omni_v1.transcript_segments.job_id is 'The job.';
comment on column omni_v1.transcript_segments.source_id is 'The source.';
comment on column omni_v1.transcript_segments.source_name is 'File name of the source.';
comment on column omni_v1.transcript_segments.segment is 'Its place in the transcript, from 1.';
comment on column omni_v1.transcript_segments.start_s is 'Start in seconds.';
comment on column omni_v1.transcript_segments.end_s is 'End in seconds.';
comment on column omni_v1.transcript_segments.text is 'The words as a reader sees them.';
comment on column omni_v1.transcript_segments.language is 'ISO 639-1 code; empty when unknown.';
comment on column omni_v1.transcript_segments.speaker is 'Who speaks, as a label; null when not told apart.';
comment on column omni_v1.transcript_segments.confidence is 'How sure the backend is, 0 to 1; null when it does not say.';

create or replace view omni_v1.transcript_words as
select t.job_id, t.source_id, s.name as source_name, t.position + 1 as segment, w.n::integer as word,
       (w.word ->> 'start_s')::double precision as start_s, (w.word ->> 'end_s')::double precision as end_s,
       w.word ->> 'text' as text, coalesce(w.word ->> 'speaker', t.speaker) as speaker,
       (w.word ->> 'confidence')::double precision as confidence, w.word ->> 'method' as method
  from omni.segments t
  join omni.jobs j on j.job_id = t.job_id and j.result_revision = t.revision
  left join omni.sources s on s.source_id = t.source_id
  cross join lateral jsonb_array_elements(t.words) with ordinality as w (word, n);
comment on view omni_v1.transcript_words is 'Every word that was said, with its times.';
comment on column omni_v1.transcript_words.job_id is 'The job.';
comment on column omni_v1.transcript_words.source_id is 'The source.';
comment on column omni_v1.transcript_words.source_name is 'File name of the source.';
comment on column omni_v1.transcript_words.segment is 'Its segment in transcript_segments.';
comment on column omni_v1.transcript_words.word is 'Its place in the segment, from 1.';
comment on column omni_v1.transcript_words.start_s is 'Start in seconds.';
comment on column omni_v1.transcript_words.end_s is 'End in seconds.';
comment on column omni_v1.transcript_words.text is 'The word with its punctuation.';
comment on column omni_v1.transcript_words.speaker is 'Who says it, as a label; null when not told apart.';
comment on column omni_v1.transcript_words.confidence is 'How sure the aligner is, 0 to 1; null when it does not say.';
comment on column omni_v1.transcript_words.method is 'How its times were found: alignment, whisper or estimated.';

create or replace view omni_v1.speakers as
select u.job_id, u.source_id, s.name as source_name, t.n::integer as turn, t.turn ->> 'speaker' as speaker,
       (t.turn ->> 'start_s')::double precision as start_s, (t.turn ->> 'end_s')::double precision as end_s
  from omni.units u
  join omni.jobs j on j.job_id = u.job_id and j.result_revision = u.revision
  left join omni.sources s on s.source_id = u.source_id
  cross join lateral jsonb_array_elements(u.answer -> 'turns') with ordinality as t (turn, n)
 where u.kind = 'speakers' and u.state = 'done';
comment on view omni_v1.speakers is 'Who speaks when, turn by turn; turns of two people may overlap.';
comment on column omni_v1.speakers.job_id is 'The job.';
comment on column omni_v1.speakers.source_id is 'The source.';
comment on column omni_v1.speakers.source_name is 'File name of the source.';
comment on column omni_v1.speakers.turn is 'Its place among the turns of the source, from 1.';
comment on column omni_v1.speakers.speaker is 'Who speaks, as a label: S1, S2, ... in order of first speech.';
comment on column omni_v1.speakers.start_s is 'Start in seconds.';
comment on column omni_v1.speakers.end_s is 'End in seconds.';

create or replace view omni_v1.captions as
select c.job_id, c.source_id, s.name as source_name, c.position + 1 as caption, c.start_s, c.end_s, c.text, c.sound,
       c.screen as screen_text, c.on_screen, c.evidence
  from omni.captions c
  join omni.jobs j on j.job_id = c.job_id and j.result_revision = c.revision
  left join omni.sources s on s.source_id = c.source_id;
comment on view omni_v1.captions is 'What a video shows, shot by shot.';
comment on column omni_v1.captions.job_id is 'The job.';
comment on column omni_v1.captions.source_id is 'The source.';
comment on column omni_v1.captions.source_name is 'File name of the source.';
comment on column omni_v1.captions.caption is 'Its place in the video, from 1.';
comment on column omni_v1.captions.start_s is 'Start of the shot in seconds.';
comment on column omni_v1.captions.end_s is 'End of the shot in seconds.';
comment on column omni_v1.captions.text is 'What can be said of the shot.';
comment on column omni_v1.captions.sound is 'What is heard: speech, sound, silence or none (no sound track).';
comment on column omni_v1.captions.screen_text is 'All text read on the screen, a line per place.';
comment on column omni_v1.captions.on_screen is 'Text read on the screen: [{text, box, time_s, confidence}], boxes in 0..1 of the frame.';
comment on column omni_v1.captions.evidence is 'What the caption rests on, as the backend measured it.';

create or replace view omni_v1.pages as
select p.job_id, p.source_id, s.name as source_name, p.page, p.width_pt, p.height_pt, p.rotation as rotation_deg,
       p.text_source, p.reason, p.text
  from omni.pages p
  join omni.jobs j on j.job_id = p.job_id and j.result_revision = p.revision
  left join omni.sources s on s.source_id = p.source_id;
comment on view omni_v1.pages is 'Pages of documents and images.';
comment on column omni_v1.pages.job_id is 'The job.';
comment on column omni_v1.pages.source_id is 'The source.';
comment on column omni_v1.pages.source_name is 'File name of the source.';
comment on column omni_v1.pages.page is 'Page number, from 1.';
comment on column omni_v1.pages.width_pt is 'Width in points (1/72 inch), as shown.';
comment on column omni_v1.pages.height_pt is 'Height in points, as shown.';
comment on column omni_v1.pages.rotation_deg is 'Degrees that the page was turned to be read.';
comment on column omni_v1.pages.text_source is 'Where its text is from: text_layer, ocr or none.';
comment on column omni_v1.pages.reason is 'Why the text layer was not used, where there was one.';
comment on column omni_v1.pages.text is 'Its text in reading order.';

create or replace view omni_v1.page_blocks as
select b.job_id, b.source_id, s.name as source_name, b.page, b.block, b.kind, b.text, b.rows as table_rows,
       b.x0 as x0_pt, b.y0 as y0_pt, b.x1 as x1_pt, b.y1 as y1_pt, b.confidence
  from omni.blocks b
  join omni.jobs j on j.job_id = b.job_id and j.result_revision = b.revision
  left join omni.sources s on s.source_id = b.source_id;
comment on view omni_v1.page_blocks is 'Paragraphs, headings, tables and other blocks of a page, in reading order, with their boxes.';
comment on column omni_v1.page_blocks.job_id is 'The job.';
comment on column omni_v1.page_blocks.source_id is 'The source.';
comment on column omni_v1.page_blocks.source_name is 'File name of the source.';
comment on column omni_v1.page_blocks.page is 'Page number, from 1.';
comment on column omni_v1.page_blocks.block is 'Its place on the page, from 1.';
comment on column omni_v1.page_blocks.kind is 'title, heading, text, list, table, caption, header, footer, figure or code.';
comment on column omni_v1.page_blocks.text is 'Its text.';
comment on column omni_v1.page_blocks.table_rows is 'Cells of a table as a list of rows; null for other blocks.';
comment on column omni_v1.page_blocks.x0_pt is 'Left edge in points from the left of the page as shown.';
comment on column omni_v1.page_blocks.y0_pt is 'Upper edge in points from the top of the page as shown.';
comment on column omni_v1.page_blocks.x1_pt is 'Right edge in points.';
comment on column omni_v1.page_blocks.y1_pt is 'Lower edge in points.';
comment on column omni_v1.page_blocks.confidence is 'How sure the reader is, 0 to 1; null when it does not say.';

create or replace view omni_v1.artifacts as
select a.job_id, a.source_id, s.name as source_name, a.name, a.format, a.media_type, a.size_bytes, a.sha256, a.key
  from omni.artifacts a
  join omni.jobs j on j.job_id = a.job_id and j.result_revision = a.revision
  left join omni.sources s on s.source_id = a.source_id;
comment on view omni_v1.artifacts is 'Files of a result.';
comment on column omni_v1.artifacts.job_id is 'The job.';
comment on column omni_v1.artifacts.source_id is 'The source it is about; null when it is about the whole job.';
comment on column omni_v1.artifacts.source_name is 'File name of the source.';
comment on column omni_v1.artifacts.name is 'File name of the artifact, unique in its job.';
comment on column omni_v1.artifacts.format is 'json, txt, srt, vtt, md or manifest.';
comment on column omni_v1.artifacts.media_type is 'Media type, such as application/json.';
comment on column omni_v1.artifacts.size_bytes is 'Size.';
comment on column omni_v1.artifacts.sha256 is 'SHA-256 of its bytes, hexadecimal.';
comment on column omni_v1.artifacts.key is 'Its key in the object store.';

create or replace view omni_v1.summaries as
select m.job_id, m.source_id, s.name as source_name, m.position + 1 as sentence, m.method, m.text, m.start_s, m.end_s,
       m.page
  from omni.summaries m
  join omni.jobs j on j.job_id = m.job_id and j.result_revision = m.revision
  left join omni.sources s on s.source_id = m.source_id;
comment on view omni_v1.summaries is 'Summary of a source, sentence by sentence, each with its place.';
comment on column omni_v1.summaries.job_id is 'The job.';
comment on column omni_v1.summaries.source_id is 'The source.';
comment on column omni_v1.summaries.source_name is 'File name of the source.';
comment on column omni_v1.summaries.sentence is 'Its place in the summary, from 1.';
comment on column omni_v1.summaries.method is 'extractive (sentences of the source itself) or model (written by a model).';
comment on column omni_v1.summaries.text is 'The sentence.';
comment on column omni_v1.summaries.start_s is 'Where its evidence starts, in seconds; null for pages.';
comment on column omni_v1.summaries.end_s is 'Where its evidence ends, in seconds; null for pages.';
comment on column omni_v1.summaries.page is 'The page of its evidence; null for sound and video.';

-- The shortest run of texts that answers the query, as [first, last]; null when none does, as for words that the parser
-- cuts otherwise when they stand alone. Two indices walk the texts once: a longer run never stops to match.
create or replace function omni.found_in(texts text[], q tsquery) returns integer[]
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  folded text[] := (select array_agg(omni.fold(t) order by n) from unnest(texts) with ordinality as x (t, n));
  low integer := 1;
  best integer[];
begin
  for high in 1 .. coalesce(cardinality(folded), 0) loop
    while low <= high and to_tsvector('simple', array_to_string(folded[low:high], ' ')) @@ q loop
      if best is null or high - low < best[2] - best[1] then
        best := array[low, high];
      end if;
      low := low + 1;
    end loop;
  end loop;
  return best;
end $$;

-- A piece of the text with the hit in **marks**. Words are marked as they stand there, with their accents.
create or replace function omni.marked(body text, q tsquery, lexemes text[]) returns text
language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
  select ts_headline('simple', body, coalesce(
    (select string_agg(quote_literal(raw.lexeme), ' | ')::tsquery
       from unnest(to_tsvector('simple', body)) as raw
      where tsvector_to_array(to_tsvector('simple', omni.fold(raw.lexeme))) && lexemes), q),
    'StartSel=**, StopSel=**, MinWords=12, MaxWords=32')
$$;

create or replace function omni_v1.search(query text, max_rows integer default 50)
returns table (
  job_id uuid, source_id uuid, source_name text, medium text, start_s double precision, end_s double precision,
  page integer, x0 double precision, y0 double precision, x1 double precision, y1 double precision,
  snippet text, rank real
)
-- The caller has no right on the tables: the function reads them as their owner, with names that nobody can redirect.
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  asked text := omni.fold(translate(query, '“”„«»', '"""""'));
  q tsquery := websearch_to_tsquery('simple', asked);
  lexemes text[] := array_remove(tsvector_to_array(to_tsvector('simple', asked)), 'or');
  most integer := greatest(0, least(max_rows, 1000));
begin
  -- A query of exclusions only would be answered by nearly everything, without an index.
  if numnode(q) = 0 or querytree(q) = 'T' then
    return;
  end if;
  -- offset 0: the text is looked up first, through its index; the planner might otherwise walk through a job.
  return query
  with hit as (
    (select 'speech' as medium, t.job_id, t.source_id, t.start_s, t.end_s, null::integer as page, t.text as body,
            t.words as parts, null::double precision[] as box, ts_rank(t.search, q, 1) as rank
       from (select * from omni.segments where search @@ q offset 0) t
       join omni.jobs j on j.job_id = t.job_id and j.result_revision = t.revision
      order by rank desc, t.job_id, t.source_id, t.start_s limit most)
    union all
    (select 'screen', c.job_id, c.source_id, c.start_s, c.end_s, null, c.screen,
            c.on_screen, null, ts_rank(c.search, q, 1) as rank
       from (select * from omni.captions where search @@ q offset 0) c
       join omni.jobs j on j.job_id = c.job_id and j.result_revision = c.revision
      order by rank desc, c.job_id, c.source_id, c.start_s limit most)
    union all
    (select 'page', b.job_id, b.source_id, null, null, b.page, b.text,
            null, array[b.x0, b.y0, b.x1, b.y1], ts_rank(b.search, q, 1) as rank
       from (select * from omni.blocks where search @@ q offset 0) b
       join omni.jobs j on j.job_id = b.job_id and j.result_revision = b.revision
      order by rank desc, b.job_id, b.source_id, b.page, b.block limit most)
    order by rank desc, job_id, source_id, start_s, page limit most
  )
  select h.job_id, h.source_id, s.name, h.medium,
         coalesce(p.start_s, h.start_s), coalesce(p.end_s, h.end_s), h.page,
         coalesce(p.x0, h.box[1]), coalesce(p.y0, h.box[2]), coalesce(p.x1, h.box[3]), coalesce(p.y1, h.box[4]),
         omni.marked(h.body, q, lexemes), h.rank
    from hit h
    join omni.sources s on s.source_id = h.source_id
    -- Which words of the segment, or lines of the screen, hold the hit.
    left join lateral omni.found_in(
      array(select coalesce(e ->> 'text', '') from jsonb_array_elements(h.parts) with ordinality as x (e, n) order by n), q
    ) as run (ends) on true
    left join lateral (
      select min((e ->> case h.medium when 'speech' then 'start_s' else 'time_s' end)::double precision) as start_s,
             max((e ->> 'end_s')::double precision) as end_s,
             min((e -> 'box' ->> 0)::double precision) as x0, min((e -> 'box' ->> 1)::double precision) as y0,
             max((e -> 'box' ->> 2)::double precision) as x1, max((e -> 'box' ->> 3)::double precision) as y1
        from jsonb_array_elements(h.parts) with ordinality as x (e, n)
       where n between run.ends[1] and run.ends[2]
    ) p on true
   order by h.rank desc, h.job_id, h.source_id, h.start_s, h.page;
end $$;
comment on function omni_v1.search(text, integer) is
  'Searches speech, text on screen and pages at once, best first: words are joined by and; "phrases", or, -without. '
  'Case and accents do not matter. Speech hits carry the times of the words found, screen hits the time and box (0..1 of '
  'the frame), page hits page and box (points).';

-- Readers. A login gets these rights by `grant omni_read to somebody`; the two settings hold for omni_read itself only,
-- since PostgreSQL does not hand settings down to members.
do $$
begin
  if not exists (select from pg_roles where rolname = 'omni_read') then
    create role omni_read nologin;
  end if;
  if not exists (
    select from pg_db_role_setting x join pg_roles r on r.oid = x.setrole
     where r.rolname = 'omni_read' and x.setdatabase = 0 and 'default_transaction_read_only=on' = any (x.setconfig)
  ) then
    alter role omni_read set statement_timeout = '30s';
    alter role omni_read set default_transaction_read_only = on;
  end if;
exception
  when insufficient_privilege then
    raise notice 'the role omni_read is missing or not ours to set: let an administrator create it, then migrate again';
  when duplicate_object or unique_violation then
    null;  -- another database of this server makes it at this moment
end $$;
revoke all on function omni_v1.search(text, integer) from public;
revoke all on function omni.found_in(text[], tsquery), omni.marked(text, tsquery, text[]) from public;
do $$
begin
  if exists (select from pg_roles where rolname = 'omni_read') then
    grant usage on schema omni_v1 to omni_read;
    grant select on all tables in schema omni_v1 to omni_read;
    grant execute on function omni_v1.search(text, integer) to omni_read;
  end if;
end $$;
