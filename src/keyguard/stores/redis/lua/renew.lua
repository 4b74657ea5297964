-- ops.Renew.  KEYS: the hashes.  ARGV: clock, demands, the number of each hold, fields.  Returns whether any is still held.
local lists, lives, found, from = {}, {}, 0, 1
for i = 4, #ARGV do
  local _, hash, lease
  _, hash, _, _, _, _, _, _, lease, from = unpack_(DEMAND, ARGV[2], from)
  local held = holds_of(hash, ARGV[i])
  local place = place_of(held, unpack_('<I8', ARGV[3], 8 * (i - 4) + 1))
  if place then
    lease_anew(held, place, lease)
    found = 1
  end
  write_holds(held, hash, ARGV[i], lists, lives)
end
write(lists, lives)
return found
