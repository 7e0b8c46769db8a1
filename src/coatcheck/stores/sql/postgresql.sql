-- Create a session: the record with all its fields, or nothing. What it means is `coatcheck.record.created`.
-- Gives 'ok' or 'exists'.
CREATE FUNCTION {prefix}create(
  p_id text, p_operation text, p_secret text, p_idle bigint, p_absolute bigint, p_owner text,
  p_names text[], p_values text[],
  OUT outcome text, OUT new_version bigint, OUT touched bigint
) LANGUAGE plpgsql AS $$
DECLARE
  s {prefix}sessions%ROWTYPE;
BEGIN
  LOOP
    touched := floor(extract(epoch FROM clock_timestamp()) * 1000);
    s.expires_ms := touched + least(p_idle, p_absolute);
    INSERT INTO {prefix}sessions (
      id, secret_hash, version, created_ms, renewed_ms, touched_ms, idle_ms, deadline_ms,
      previous_until_ms, owner, operations, expires_ms, sweep_hour
    ) VALUES (
      p_id, p_secret, 1, touched, touched, touched, p_idle, touched + p_absolute,
      0, p_owner, p_operation, s.expires_ms, (s.expires_ms + 3599999) / 3600000
    ) ON CONFLICT (id) DO NOTHING;
    IF FOUND THEN
      INSERT INTO {prefix}fields SELECT p_id, each.* FROM unnest(p_names, p_values) each;
      outcome := 'ok';
      new_version := 1;
      RETURN;
    END IF;
    SELECT * INTO s FROM {prefix}sessions WHERE id = p_id FOR UPDATE;
    CONTINUE WHEN s.id IS NULL; -- deleted in between
    IF s.expires_ms <= floor(extract(epoch FROM clock_timestamp()) * 1000) THEN
      DELETE FROM {prefix}sessions WHERE id = p_id;
      CONTINUE;
    END IF;
    outcome := CASE WHEN {prefix}remembers(s.operations, p_operation) THEN 'ok' ELSE 'exists' END;
    new_version := s.version;
    touched := s.touched_ms;
    RETURN;
  END LOOP;
