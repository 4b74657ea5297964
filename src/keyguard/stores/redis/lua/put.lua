-- Write or delete one plain value.  ARGV: clock; '+', eight bytes of time to live (0 for ever) and the value, or '-' to
-- delete; what must stand there: '=' and the value, '-' for none, or nothing for whatever does.
-- Returns 1 if it wrote: not if the same value stood there.
local key, change, expected = KEYS[1], ARGV[2], ARGV[3]
local entry = living(redis.call('GET', key))
local value = entry and entry:sub(9) or nil
if expected ~= '' and expected ~= (value and '=' .. value or '-') then return 0 end
if change == '-' then
  redis.call('DEL', key)
  return value and 1 or 0
end
local ttl = unpack_('<I8', change, 2)
local new = change:sub(10)
if value == new then return 0 end
if ttl == 0 then
  redis.call('SET', key, ('\0'):rep(8) .. new)
else
  redis.call('SET', key, pack('<I8', now + ttl) .. new, 'PX', floor(ttl / 1000) + slack)
end
return 1
