-- ops.Authenticate.  KEYS: the record, the hashes of the guesses, the token.
-- ARGV: clock, guesses, digests (two bytes of pepper version and 32 of digest each), fields.
-- Returns `{verdict, record, outcome of the guesses}`; the verdict is one of these.
local GUESSING, VALID, INVALID, UNKNOWN = 0, 1, 2, 3

local refused, outcome, changes = decide(demands_of(ARGV[2], 4))
if refused then return { GUESSING, '', charge(KEYS[#KEYS], refused, outcome, changes) } end
local record = living(redis.call('GET', KEYS[1]))
local verdict, same = UNKNOWN, false
if record then
  local _, pepper, not_before, not_after, digest = unpack_('<I1I2i8i8c32', record)
  verdict = INVALID
  for at = 1, #ARGV[3], 34 do
    local version, presented = unpack_('<I2c32', ARGV[3], at)
    -- equal strings are one object in Lua: comparing takes the same time whatever they hold
    if version == pepper then same = presented == digest end
  end
  if same and not_before <= now and now < not_after then return { VALID, record, pack('<i8i8', now, 0) } end
end
outcome = charge(KEYS[#KEYS], false, outcome, changes)
return { verdict, same and record or '', outcome }
