-- Take out of an owner's index those sessions that were not found and had their time. One whose time has not come is
-- left in: it may be about to be created.
-- KEYS[1]  the owner's sorted set: session ids, scored by the time when they end at the latest
-- ARGV     session ids
-- Gives    {'ok', number taken out}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local removed = 0
for _, id in ipairs(ARGV) do
  local ends = redis.call('ZSCORE', KEYS[1], id)
  if ends and tonumber(ends) <= now then removed = removed + redis.call('ZREM', KEYS[1], id) end
end
return {'ok', removed}