END $$
-- ;
-- Whether an operation is among the last ones, 8 characters each.
CREATE FUNCTION {prefix}remembers(p_operations text, p_operation text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  IF p_operation = '' OR strpos(p_operations, p_operation) = 0 THEN
    RETURN false;
  END IF;
  FOR at IN 1 .. length(p_operations) BY 8 LOOP
    IF substr(p_operations, at, 8) = p_operation THEN
      RETURN true;
    END IF;
  END LOOP;
  RETURN false;
END $$
-- ;
-- Apply one commit to a session: all of it, once, and never to a session that is gone. What it means is
-- `coatcheck.record.apply`; the order of the checks is the same. The row stays locked from its first look to the end, and
-- each statement after that sees what was committed before it, so no other commit comes in between.
-- Gives 'ok', 'gone', 'corrupt', 'unknown', 'conflict', 'no-integer' or 'overflow', with the field's name for the last two.
CREATE FUNCTION {prefix}update(
  p_id text, p_operation text, p_proof text, p_read_version bigint, p_retry boolean, p_unchanged boolean,
  p_idle bigint, p_absolute bigint, p_owner text, p_new_secret text, p_grace bigint, p_replaces text,
  p_retain text[], p_names text[], p_values text[], p_deletes text[], p_counters text[], p_addends bigint[],
  OUT outcome text, OUT new_version bigint, OUT touched bigint, OUT renewed boolean, OUT by_previous boolean,
  OUT sums bigint[], OUT field text
) LANGUAGE plpgsql AS $$
DECLARE
  s {prefix}sessions%ROWTYPE;
  now_ms bigint;
  counted text[] := '{}';
BEGIN
  SELECT * INTO s FROM {prefix}sessions WHERE id = p_id FOR NO KEY UPDATE;
  now_ms := floor(extract(epoch FROM clock_timestamp()) * 1000);
  outcome := CASE
    WHEN s.id IS NULL OR s.expires_ms <= now_ms THEN 'gone'
    WHEN s.version < 1 OR length(s.operations) % 8 <> 0 THEN 'corrupt'
  END;
  IF outcome IS NOT NULL THEN
    RETURN;
  END IF;

  IF {prefix}remembers(s.operations, p_operation) THEN
    outcome := 'ok';
    new_version := s.version;
    touched := s.touched_ms;
    renewed := p_new_secret IS NOT DISTINCT FROM s.secret_hash;
    by_previous := false;
    SELECT array_agg({prefix}counter(coalesce(f.value, '0'))::bigint ORDER BY c.at) INTO sums
    FROM unnest(p_counters) WITH ORDINALITY c(name, at)
    LEFT JOIN {prefix}fields f ON f.session_id = p_id AND f.name = c.name;
    RETURN;
  END IF;
  by_previous := p_proof <> s.secret_hash;
  outcome := CASE
    WHEN p_retry AND p_operation <> '' AND s.version - p_read_version > 8 THEN 'unknown'
    WHEN by_previous AND (p_proof IS DISTINCT FROM s.previous_hash OR now_ms >= s.previous_until_ms) THEN 'gone'
    WHEN p_unchanged AND s.version <> p_read_version THEN 'conflict'
  END;
  IF outcome IS NOT NULL THEN
    RETURN;
  END IF;

  IF cardinality(p_counters) > 0 THEN
    -- Before anything is written, because they alone can fail. A field that is not retained counts from 0.
    SELECT array_agg(CASE WHEN fits THEN sum::bigint END ORDER BY at), array_agg(sum::text ORDER BY at),
      (array_agg(CASE WHEN sum IS NULL THEN 'no-integer' ELSE 'overflow' END ORDER BY at) FILTER (WHERE NOT fits))[1],
      (array_agg(name ORDER BY at) FILTER (WHERE NOT fits))[1]
    INTO sums, counted, outcome, field
    FROM (
      SELECT at, name, sum, coalesce(sum BETWEEN -9223372036854775808 AND 9223372036854775807, false) AS fits
      FROM (
        SELECT c.at, c.name, {prefix}counter(coalesce(f.value, '0')) + c.addend AS sum
        FROM unnest(p_counters, p_addends) WITH ORDINALITY c(name, addend, at)
        LEFT JOIN {prefix}fields f
          ON f.session_id = p_id AND f.name = c.name AND {prefix}retains(p_retain, f.name)
      ) summed
    ) checked;
    IF outcome IS NOT NULL THEN
      RETURN;
    END IF;
  END IF;

  IF p_retain IS NOT NULL THEN
    DELETE FROM {prefix}fields WHERE session_id = p_id AND NOT {prefix}retains(p_retain, name);
  END IF;
  IF cardinality(p_deletes) > 0 THEN
    DELETE FROM {prefix}fields WHERE session_id = p_id AND name = ANY(p_deletes);
  END IF;
  IF cardinality(p_names) + cardinality(p_counters) > 0 THEN
    INSERT INTO {prefix}fields SELECT p_id, each.* FROM unnest(p_names || p_counters, p_values || counted) each
    ON CONFLICT (session_id, name) DO UPDATE SET value = excluded.value;
  END IF;

  outcome := 'ok';
  touched := greatest(now_ms, s.touched_ms);
  -- It may have taken place already, when a mere touch that renews is repeated.
  renewed := p_new_secret IS NOT NULL AND (p_replaces IS NULL OR s.secret_hash IN (p_replaces, p_new_secret));
  IF renewed THEN
    by_previous := false;
    s.secret_hash := p_new_secret;
    s.renewed_ms := now_ms;
    s.previous_hash := CASE WHEN p_grace > 0 THEN p_proof END;
    s.previous_until_ms := CASE WHEN p_grace > 0 THEN now_ms + p_grace ELSE 0 END;
  END IF;
  IF p_operation <> '' THEN
    s.version := s.version + 1;
    s.operations := right(s.operations || p_operation, 64);
  END IF;
  s.deadline_ms := coalesce(now_ms + p_absolute, s.deadline_ms);
  s.expires_ms := least(touched + p_idle, s.deadline_ms);
  new_version := s.version;
  UPDATE {prefix}sessions SET
    secret_hash = s.secret_hash, version = s.version, renewed_ms = s.renewed_ms, touched_ms = touched,
    idle_ms = p_idle, deadline_ms = s.deadline_ms, previous_hash = s.previous_hash,
    previous_until_ms = s.previous_until_ms, owner = coalesce(p_owner, s.owner), operations = s.operations,
    expires_ms = s.expires_ms, sweep_hour = (s.expires_ms + 3599999) / 3600000
  WHERE id = p_id;
END $$
-- ;
-- The 64-bit integer that a text spells exactly as Python's str(int) does; NULL for any other text.
CREATE FUNCTION {prefix}counter(p_text text) RETURNS numeric IMMUTABLE LANGUAGE sql AS $$
  SELECT CASE WHEN p_text ~ '^(0|-?[1-9][0-9]{0,18})$' THEN
    CASE WHEN p_text::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN p_text::numeric END
  END
$$
-- ;
-- Whether a field is retained: if it, or the map of which it is an entry, is named, or if all are.
CREATE FUNCTION {prefix}retains(p_retain text[], p_name text) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$
  SELECT p_retain IS NULL OR p_name = ANY(p_retain)
    OR (strpos(p_name, '[') > 0 AND right(p_name, 1) = ']' AND split_part(p_name, '[', 1) = ANY(p_retain))
$$
