-- Store a new session, whole and with its expiry, or nothing.
-- KEYS[1]  the session's hash
-- ARGV     1 'id operation secret-hash idle-ms absolute-ms', where an absolute of 0 is none; 2 owner or '';
--          then field, value, …
-- Gives    {'ok id operation', version, now} or {'exists id operation'}

local key = KEYS[1]
local id, operation, secret, idle, absolute = string.match(ARGV[1], '^(%S+) (%S+) (%S+) (%d+) (%d+)$')

if redis.call('EXISTS', key) == 1 then
  local present = redis.pcall('HMGET', key, '@operations', '@life')
  local at = not present.err and string.find(present[1] or '', operation, 1, true)
  while at and (#present[1] - at + 1) % 8 ~= 0 do at = string.find(present[1], operation, at + 1, true) end
  local version, created, touched = string.match(not present.err and present[2] or '', '^%[(%d+),(%d+),%d+,(%d+),')
  if at and version then return {'ok ' .. id .. ' ' .. operation, tonumber(version), created + touched} end
  return {'exists ' .. id .. ' ' .. operation}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function digits(number) return string.format('%.0f', number) end

local life = '[' .. table.concat({'1', digits(now), '0', '0', idle, absolute}, ',') .. ']'
local head = {'@ticket', id .. ' ' .. secret, '@life', life, '@operations', operation}
if ARGV[2] ~= '' then
  head[#head + 1] = '@owner'
  head[#head + 1] = ARGV[2]
end
redis.call('HSET', key, unpack(head))
local expiry = redis.pcall('PEXPIREAT', key, digits(now + (absolute == '0' and idle or math.min(idle, absolute))))
if type(expiry) == 'table' then -- it is forbidden here: then there shall be no key that lives for ever
  redis.call('UNLINK', key)
  return expiry
end
for first = 3, #ARGV, 1000 do -- unpack puts all on Lua's stack, which is small
  redis.call('HSET', key, unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
return {'ok ' .. id .. ' ' .. operation, 1, now}
