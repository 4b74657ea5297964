-- ops.Acquire.  KEYS: what is shared, the states.  ARGV: clock; what is asked, as JSON; ids of 16 bytes each.
-- Returns 1, the time, the places of the group and of its key, the start, the number, whether it is a probe, and what was
-- booked of each unit; or 0, the time, the wait, and of each candidate its cause and when that is over (-1 for none).

-- The first key that may be used, its place; or nothing, and after how long one may be tried (-1 for never).
local function key_of(keys, probes)
  if #marks.order == 0 then return keys[1] and 1 or nil, -1 end
  local soonest = -1
  for place, id in ipairs(keys) do
    local block = mark(id)
    local wait = block and wait_of(block) or 0
    if wait < 0 then probes[#probes + 1] = block end
    if wait <= 0 then return place, 0 end
    if (block.probe < block.until_ or over_of(block) >= 0) and (soonest < 0 or wait < soonest) then soonest = wait end
  end
  return nil, soonest
end

-- The moment from which on a group has room, if it is asked for at a moment, whether it may be booked before that, and
-- the meter on which it hangs.
local function start_of(group, at)
  local start, ahead, last = at, true, nil
  if group.answered == 0 and group.number > 0 and group.number % 4 == 0 then
    start, ahead = max(at, group.at + SECOND), false
  end
  for _, m in ipairs(group.meters) do
    local units = spec.costs[m.unit + 1]
    if units > 0 then
      if units > m.limit and not has(m.flags, LEARNT) then return -1, false, m end
      local moment = room_at(m, units, at)
      if moment > start then start, last = moment, m end
      if moment > at and is_window(m) then ahead = false end
    end
  end
  return start, ahead, last
end

-- How a group could be used: start, key, probes; or nothing, the cause, when it is over, and when to try.
local function look(candidate, group)
  local probes, wait, cause, over = {}, 0, nil, -1
  for _, block in ipairs({ group.block, mark(candidate[5]) }) do
    local shut = wait_of(block)
    if shut < 0 then probes[#probes + 1] = block end
    if shut > wait then wait, cause, over = shut, block.cause, over_of(block) end
  end
  local key, later = key_of(candidate[2], probes)
  if not key then
    if later < 0 then return nil, INVALID, -1, -1 end
    if later > wait then wait, cause, over = later, INVALID, -1 end
  end
  local start, may_wait, meter = start_of(group, now + wait)
  if start < 0 then return nil, TOO_LARGE, -1, -1 end
  if wait > 0 then return nil, cause, over < 0 and -1 or max(over, start - now), start - now end
  if start > now and (#probes > 0 or not may_wait or start > now + spec.ahead) then
    return nil, meter and meter.period > HOUR and QUOTA or EXHAUSTED, start - now, start - now
  end
  return start, key, probes
end

local function book(group, start)
  group.changed = true
  if now - group.notes[1] >= 10 * SECOND then
    group.notes = { now, group.number, group.notes[1], group.notes[2] }
  end
  group.number = group.number + 1
  group.lately = min(group.lately + 1, 65535)
  for place, units in ipairs(spec.costs) do group.booked[place] = group.booked[place] + units end
  for _, m in ipairs(group.meters) do
    local units = spec.costs[m.unit + 1]
    if units > 0 then book_units(m, units, start) end
  end
end

local best, none, soonest = nil, {}, -1
for place, candidate in ipairs(spec.candidates) do
  if best and candidate[4] > spec.candidates[best.place][4] then break end
  local group = group_of(candidate)
  local start, key, probes, wait = look(candidate, group)
  if not start then
    none[#none + 1], none[#none + 2] = key, probes  -- the cause, and when it is over
    if wait >= 0 and (soonest < 0 or wait < soonest) then soonest = wait end
  elseif not best or start < best.start then
    best = { place = place, group = group, start = start, key = key, probes = probes }
    if start <= now then break end
  end
end

local found
if best then
  book(best.group, best.start)
  for _, block in ipairs(best.probes) do block.probe, marks.changed = now + 60 * SECOND, true end
  found = { 1, now, best.place - 1, best.key - 1, best.start - now, best.group.number, #best.probes > 0 and 1 or 0 }
  for _, units in ipairs(best.group.booked) do found[#found + 1] = units end
else
  found = { 0, now, soonest, unpack(none) }
end
write_all()
return found
