-- ops.Authenticate.  KEYS: the record, the hashes of the guesses.
-- ARGV: clock, guesses, token, digests (four bytes of place and 32 of digest each), fields.
-- Returns `{whether the key is valid, record, outcome}`: the outcome of the guesses, if it is not and there are any.
local entry = living(redis.call('GET', KEYS[1]))
local same, known, valid, record = false, true, false, ''
if entry then
  record, known = entry:sub(9), false
  local layout, flags, _, kind, place, pepper, not_before, not_after, digest = record:byte(1), 0
  if layout == 1 and #record >= 51 then
    _, place, not_before, not_after, digest = unpack_('<I1I2i8i8c32', record)
  elseif layout == 2 and #record >= 86 then
    _, kind, flags, pepper, not_before, not_after, digest = unpack_('<I1I1I2I2i8i8c32', record)
    place = kind * 65536 + pepper
  end
  for at = 1, #ARGV[4], 36 do
    local under, presented = unpack_('<I4c32', ARGV[4], at)
    -- equal strings are one object in Lua: comparing takes the same time whatever they hold
    if under == place then known, same = true, presented == digest end
  end
  valid = same and flags == 0 and not_before <= now and now < not_after
end
if valid then return { 1, record, outcome_of({ now, 0 }) } end
local outcome
if #KEYS > 1 and dated and outdated(5) then
  outcome = pack('<i8', now)
elseif #KEYS > 1 then
  read(5, 2)
  outcome = charge(ARGV[3], 5, 2)
else
  outcome = outcome_of({ now, 0 })
end
return { 0, (same or not known) and record or '', outcome }
