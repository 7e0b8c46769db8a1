-- Store a new session, whole and with its expiry, or nothing.
-- KEYS[1]  the session's hash
-- ARGV     session id, operation, secret hash, idle ms, absolute ms or '', owner or '', then field, value, …
-- Gives    {'ok', session id, operation, version, now} or {'exists', session id, operation}

local key, id, operation = KEYS[1], ARGV[1], ARGV[2]

if redis.call('EXISTS', key) == 1 then
  local present = redis.pcall('HMGET', key, '@operations', '@version', '@touched')
  if not present.err and present[1] and string.find(' ' .. present[1] .. ' ', ' ' .. operation .. ' ', 1, true) then
    return {'ok', id, operation, present[2], present[3]}
  end
  return {'exists', id, operation}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function digits(number) return string.format('%.0f', number) end

local head = {
  '@id', id, '@secret', ARGV[3], '@version', '1', '@created', digits(now), '@renewed', digits(now),
  '@touched', digits(now), '@idle', ARGV[4], '@operations', operation,
}
local expires = now + ARGV[4]
if ARGV[5] ~= '' then
  local deadline = now + ARGV[5]
  expires = math.min(expires, deadline)
  head[#head + 1] = '@deadline'
  head[#head + 1] = digits(deadline)
end
if ARGV[6] ~= '' then
  head[#head + 1] = '@owner'
  head[#head + 1] = ARGV[6]
end
redis.call('HSET', key, unpack(head))
redis.call('PEXPIREAT', key, digits(expires))
for first = 7, #ARGV, 1000 do -- unpack puts all on Lua's stack, which is small
  redis.call('HSET', key, unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
return {'ok', id, operation, '1', digits(now)}
