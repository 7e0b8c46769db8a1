-- Note that an owner has this session. An entry outlives its session at most until its score, when it is repaired.
-- KEYS[1]  the owner's sorted set: session ids, scored by the time when they end at the latest
-- ARGV     session id, ms for which the session may live from now on
-- Gives    {'ok', session id}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end -- what else stands here is no index
local ends = now + ARGV[2]
local left = redis.call('PTTL', KEYS[1])
-- What ended a minute ago or more goes, so that nobody's list grows without end. Not sooner: a cluster's nodes have clocks of
-- their own.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - 60000))
redis.call('ZADD', KEYS[1], string.format('%.0f', ends), ARGV[1])
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.max(ends, now + left)))
return {'ok', ARGV[1]}
