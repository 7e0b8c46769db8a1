-- Apply one commit to a session: all of it, once, and never to a session that is gone. What it means is
-- `coatcheck.record.apply`; the order of the checks is the same.
-- KEYS[1]  the session's hash
-- ARGV     1 session id, 2 operation or '', 3 proof, 4 version read, 5 retry '1' or '', 6 unchanged '1' or '',
--          7 idle ms, 8 absolute ms or '', 9 owner or '', 10 new secret hash or '', 11 grace ms, 12 replaces or '',
--          13 number of names to retain, or -1 to keep all; 14 of sets; 15 of deletes; 16 of increments;
--          then names…, field, value…, names…, name, addend…
-- Gives    {'ok', session id, operation, version, touched, 'renewed' or 'previous' or '', sum, …}, or a word and id, operation

local key, id, operation, proof = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local function refuse(word, ...) return {word, id, operation, ...} end
local function digits(number) return string.format('%.0f', number) end

local head = redis.call(
  'HMGET', key, '@id', '@secret', '@version', '@touched', '@idle', '@deadline', '@previous', '@operations'
)
-- Digits and nothing else, few enough to be exact: tonumber knows hexadecimal and nan too.
local function number(text) return text and #text <= 15 and string.match(text, '^%d+$') and tonumber(text) end
local version, touched, idle = number(head[3]), number(head[4]), number(head[5])
local deadline = number(head[6])
if head[1] ~= id or not head[2] or not version or not touched or not idle or (head[6] and not deadline) then
  return refuse(redis.call('EXISTS', key) == 1 and 'corrupt' or 'gone')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now >= math.min(touched + idle, deadline or math.huge) then return refuse('gone') end

local retained_count, set_count = tonumber(ARGV[13]), tonumber(ARGV[14])
local delete_count, increment_count = tonumber(ARGV[15]), tonumber(ARGV[16])
local sets_at = 17 + math.max(retained_count, 0)
local deletes_at = sets_at + 2 * set_count
local increments_at = deletes_at + delete_count
local increments_end = increments_at + 2 * increment_count - 1

local operations = head[8] or ''
if operation ~= '' and string.find(' ' .. operations .. ' ', ' ' .. operation .. ' ', 1, true) then
  local reply = {'ok', id, operation, head[3], head[4], ARGV[10] ~= '' and ARGV[10] == head[2] and 'renewed' or ''}
  for at = increments_at, increments_end, 2 do
    reply[#reply + 1] = redis.call('HGET', key, ARGV[at]) or '0'
  end
  return reply
end
if ARGV[5] ~= '' and operation ~= '' and version - ARGV[4] > 8 then return refuse('unknown') end
if proof ~= head[2] then
  local previous, until_ms = string.match(head[7] or '', '^(%x+) (%d+)$')
  if proof ~= previous or now >= tonumber(until_ms) then return refuse('gone') end
end
if ARGV[6] ~= '' and head[3] ~= ARGV[4] then return refuse('conflict') end

local dropped = {}
if retained_count >= 0 then
  local kept = {}
  for at = 17, sets_at - 1 do kept[ARGV[at]] = true end
  for _, name in ipairs(redis.call('HKEYS', key)) do
    local map = string.match(name, '^([^%[]*)%[.*%]$')
    if string.sub(name, 1, 1) ~= '@' and not kept[name] and not (map and kept[map]) then dropped[name] = true end
  end
end

-- The increments come first, because they alone can fail; then what they did is taken back. They share no field with
-- the rest, and a dropped field counts from 0.
local before, sums = {}, {}
for at = increments_at, increments_end, 2 do
  local name = ARGV[at]
  local text = redis.call('HGET', key, name)
  before[#before + 1] = {name, text}
  if dropped[name] then
    redis.call('HDEL', key, name)
    dropped[name] = nil
  end
  local sum = redis.pcall('HINCRBY', key, name, ARGV[at + 1])
  if type(sum) == 'table' then
    for _, one in ipairs(before) do
      if one[2] then redis.call('HSET', key, one[1], one[2]) else redis.call('HDEL', key, one[1]) end
    end
    if string.find(sum.err, 'not an integer', 1, true) then return refuse('not a counter', name, 'integer') end
    if string.find(sum.err, 'overflow', 1, true) then return refuse('not a counter', name, 'overflow') end
    return sum
  end
  sums[#sums + 1] = redis.call('HGET', key, name) -- as text: Lua's numbers have 53 bits
end

local head_after = {'@touched', digits(math.max(now, touched)), '@idle', ARGV[7]}
local function put(name, value)
  head_after[#head_after + 1] = name
  head_after[#head_after + 1] = value
end
if operation ~= '' then
  version = version + 1
  local remembered = {}
  for one in string.gmatch(operations, '%S+') do remembered[#remembered + 1] = one end
  put('@version', digits(version))
  put('@operations', table.concat(remembered, ' ', math.max(1, #remembered - 6)) .. ' ' .. operation)
end
if ARGV[8] ~= '' then
  deadline = now + ARGV[8]
  put('@deadline', digits(deadline))
end
if ARGV[9] ~= '' then put('@owner', ARGV[9]) end
-- It may have taken place already, when a mere touch that renews is repeated.
local renewed = ARGV[10] ~= '' and (ARGV[12] == '' or ARGV[12] == head[2] or ARGV[10] == head[2])
if renewed then
  put('@secret', ARGV[10])
  put('@renewed', digits(now))
  if ARGV[11] ~= '0' then put('@previous', proof .. ' ' .. digits(now + ARGV[11])) end
end

redis.call('HSET', key, unpack(head_after))
if renewed and ARGV[11] == '0' then redis.call('HDEL', key, '@previous') end
for name in pairs(dropped) do redis.call('HDEL', key, name) end
for first = deletes_at, increments_at - 1, 1000 do -- unpack puts all on Lua's stack, which is small
  redis.call('HDEL', key, unpack(ARGV, first, math.min(first + 999, increments_at - 1)))
end
for first = sets_at, deletes_at - 1, 1000 do
  redis.call('HSET', key, unpack(ARGV, first, math.min(first + 999, deletes_at - 1)))
end
touched = math.max(now, touched)
redis.call('PEXPIREAT', key, digits(math.min(touched + ARGV[7], deadline or math.huge)))
local how = renewed and 'renewed' or proof ~= head[2] and 'previous' or ''
local reply = {'ok', id, operation, digits(version), digits(touched), how}
for _, sum in ipairs(sums) do reply[#reply + 1] = sum end
return reply
