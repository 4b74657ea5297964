-- The values of some keys.  ARGV: clock, then for each of KEYS its field, or nothing if it is not a hash.
-- Returns the time and the values.
local values = { string.format('%.0f', now) }
for i, key in ipairs(KEYS) do
  local field = ARGV[1 + i]
  local entry
  if field == '' then entry = redis.call('GET', key) else entry = redis.call('HGET', key, field) end
  entry = living(entry)
  values[#values + 1] = entry and entry:sub(9) or false
end
return values
