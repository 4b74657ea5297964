-- ops.Take.  KEYS: the hashes.  ARGV: clock, demands, token, their fields.  Returns the outcome.
read(4, 1)
return charge(ARGV[3], 4, 1)
