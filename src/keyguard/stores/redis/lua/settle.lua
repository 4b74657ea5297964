-- ops.Settle.  KEYS: the hashes.  ARGV: clock, demands, what is settled, fields.
-- What is settled is the settlement's token, the time of the Take, and for each demand its time to live and the change of
-- its cost. Or it is the token of a Take alone: then whatever was decided under it is undone, and may not happen later.
read(4, 1)

local function give_back(kind, entry, at, cost, a, b, c)
  if kind == SMOOTH then
    local micros, ticks = due_of(entry)
    local whole = floor(cost * a / TICKS)
    micros, ticks = micros - whole, ticks - (cost * a - whole * TICKS)
    if ticks < 0 then micros, ticks = micros - 1, ticks + TICKS end
    if micros < 0 then micros, ticks = 0, 0 end
    return pack('<I8I8', 0, micros) .. (ticks > 0 and pack('<I2', ticks) or '')
  end
  if #entry % 2 == 0 then
    local wanted, kept, found = pack('<I8', at), {}, 0
    for place = 9, #entry, 8 do
      local time = entry:sub(place, place + 7)
      if time == wanted and found < cost then found = found + 1 else kept[#kept + 1] = time end
    end
    return found > 0 and entry:sub(1, 8) .. table.concat(kept) or nil
  end
  local b = kind == LOG and -floor(-b / SLICES) or b
  local expiry, _, newest, total, count = unpack_('<I8c1I8I8I4', entry)
  local older, back = entry:sub(30), newest - floor(at / b)
  local found
  if back == 0 then
    found = min(cost, count)
    count = count - found
  else
    local place = #older - 4 * back + 1
    if back < 0 or place < 1 then return nil end
    local there = unpack_('<I4', older, place)
    found = min(cost, there)
    older = older:sub(1, place - 1) .. pack('<I4', there - found) .. older:sub(place + 4)
  end
  if found == 0 then return nil end
  local first = older:find('[^%z]')
  older = first and older:sub(first - (first - 1) % 4) or ''
  return pack('<I8c1I8I8I4', expiry, 'S', newest, total - found, count) .. older
end

local called_off, token, at, lists, lives = #ARGV[3] == 8, ARGV[3]:sub(1, 8), nil, {}, {}
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
for i = 4, #ARGV do
  local kind, hash, a, b, c, cost
  kind, hash, a, b, c, cost, from = unpack_('<I1I1I8I8I8I8', ARGV[2], from)
  local entry, lapses = living(entries[i - 2]), at + cost * a / TICKS  -- of a smooth limit: before that it has not drained
  local change = -cost
  if not called_off then
    lapses, change = unpack_('<i8i8', ARGV[3], 17 + 16 * (i - 4))
    lapses = at + lapses
  elseif kind == LOG then
    lapses = at + b
  elseif kind == WINDOW then
    lapses = (floor(at / b) + SLICES + 1) * b
  end
  if change > 0 then
    local new, ttl
    if kind == WINDOW then
      new, ttl = charge_window(entry, change, a, b, c)
    elseif kind == LOG then
      new, ttl = charge_log(entry, change, a, b)
    else
      new, ttl = charge_smooth(entry, change, a, b, c)
    end
    local list = lists[hash] or {}
    list[#list + 1], list[#list + 2] = ARGV[i], new
    lists[hash], lives[hash], changed = list, max(lives[hash] or 0, ttl), true
  elseif entry and change < 0 and at <= now and now < lapses then
    local left = give_back(kind, entry, at, -change, a, b, c)
    if left then
      changed = true
      local ttl = 0
      if #left > 8 then
        if kind == WINDOW then
          ttl = select(2, take_window(left, 0, a, b, c))
        elseif kind == LOG then
          ttl = select(2, take_log(left, 0, a, b))
        else
          ttl = select(2, take_smooth(left, 0, a, b, c))
        end
      end
      if ttl > 0 then
        local list = lists[hash] or {}
        list[#list + 1], list[#list + 2] = ARGV[i], pack('<I8', now + ttl) .. left:sub(9)
        lists[hash], lives[hash] = list, max(lives[hash] or 0, ttl)
      else
        redis.call('HDEL', KEYS[hash], ARGV[i])
      end
    end
  end
end
if changed and not called_off then
  local list = lists[1] or {}
  list[#list + 1], list[#list + 2] = '!', remembering(token, now)
  lists[1], lives[1] = list, max(lives[1] or 0, REMEMBERED)
end
write(lists, lives)
return 1
