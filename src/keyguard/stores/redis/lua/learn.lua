-- ops.Learn.  KEYS: what is shared, the states.  ARGV: clock; the reports, as JSON; ids of 16 bytes each.
write_all()
return 1
