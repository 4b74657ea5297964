-- Write values if all keys hold what is expected.  ARGV: clock, then for each of KEYS three: its field, or nothing
-- if it is not a hash; '=' and the value expected, or nothing if none is; and '+', eight bytes of time to live
-- (0 for ever) and the new value, or '-' to delete, or nothing to leave it.  Returns 1 if it did.
for i, key in ipairs(KEYS) do
  local field, expected = ARGV[3 * i - 1], ARGV[3 * i]
  local entry
  if field == '' then entry = redis.call('GET', key) else entry = redis.call('HGET', key, field) end
  entry = living(entry)
  if (entry and '=' .. entry:sub(9) or '') ~= expected then return 0 end
end
for i, key in ipairs(KEYS) do
  local field, change = ARGV[3 * i - 1], ARGV[3 * i + 1]
  if change == '-' then
    if field == '' then redis.call('DEL', key) else redis.call('HDEL', key, field) end
  elseif change ~= '' then
    local ttl = unpack_('<I8', change, 2)
    if field ~= '' then
      write({ [i] = { field, pack('<I8', now + ttl) .. change:sub(10) } }, { [i] = ttl })
    elseif ttl == 0 then
      redis.call('SET', key, ('\0'):rep(8) .. change:sub(10))
    else
      redis.call('SET', key, pack('<I8', now + ttl) .. change:sub(10), 'PX', floor(ttl / 1000) + slack)
    end
  end
end
return 1
