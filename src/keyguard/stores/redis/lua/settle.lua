-- ops.Settle.  KEYS: the hashes.  ARGV: clock, demands, what is settled, fields.
-- The third argument is the settlement's token, the time of the Take, and for each demand its time to live and the change of
-- its cost. Or it is the token of a Take alone: then whatever was decided under it is undone, and may not happen later.
-- Returns the time if the numbers of the demands hold for another one.
local called_off = #ARGV[3] == 8
if dated and not called_off and outdated(4) then return pack('<i8', now) end
read(4, 1)

local token, at, lists, lives = ARGV[3]:sub(1, 8), nil, {}, {}
local known = decisions:find(token, 1, true)
if called_off then
  if known then
    at = unpack_('<I8', decisions, known + 8)
    decisions = decisions:sub(1, known + 7) .. pack('<I8', at % CALLED_OFF + CALLED_OFF) .. decisions:sub(known + 16)
  else
    at = CALLED_OFF
    decisions = remembering(token, now + CALLED_OFF)
  end
  lists[1], lives[1] = { '!', decisions }, REMEMBERED
  if at >= CALLED_OFF then
    write(lists, lives)
    return 0
  end
else
  if known and unpack_('<I8', decisions, known + 8) % CALLED_OFF + REMEMBERED > now then return 0 end
  at = unpack_('<I8', ARGV[3], 9)
end

local from, changed = 1, called_off

local function put(hash, field, new, ttl)
  local list = lists[hash] or {}
  list[#list + 1], list[#list + 2] = field, new
  lists[hash], lives[hash], changed = list, max(lives[hash] or 0, ttl), true
end

for i = 4, #ARGV do
  local kind, hash, _, a, b, c, d, cost, lease
  kind, hash, _, a, b, c, d, cost, lease, from = unpack_(DEMAND, ARGV[2], from)
  kind = kinds[kind]
  local entry, expires, change = living(entries[i - 2]), nil, -cost
  if called_off then
    expires = kind.expires(at, cost, a, b, c, d)
  else
    expires, change = unpack_('<i8i8', ARGV[3], 17 + 16 * (i - 4))
    expires = at + expires
  end
  if lease > 0 then
    release_hold(hash, ARGV[i], called_off and at or expires - lease, lists, lives)
    change = cost + change  -- nothing was taken
  end
  if change > 0 then
    local new, ttl = kind.over(entry, change, a, b, c, d)
    if ttl > 0 then put(hash, ARGV[i], new, ttl) end
  elseif lease == 0 and entry and change < 0 and at <= now and now < expires then
    local left = kind.back(entry, at, -change, a, b, c, d)
    if left then
      changed = true
      local ttl = #left > 8 and select(2, kind.take(left, 0, a, b, c, d)) or 0
      if ttl > 0 then
        put(hash, ARGV[i], pack('<I8', now + ttl) .. left:sub(9), ttl)
      else
        redis.call('HDEL', KEYS[hash], ARGV[i])
      end
    end
  end
end
if changed and not called_off then put(1, '!', remembering(token, now), REMEMBERED) end
write(lists, lives)
return 1
