-- ops.Take.  KEYS: the hashes, then the token.  ARGV: clock, demands, their fields.  Returns the outcome.
return charge(KEYS[#KEYS], decide(demands_of(ARGV[2], 3)))
