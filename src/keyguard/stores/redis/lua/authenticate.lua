-- ops.Authenticate.  KEYS: the record, the hashes of the guesses.
-- ARGV: clock, guesses, token, digests (two bytes of pepper version and 32 of digest each), fields.
-- Returns `{verdict, record, outcome of the guesses}`; the verdict is one of these.
local GUESSING, VALID, INVALID, UNKNOWN = 0, 1, 2, 3

if #KEYS > 1 then
  read(5, 2)
  local refused, numbers = decide(5, false)
  if refused and not decisions:find(ARGV[3], 1, true) then return { GUESSING, '', charge(ARGV[3], 5, 2) } end
end
local entry = living(redis.call('GET', KEYS[1]))
local verdict, same, record = UNKNOWN, false, ''
if entry then
  local _, _, pepper, not_before, not_after, digest = unpack_('<I8I1I2i8i8c32', entry)
  verdict, record = INVALID, entry:sub(9)
  for at = 1, #ARGV[4], 34 do
    local version, presented = unpack_('<I2c32', ARGV[4], at)
    -- equal strings are one object in Lua: comparing takes the same time whatever they hold
    if version == pepper then same = presented == digest end
  end
  if same and not_before <= now and now < not_after then return { VALID, record, outcome_of({ now, 0 }) } end
end
return { verdict, same and record or '', #KEYS > 1 and charge(ARGV[3], 5, 2) or outcome_of({ now, 0 }) }
