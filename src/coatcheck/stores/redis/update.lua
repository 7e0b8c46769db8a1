-- Apply one commit to a session: all of it, once, and never to a session that is gone. What it means is
-- `coatcheck.record.apply`; the order of the checks is the same.
-- KEYS[1]  the session's hash
-- ARGV     1 'id operation proof version-read retry unchanged idle-ms absolute-ms secret-hash grace-ms replaces retained sets
--          deletes increments', where - and 0 are none, retry and unchanged are 1 or 0, and the last four are numbers of
--          what follows, retained -1 to keep all; 2 owner or ''; then names…, field, value…, names…, name, addend…
-- Gives    {'ok id operation how', version, touched, sum, …}, where how is renewed, previous or -; or a word in place of ok

local key = KEYS[1]
local id, operation, proof, version_read, retry, unchanged, new_idle, absolute, new_secret, grace, replaces,
  retained_count, set_count, delete_count, increment_count = string.match(
  ARGV[1], '^(%S+) (%S+) (%S+) (%d+) ([01]) ([01]) (%d+) (%d+) (%S+) (%d+) (%S+) (%-?%d+) (%d+) (%d+) (%d+)$'
)
local function refuse(word, ...) return {word .. ' ' .. id .. ' ' .. operation, ...} end
local function digits(number) return string.format('%.0f', number) end

local head = redis.call('HMGET', key, '@ticket', '@life', '@previous', '@operations')
local stored_id, secret = string.match(head[1] or '', '^(%S+) (%S+)$')
local life = {string.match(head[2] or '', '^%[(%d+),(%d+),(%d+),(%d+),(%d+),(%d+)%]$')}
local exact = #life == 6
for at, text in ipairs(life) do
  if #text > 15 then exact = false end
  life[at] = tonumber(text)
end
if stored_id ~= id or not exact then return refuse(redis.call('EXISTS', key) == 1 and 'corrupt' or 'gone') end
local version, created, renewed_at, touched, idle, deadline = unpack(life) -- the third, fourth and sixth since creation
touched = created + touched
deadline = deadline > 0 and created + deadline or math.huge
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now >= math.min(touched + idle, deadline) then return refuse('gone') end

local sets_at = 3 + math.max(retained_count, 0)
local deletes_at = sets_at + 2 * set_count
local increments_at = deletes_at + delete_count
local increments_end = increments_at + 2 * increment_count - 1

local function answer(how) return {'ok ' .. id .. ' ' .. operation .. ' ' .. how, version, touched} end
local operations = head[4] or ''
local done = operation ~= '-' and string.find(operations, operation, 1, true)
while done and (#operations - done + 1) % 8 ~= 0 do done = string.find(operations, operation, done + 1, true) end
if done then
  local reply = answer(new_secret == secret and 'renewed' or '-')
  for at = increments_at, increments_end, 2 do
    reply[#reply + 1] = redis.call('HGET', key, ARGV[at]) or '0'
  end
  return reply
end
if retry == '1' and operation ~= '-' and version - version_read > 8 then return refuse('unknown') end
if proof ~= secret then
  local previous, until_ms = string.match(head[3] or '', '^(%S+) (%d+)$')
  if proof ~= previous or now >= tonumber(until_ms) then return refuse('gone') end
end
if unchanged == '1' and version ~= tonumber(version_read) then return refuse('conflict') end

local dropped = {}
if tonumber(retained_count) >= 0 then
  local kept = {}
  for at = 3, sets_at - 1 do kept[ARGV[at]] = true end
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
    if string.find(sum.err, 'not an integer', 1, true) then return refuse('no-integer', name) end
    if string.find(sum.err, 'overflow', 1, true) then return refuse('overflow', name) end
    return sum
  end
  sums[#sums + 1] = redis.call('HGET', key, name) -- as text: Lua's numbers have 53 bits
end

local head_after = {}
local function put(name, value)
  head_after[#head_after + 1] = name
  head_after[#head_after + 1] = value
end
if operation ~= '-' then
  version = version + 1
  put('@operations', string.sub(operations, -56) .. operation)
end
if absolute ~= '0' then deadline = now + absolute end
if ARGV[2] ~= '' then put('@owner', ARGV[2]) end
-- It may have taken place already, when a mere touch that renews is repeated.
local renewed = new_secret ~= '-' and (replaces == '-' or replaces == secret or new_secret == secret)
if renewed then
  renewed_at = math.max(0, now - created) -- clocks may have been set back
  put('@ticket', id .. ' ' .. new_secret)
  if grace ~= '0' then put('@previous', proof .. ' ' .. digits(now + grace)) end
end
touched = math.max(now, touched)
put('@life', '[' .. table.concat({
  digits(version), digits(created), digits(renewed_at), digits(touched - created), new_idle,
  deadline < math.huge and digits(math.max(1, deadline - created)) or '0',
}, ',') .. ']')

redis.call('HSET', key, unpack(head_after))
if renewed and grace == '0' then redis.call('HDEL', key, '@previous') end
for name in pairs(dropped) do redis.call('HDEL', key, name) end
for first = deletes_at, increments_at - 1, 1000 do -- unpack puts all on Lua's stack, which is small
  redis.call('HDEL', key, unpack(ARGV, first, math.min(first + 999, increments_at - 1)))
end
for first = sets_at, deletes_at - 1, 1000 do
  redis.call('HSET', key, unpack(ARGV, first, math.min(first + 999, deletes_at - 1)))
end
redis.call('PEXPIREAT', key, digits(math.min(touched + new_idle, deadline)))
local reply = answer(renewed and 'renewed' or proof ~= secret and 'previous' or '-')
for _, sum in ipairs(sums) do reply[#reply + 1] = sum end
return reply
