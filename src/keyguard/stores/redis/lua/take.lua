-- ops.Take.  KEYS: the hashes.  ARGV: clock, demands, token, their fields.  Returns the outcome, or the time.
if dated and outdated(4) then return pack('<i8', now) end
read(4, 1)
return charge(ARGV[3], 4, 1)
